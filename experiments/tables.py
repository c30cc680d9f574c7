"""How likely are unseen rows of a table? A score network's exact likelihood, by its flow, beside classical densities.

The table is split several times into training and held-out rows; on each split everything is fitted and chosen on the
training rows. What counts is log p of the held-out rows, in nats per row, and differences of it on the same rows. The
network and the choice are in `experiments.tables_models`; a run that was killed goes on with --resume.

    python -m experiments.tables --table wine
    python -m experiments.tables --table breast_cancer
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import KFold

import dsm
from dsm import checkpoint, training
from experiments import record, tables_figures
from experiments import tables_models as models
from experiments.quality import single_threaded
from experiments.table_data import TableSplit, load_table
from experiments.tables_report import NETWORK, show, summary
from experiments.trainer import CHECKPOINTS, Evaluation, Trained, optimizer, train


def main(
    *,
    table: str = "wine",
    splits: int = 5,
    heldout: float = 0.2,
    folds: int = 5,
    networks: int = 3,
    width: int = 48,
    num_blocks: int = 2,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    ema_decay: float = 0.99,
    noise_mean: float = -0.8,
    noise_std: float = 1.2,
    sigmas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8),
    checkpoints: int = 15,
    resume: bool = False,
    seed: int = 0,
    out: Path | None = None,
) -> dict:
    """Compare the held-out log-likelihood of a score network, a Gaussian, a mixture of them, and kernels.

    Args:
        table: wine, breast_cancer, or a file: .csv, numbers below a line of names or not, every cell filled; .npz,
            an array x, or train and heldout. Columns of few values have no density: add noise to them first.
        splits: into training and held-out rows, with seeds `seed`, `seed` + 1, ...
        heldout: share of the rows that is held out.
        folds: of the training rows, by which everything is chosen, of the baselines too.
        networks: whose mean score is the model.
        width: of their layers.
        num_blocks: residual blocks of each.
        steps: of training at most; those that are taken are chosen.
        batch_size: rows a step, drawn with replacement.
        learning_rate: highest rate of Adam, between a warm-up and a cosine to 0.
        ema_decay: of the average of parameters that is measured.
        noise_mean: of log sigma in training, in coordinates where the rows have covariance I.
        noise_std: of log sigma.
        sigmas: noise scales that the density may keep; one is chosen.
        checkpoints: numbers of steps to choose from.
        resume: go on with the run in `out`; the same settings are needed.
        seed: of the first split, and of initialisation, folds and training.
        out: folder for the runs of the splits, metrics.json and the figure (default: results/tables/NAME).
    """
    arguments = locals()
    check(arguments)
    arguments["out"] = out = out or Path("results/tables") / Path(table).stem
    record.require_run(seed, out)
    parts = [load_table(table, seed=seed + i, heldout=heldout) for i in range(splits)]
    one = splits > 1 and np.array_equal(parts[0].train, parts[1].train)
    why = "brings its own split, or too few rows for another"
    record.require(not one, f"splits must be 1 for {table}, which {why}, got {splits}")
    record.require(
        folds <= len(parts[0].train), f"folds must be at most the {len(parts[0].train)} training rows, got {folds}"
    )
    clock, found, chosen, lines = record.Clock(), [], [], []
    network = dsm.ScoreMLP(width=width, num_blocks=num_blocks)
    density = None
    with jax.enable_x64(False), record.progress() as bar:
        for i, split in enumerate(parts):
            cut = KFold(folds, shuffle=True, random_state=seed + i)
            with single_threaded():
                own = models.views(split.train, cut)
            # Before the baselines, which take a while: another run's folder is refused here.
            trained, best = fit(clock, bar, i, network, own, arguments)
            with single_threaded():
                logs, choice = models.baselines(split.train, split.heldout, cut, own, seed + i)
            sigma_min = min(sigmas, key=lambda sigma: _order(best.numbers[models.name_of(sigma)]))
            params = jax.tree.map(lambda p: p[folds], best.state.ema)
            z = jnp.asarray(own.coordinates.of(split.heldout), jnp.float32)
            t_min = jnp.float32(models.t_of(sigma_min))
            density = density or clock.compile(partial(models.log_density, network=network), params, z, t_min)
            logs = {NETWORK: np.asarray(density(params, z, t_min), float) + own.coordinates.log_jacobian} | logs
            for name, values in logs.items():
                record.require(bool(np.isfinite(values).all()), f"split {i}: {name}: a log-likelihood is not finite")
            found.append({name: values + split.log_jacobian for name, values in logs.items()})
            steps_taken = {"steps": int(best.state.step), "sigma_min": sigma_min, "shrinkage": own.shrinkage}
            chosen.append({NETWORK: steps_taken} | choice)
            lines.append(trained.lines)
    return conclude(clock, parts, found, chosen, lines, arguments)


def check(given: dict[str, Any]) -> None:
    """Refuse what cannot be, by name."""
    least = {"splits": 1, "folds": 2, "networks": 1, "width": 1, "num_blocks": 1, "steps": 1, "batch_size": 1}
    for name, low in (least | {"checkpoints": 1}).items():
        record.require(given[name] >= low, f"{name} must be at least {low}, got {given[name]}")
    for name in ("learning_rate", "noise_std"):
        record.require(0 < given[name] < math.inf, f"{name} must be positive and finite, got {given[name]}")
    record.require(0 <= given["ema_decay"] < 1, f"ema_decay must be in [0, 1), got {given['ema_decay']}")
    record.require(math.isfinite(given["noise_mean"]), f"noise_mean must be finite, got {given['noise_mean']}")
    sigmas = given["sigmas"]
    fine = len(set(sigmas)) == len(sigmas) > 0 and all(0.01 <= sigma <= 10 for sigma in sigmas)
    record.require(fine, f"sigmas must be different, each 0.01 to 10, got {sigmas}")


def fit(
    clock: record.Clock, bar: Any, i: int, network: dsm.ScoreMLP, own: models.Views, a: dict[str, Any]
) -> tuple[Trained, checkpoint.Restored]:
    """Train all networks of a split, and return what the trainer leaves and the best of its checkpoints."""
    key_init, key_train, key_validate = jax.random.split(jax.random.fold_in(jax.random.key(a["seed"]), i), 3)
    rows = jnp.asarray(own.rows)
    params = models.init(key_init, network, own.rows.shape[2] - 1, own.rows.shape[1], a["networks"])
    folder = a["out"] / f"split {i}"
    shown = ("heldout", "seed", "folds", "networks", "width", "num_blocks", "learning_rate", "noise_mean")
    shown += ("noise_std", "sigmas", "checkpoints")
    trained = train(
        clock,
        bar,
        f"split {i + 1} of {a['splits']}",
        key_train,
        params,
        rows,
        batch_loss=training.per_example(
            partial(models.loss, network=network, mean=a["noise_mean"], std=a["noise_std"])
        ),
        optimizer=optimizer(a["learning_rate"], a["steps"], warmup=a["steps"] // 20),
        batch_size=a["batch_size"],
        steps=a["steps"],
        ema_decay=a["ema_decay"],
        every=-(-a["steps"] // a["checkpoints"]),
        evaluation=Evaluation(
            partial(models.validate, network=network, sigmas=a["sigmas"]),
            key_validate,
            (rows, jnp.asarray(own.log_jacobians)),
            best="validation",
        ),
        folder=folder,
        resume=a["resume"],
        keep=2,
        about={"table": Path(a["table"]).stem} | {name: a[name] for name in shown},
        seed=a["seed"],
    )
    return trained, checkpoint.restore(folder / CHECKPOINTS, trained.state, best="validation")


def conclude(
    clock: record.Clock,
    parts: list[TableSplit],
    found: list[dict[str, np.ndarray]],
    chosen: list[dict[str, dict]],
    lines: list[list[dict]],
    a: dict[str, Any],
) -> dict:
    """Compare, show and write the record."""
    train, rest = len(parts[0].train), len(parts[0].heldout)
    names = list(found[0])
    levels = {name: summary([logs[name] for logs in found], rest / train) for name in names}
    ahead = {name: summary([logs[NETWORK] - logs[name] for logs in found], rest / train) for name in names[1:]}
    title = f"{parts[0].name}: log p of {rest} held-out rows, {train} to train on, {len(parts)} split(s)"
    show(levels, ahead, title)
    metrics = {
        "nats_per_row": levels,
        "ahead": ahead,
        "chosen": chosen,
        "rows": {"train": train, "heldout": rest},
        "columns": len(parts[0].columns),
        "lines": lines,
    }
    figures = {"likelihood": tables_figures.likelihood(ahead, lines, parts[0].name)}
    return record.write(a["out"], arguments=a, metrics=metrics, figures=figures, clock=clock, dtype="float32")


def _order(value: float) -> float:
    return value if math.isfinite(value) else math.inf


if __name__ == "__main__":
    record.command(main)

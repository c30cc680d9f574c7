"""Question 1(d): does equation 2 learn low-density regions better than maximum likelihood, equation 1?

One energy network is fitted to a few draws of a known density p_D(x) by both equations, with the same optimiser, steps,
batches and initial parameters. As p_D is known, the error of the learned score, |s(x) - grad log p_D(x)|, is measured
wherever p_D is large or small: its root mean square over each tenth of log p_D, for points drawn from p_D, uniform on a
box around it, and uniform on the triangle between its modes. Equation 2 aims at the score of p_D smoothed by
N(0, sigma^2 I), so its error is also measured from there; the distance between the two true scores is a floor that no
amount of data removes. Two more models stand beside them: equation 2 over a ladder of noise scales, and equation 1 with
chains in place of quadrature.

python -m experiments.low_density
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from rich.progress import Progress

import dsm
from experiments import low_density_figures as draw
from experiments import record
from experiments.low_density_models import Model, make_models, names_of
from experiments.low_density_report import show
from experiments.low_density_statistics import summarise
from experiments.low_density_truth import Evaluation, Setting, box_grid, describe, evaluate, make_setting
from experiments.low_density_verdict import summarise_verdict, verdict


def main(
    *,
    seed: int = 0,
    seeds: int = 8,
    steps: int = 3000,
    batch_size: int = 256,
    train_size: int = 1000,
    sigmas: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0),
    ladder_size: int = 10,
    learning_rate: float = 2e-3,
    width: int = 64,
    nodes: int = 40,
    num_points: int = 10_000,
    out: Path = Path("results/low_density"),
) -> dict:
    """Fit an energy network by equation 1, equation 2 and variants of each; compare score errors by density.

    Args:
        seed: of everything random.
        seeds: repetitions, each with its own training set, initial parameters and noise.
        steps: of Adam.
        batch_size: training points of each step, drawn with replacement.
        train_size: number of training points.
        sigmas: noise scales of equation 2, a model each; the modes have standard deviations from 0.4 to 0.8.
        ladder_size: number of noise scales of the model over levels, from the data's spread to the least of sigmas.
        learning_rate: at the start of a cosine schedule.
        width: of both hidden layers of the energy network.
        nodes: of the quadrature of equation 1, along each axis.
        num_points: in each set of points on which scores are compared.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    least = {"seeds": 2, "steps": 1, "batch_size": 1, "train_size": 2, "width": 1, "nodes": 16, "num_points": 100}
    least["ladder_size"] = 2
    for name, low in least.items():
        record.require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    record.require(len(sigmas) > 0, "sigmas must hold at least one noise scale")
    for sigma in sigmas:
        record.require(0 < sigma < math.inf, f"sigmas must be positive and finite, got {sigma}")
    levels = sorted(sigmas)
    names = names_of(levels)
    record.require(len(set(names)) == len(names), f"sigmas must differ from each other, got {sigmas}")
    record.require(0 < learning_rate < math.inf, f"learning_rate must be positive, got {learning_rate}")
    record.require_run(seed, out)

    clock, network = record.Clock(), dsm.EnergyMLP(widths=(width, width))
    with jax.enable_x64(False), record.progress() as bar:
        models = make_models(
            network,
            levels,
            ladder_size=ladder_size,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
        )
        key_setting, key_seeds = jax.random.split(jax.random.key(seed))
        setting = make_setting(key_setting, num_points=num_points, nodes=nodes)
        fitted, found, seconds = learn(key_seeds, setting, models, clock, bar, seeds=seeds, train_size=train_size)
        truth = describe(setting, levels)
    quadrature_error = check_quadrature(models, fitted, found.log_partition, 3 * nodes)
    metrics = summarise(names, found, truth)
    metrics |= {"seconds_per_model": dict(zip(names, seconds, strict=True)), "quadrature_error": quadrature_error}
    metrics |= {"verdict": verdict(metrics), "summary": summarise_verdict(metrics)}
    show(metrics)
    figures = {
        "error_by_density": draw.deciles(metrics),
        "error_by_sigma": draw.sigmas(metrics, levels),
        # Of the first seed.
        "densities": draw.densities(names, setting.target, setting.fine, found.log_density[:, 0]),
        "error_maps": draw.error_maps(names, setting.target, setting.fine, found.error_map[:, 0]),
    }
    return record.write(out, arguments=arguments, metrics=metrics, figures=figures, clock=clock, dtype="float32")


def learn(
    key: Key[Array, ""],
    setting: Setting,
    models: list[Model],
    clock: record.Clock,
    bar: Progress,
    *,
    seeds: int,
    train_size: int,
) -> tuple[list[list[dict]], Evaluation, np.ndarray]:
    """Train and evaluate M models for each seed; models that differ by sigma alone share a program.

    Returns the parameters, the evaluations with axes [M, seeds] in front, and the seconds of one training, [M].
    """
    task = bar.add_task("low density", total=seeds * len(models), note="compiling")
    x_train, zero = jax.ShapeDtypeStruct((train_size, 2), jnp.float32), jnp.zeros(())
    trained, assessed = {}, {}
    for _, train, energy, _ in models:
        if train not in trained:
            trained[train] = clock.compile(train, key, x_train, setting.grid, zero)
        if energy not in assessed:
            params, _ = jax.eval_shape(train, key, x_train, setting.grid, zero)
            assessed[energy] = clock.compile(
                lambda params, setting, sigma, energy=energy: evaluate(energy(params), setting, sigma),
                params,
                setting,
                zero,
            )

    fitted, found = [[] for _ in models], [[] for _ in models]
    seconds = np.zeros(len(models))
    for i in range(seeds):
        # One key for all models of a seed: they share data and, where the network is the same, initial parameters, so
        # differences are paired. All but the one with chains share batches too.
        key_data, key_train = jax.random.split(jax.random.fold_in(key, i))
        x_train = setting.target.sample(key_data, train_size)
        for m, (name, train, energy, sigma) in enumerate(models):
            start, scale = clock.run_seconds, jnp.asarray(sigma, zero.dtype)
            params, losses = trained[train](key_train, x_train, setting.grid, scale)
            seconds[m] += (clock.run_seconds - start) / seeds
            record.require(bool(jnp.isfinite(losses).all()), f"seed {i}, {name}: the loss is not finite")
            fitted[m].append(params)
            found[m].append(assessed[energy](params, setting, scale))
            bar.update(task, advance=1, note=f"seed {i + 1} of {seeds}")
    rows = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *row) for row in found]
    return fitted, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), seconds


def check_quadrature(
    models: list[Model], fitted: list[list[dict]], log_partition: Float[Array, "M S 2"], nodes: int
) -> dict[str, float]:
    """Return the largest error of log Z in float32 on either grid, against float64 and `nodes` along each axis."""
    with jax.enable_x64(True):
        grid = box_grid(nodes)
        exact = {
            energy: jax.jit(lambda params, energy=energy: dsm.log_partition(energy(params), grid))
            for energy in {model.energy for model in models}
        }
        doubles = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), fitted)
        truth = np.array(
            [[exact[model.energy](params) for params in row] for model, row in zip(models, doubles, strict=True)]
        )
    error = np.abs(np.asarray(log_partition) - truth[:, :, None])
    return {"equation 1, in training": float(error[0, :, 0].max()), "all models, compared": float(error[:, :, 1].max())}


if __name__ == "__main__":
    record.command(main)

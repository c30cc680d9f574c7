"""Handwritten digits from noise: Section 1 at work on real images, scored against data that nothing was fitted on.

A score network is trained by equation (2) over a ladder of noise scales, the loss of each weighted by
sigma^2, and sampled by annealed Langevin dynamics that ends on a denoising step. `experiments.quality`
defines the numbers and the baselines.

    python -m experiments.digits
"""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from rich.table import Table

import dsm
from experiments import data, quality, record

CHUNK = 250
MODEL = "score network"
GOAL = {"frechet": 3.3, "coverage": 0.85, "nearest_neighbour_ratio": 0.5}


def main(
    *,
    steps: int = 8000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    ema_decay: float = 0.9995,
    width: int = 512,
    num_blocks: int = 3,
    sigma_max: float = 10.0,
    sigma_min: float = 0.1,
    num_levels: int = 30,
    steps_per_level: int = 16,
    relative_step: float = 0.06,
    num_samples: int = 797,
    draws: int = 4,
    seed: int = 0,
    out: Path = Path("results/digits"),
) -> dict:
    """Train a score network on 1000 digits, sample new ones, and measure them against 797 held-out digits.

    Args:
        steps: of training. batch_size: images a step, drawn with replacement. learning_rate: highest rate
        of Adam, after a warm-up over the first tenth (500 steps at most), before a cosine. ema_decay: of
        the average of parameters that is sampled from. width: of the network. num_blocks: residual blocks
        of the network. sigma_max: largest noise scale; the data have a mean square of 1 for each pixel.
        sigma_min: smallest noise scale; one grey value is 0.23. num_levels: noise scales, in geometric
        progression. steps_per_level: Langevin steps at each noise scale. relative_step: Langevin step in
        units of sigma^2. num_samples: images of one draw; 797 is the size of the held-out half, for which
        the goal is stated. draws: independent draws that every number is averaged over. seed: of
        initialisation, training and sampling; the halves and the metric's classifier do not depend on it.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    least = {"steps": 1, "batch_size": 1, "width": 1, "num_blocks": 1, "num_levels": 2, "steps_per_level": 1}
    # Fewer samples than pixels would still have a Frechet distance, but not one to compare with.
    for name, low in (least | {"num_samples": 64, "draws": 1, "seed": 0}).items():
        record.require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    record.require(num_samples <= data.DIGITS_TRAIN, f"num_samples must be at most 1000, got {num_samples}")
    record.require(0 < learning_rate < math.inf, f"learning_rate must be positive, got {learning_rate}")
    record.require(0 <= ema_decay < 1, f"ema_decay must be in [0, 1), got {ema_decay}") record.require(0 <
    sigma_min < math.inf, f"sigma_min must be positive, got {sigma_min}") record.require(sigma_min <
    sigma_max < math.inf, f"sigma_max must exceed sigma_min, got {sigma_max}") record.require(0 <
    relative_step < 2, f"relative_step must be in (0, 2), where it is stable, got {relative_step}")
    record.require_writable(out)

    clock = record.Clock()
    split = data.digits()
    scaling = data.scaling(split.train)
    x_train = jnp.asarray(scaling.standardise(split.train), jnp.float32)
    sigmas = jnp.asarray(dsm.geometric_sigmas(sigma_max, sigma_min, num_levels), jnp.float32)
    network = dsm.ScoreMLP(width=width, num_blocks=num_blocks)
    key_init, key_train, key_sample = jax.random.split(jax.random.key(seed), 3)
    params = clock(network.init, key_init, x_train[0], sigmas[0])

    def loss(key, params, x):
        return dsm.denoising_over_levels(key, lambda x, sigma: network.apply(params, x, sigma), x, sigmas)

    warmup = min(500, steps // 10)
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps))

    def train(key, state, x_train, *, num_steps):
        return dsm.training.fit(
            key,
            state,
            x_train,
            batch_loss=dsm.training.per_example(loss),
            optimizer=optimizer,
            batch_size=batch_size,
            num_steps=num_steps,
            ema_decay=ema_decay,
        )

    def sample(key, params):
        def chain(key):
            key_start, key_chain = jax.random.split(key)
            return dsm.annealed_langevin(
                key_chain,
                lambda x, sigma: network.apply(params, x, sigma),
                sigmas[0] * jax.random.normal(key_start, x_train[0].shape, x_train.dtype),
                sigmas,
                steps_per_level=steps_per_level,
                step_size=relative_step * sigmas[-1] ** 2,
            )

        return jax.vmap(chain)(jax.random.split(key, num_samples))

    state, losses = dsm.training.init(params, optimizer), []
    with record.progress() as bar:
        task = bar.add_task("training", total=steps, note="")
        for num_steps, repeats in ((CHUNK, steps // CHUNK), (steps % CHUNK, 1)):
            if num_steps * repeats == 0:
                continue
            advance = clock.compile(partial(train, num_steps=num_steps), key_train, state, x_train)
            for _ in range(repeats):
                state, infos = advance(key_train, state, x_train)
                losses.append(np.asarray(infos.loss))
                bar.update(task, advance=num_steps, note=f"loss {losses[-1].mean():.2f}")
        task = bar.add_task("sampling", total=draws, note="")
        draw = clock.compile(sample, key_sample, state.ema)
        generated, diverged = [], 0
        for i in range(draws):
            x, history = draw(jax.random.fold_in(key_sample, i), state.ema)
            generated.append(scaling.pixels(x))
            diverged += int(history.diverged.any(axis=1).sum())
            bar.update(task, advance=1)

    losses = np.concatenate(losses)
    classifier = quality.fit_classifier(split)
    rng = np.random.default_rng(seed)
    images = {MODEL: generated} | quality.baselines(rng, split, num_samples, draws)
    measure = quality.judge(split, classifier)
    table = {name: [measure(pixels) for pixels in sets] for name, sets in images.items()}
    summary = {name: summarise(rows) for name, rows in table.items()}
    show(summary, draws)
    metrics = {
        **{name: summary[MODEL][name]["mean"] for name in quality.Quality._fields},
        "goal": GOAL,
        "goal_reached": reached(summary[MODEL]),
        "table": summary,
        "digits_drawn": np.bincount(classifier.labels(np.concatenate(generated)), minlength=10) / draws,
        "classifier_accuracy_heldout": np.mean(classifier.labels(split.heldout) == split.heldout_labels),
        "loss_last_tenth": losses[-math.ceil(steps / 10) :].mean(),
        "chains_diverged": diverged,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }
    figures = {
        "samples": draw_samples(rng, generated[0], split.heldout), "training": draw_training(losses),
        "annealing": draw_annealing(np.asarray(history.x[:8]), np.asarray(x[:8]), np.asarray(sigmas),
        scaling), } return record.write( out, arguments=arguments, metrics=metrics, figures=figures,
        clock=clock, dtype="float32" )


def summarise(rows: list[quality.Quality]) -> dict[str, dict]:
    """Mean over draws of every number, and its standard error (None for one draw)."""
    columns = {name: np.array(column) for name, column in zip(quality.Quality._fields, zip(*rows,
    strict=True), strict=True)} return { name: { "mean": column.mean(), "standard_error": column.std(ddof=1)
    / math.sqrt(len(column)) if len(column) > 1 else None, } for name, column in columns.items() }


def reached(summary: dict[str, dict]) -> dict[str, bool]:
    """Whether the means meet the goal: a Frechet distance below it, the others above."""
    return {
        name: bool(summary[name]["mean"] < goal if name == "frechet" else summary[name]["mean"] > goal)
        for name, goal in GOAL.items()
    }


def show(summary: dict[str, dict], draws: int) -> None:
    """Print the table."""
    titles = ("Fréchet", "coverage", "coverage, pixels", "nearest neighbour")
    table = Table("images from", *titles, title=f"Digits against the held-out half, mean of {draws} draws")
    for name, numbers in summary.items():
        cells = (
            f"{n['mean']:.3g}" + (f" ± {n['standard_error']:.1g}" if n["standard_error"] is not None else "")
            for n in numbers.values()
        )
        table.add_row(name, *cells)
    table.add_section() table.add_row("goal", *(f"{'<' if name == 'frechet' else '>'} {GOAL[name]}" if name
    in GOAL else "" for name in quality.Quality._fields)) record.console.print(table)


def draw_samples(rng: np.random.Generator, generated: np.ndarray, heldout: np.ndarray) -> Figure:
    """Draw the first generated digits beside held-out ones, none of them chosen."""
    figure = Figure(figsize=(9, 4.8), layout="constrained") titles = ("generated", "held out") for ax,
    title, images in zip(figure.subplots(1, 2), titles, (generated, rng.permutation(heldout)), strict=True):
    ax.imshow(tile(images, 8, 8), cmap="gray_r", vmin=data.WHITE, vmax=data.BLACK) ax.set(title=title,
    xticks=[], yticks=[]) return figure


def draw_training(losses: np.ndarray) -> Figure:
    """Draw the loss of every minibatch and its running mean."""
    window = max(1, len(losses) // 100) mean = np.convolve(losses, np.full(window, 1 / window),
    mode="valid") figure = Figure(figsize=(7, 3.6), layout="constrained") ax = figure.subplots()
    ax.plot(losses, lw=0.4, alpha=0.4, label="minibatch") ax.plot(np.arange(len(mean)) + window - 1, mean,
    label=f"mean of {window} steps") ax.set(xlabel="step", ylabel="σ² · equation (2)", yscale="log",
    title="training loss, mean over noise levels") ax.legend() return figure


def draw_annealing(path: np.ndarray, last: np.ndarray, sigmas: np.ndarray, scaling: data.Scaling) -> Figure:
    """Draw chains from noise to digits: path[c, l] after level l, and last[c] after the denoising step."""
    levels = np.unique(np.linspace(0, len(sigmas) - 1, 11).round().astype(int)) # Divided by the standard
    deviation that data and noise have together, so that the first levels show more than black and white.
    spread = np.sqrt(1 + sigmas[levels] ** 2)[:, None] figure = Figure(figsize=(9, 6.2),
    layout="constrained") ax = figure.subplots() rows = [scaling.pixels(np.concatenate([chain[levels] /
    spread, end[None]])) for chain, end in zip(path, last, strict=True)]
    ax.imshow(tile(np.concatenate(rows), len(rows), len(levels) + 1), cmap="gray_r", vmin=data.WHITE,
    vmax=data.BLACK) ax.set_xticks(9 * np.arange(len(levels) + 1) + 4, [f"{sigma:.2g}" for sigma in
    sigmas[levels]] + ["denoised"]) ax.set(xlabel="after the level σ (data and noise rescaled to one
    standard deviation)", yticks=[], title="annealed Langevin: one chain a row") return figure


def tile(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Lay rows * columns images of 8 x 8 on a sheet with gaps of one pixel."""
    sheet = np.full((rows, columns, 9, 9), np.nan)
    sheet[:, :, :8, :8] = images[: rows * columns].reshape(rows, columns, 8, 8)
    return sheet.transpose(0, 2, 1, 3).reshape(9 * rows, 9 * columns)[:-1, :-1]


if __name__ == "__main__":
    record.command(main)

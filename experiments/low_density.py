"""Question 1(d): does equation 2 learn low-density regions better than maximum likelihood, equation 1?

One energy network is fitted to a few draws of a known density p_D(x) by both equations, with the same optimiser, steps,
batches and initial parameters. As p_D is known, the error of the learned score, |s(x) - grad log p_D(x)|, is measured
wherever p_D is large or small: its root mean square over each tenth of log p_D, for points drawn from p_D, uniform on a
box around it, and uniform on the triangle between its modes. Equation 2 aims at the score of p_D smoothed by
N(0, sigma^2 I), so its error is also measured from there; the distance between the two true scores is a floor that no
amount of data removes.

python -m experiments.low_density
"""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from rich.progress import Progress

import dsm
from experiments import low_density_figures as draw
from experiments import record
from experiments.low_density_report import DENOISING, LIKELIHOOD, show, summarise, summarise_verdict, verdict
from experiments.low_density_truth import Evaluation, Setting, box_grid, describe, evaluate, make_setting
from experiments.training_run import energy_of


def train(
    key: Key[Array, ""],
    x_train: Float[Array, "N 2"],
    network: dsm.EnergyMLP,
    batch_loss: dsm.training.BatchLoss,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> tuple[dict, Float[Array, " steps"]]:
    """Return the averaged parameters of a fresh network after Adam, and the losses. `key` is consumed."""
    key_init, key_step = jax.random.split(key)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    # Not `training.fit`, which is jitted over a static loss: this one may hold a traced sigma.
    def step(state, _):
        key = jax.random.fold_in(key_step, state.step)
        return dsm.training.step(key, state, x_train, batch_loss=batch_loss, optimizer=optimizer, batch_size=batch_size)

    state = dsm.training.init(network.init(key_init, x_train[0]), optimizer)
    state, infos = jax.lax.scan(step, state, length=steps)
    return state.ema, infos.loss


def main(
    *,
    seed: int = 0,
    seeds: int = 8,
    steps: int = 3000,
    batch_size: int = 256,
    train_size: int = 1000,
    sigmas: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0),
    learning_rate: float = 2e-3,
    width: int = 64,
    nodes: int = 40,
    num_points: int = 10_000,
    out: Path = Path("results/low_density"),
) -> dict:
    """Fit one energy network by equation 1, and by equation 2 for several sigma; compare score errors by density.

    Args:
        seed: of everything random.
        seeds: repetitions, each with its own training set, initial parameters and noise.
        steps: of Adam.
        batch_size: training points of each step, drawn with replacement.
        train_size: number of training points.
        sigmas: noise scales of equation 2, a model each; the modes have standard deviations from 0.4 to 0.8.
        learning_rate: at the start of a cosine schedule.
        width: of both hidden layers of the energy network.
        nodes: of the quadrature of equation 1, along each axis.
        num_points: in each set of points on which scores are compared.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    least = {"seeds": 2, "steps": 1, "batch_size": 1, "train_size": 2, "width": 1, "nodes": 16, "num_points": 100}
    for name, low in least.items():
        record.require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    record.require(len(sigmas) > 0, "sigmas must hold at least one noise scale")
    for sigma in sigmas:
        record.require(0 < sigma < math.inf, f"sigmas must be positive and finite, got {sigma}")
    levels = sorted(sigmas)
    names = [LIKELIHOOD, *(f"{DENOISING}σ = {sigma:g}" for sigma in levels)]
    record.require(len(set(names)) == len(names), f"sigmas must differ from each other, got {sigmas}")
    record.require(0 < learning_rate < math.inf, f"learning_rate must be positive, got {learning_rate}")
    record.require_run(seed, out)

    clock, network = record.Clock(), dsm.EnergyMLP(widths=(width, width))
    budget = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    with jax.enable_x64(False), record.progress() as bar:
        key_setting, key_seeds = jax.random.split(jax.random.key(seed))
        setting = make_setting(key_setting, num_points=num_points, nodes=nodes)
        models, found, seconds = learn(
            key_seeds,
            setting,
            network,
            clock,
            bar,
            seeds=seeds,
            train_size=train_size,
            names=names,
            levels=levels,
            budget=budget,
        )
        truth = describe(setting, levels)
    quadrature_error = check_quadrature(network, models, found.log_partition, 3 * nodes)
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
    network: dsm.EnergyMLP,
    clock: record.Clock,
    bar: Progress,
    *,
    seeds: int,
    train_size: int,
    names: list[str],
    levels: list[float],
    budget: dict[str, Any],
) -> tuple[list[list[dict]], Evaluation, np.ndarray]:
    """Train and evaluate M = 1 + len(levels) models for each seed; three programs are compiled, whatever M.

    Returns the parameters, the evaluations with axes [M, seeds] in front, and the seconds of one training, [M].
    """

    def equation_1(key, x_train, grid):
        def loss(key, params, batch):
            return dsm.negative_log_likelihood(energy_of(network, params), batch, grid)

        return train(key, x_train, network, loss, **budget)

    def equation_2(key, x_train, sigma):
        def loss(key, params, x):
            return dsm.denoising(key, dsm.score_of(energy_of(network, params)), x, sigma)

        return train(key, x_train, network, dsm.training.per_example(loss), **budget)

    def assess(params, setting, sigma):
        return evaluate(energy_of(network, params), setting, sigma)

    task = bar.add_task("low density", total=seeds * (1 + len(levels)), note="compiling")
    x_train, zero = jax.ShapeDtypeStruct((train_size, 2), jnp.float32), jnp.zeros(())
    by_likelihood = clock.compile(equation_1, key, x_train, setting.grid)
    by_denoising = clock.compile(equation_2, key, x_train, zero)
    params, _ = jax.eval_shape(equation_2, key, x_train, zero)
    assessed = clock.compile(assess, params, setting, zero)

    models, found = [[] for _ in (0, *levels)], [[] for _ in (0, *levels)]
    seconds = np.zeros(1 + len(levels))
    for i in range(seeds):
        # One key for all models of a seed: they share data, initial parameters and batches, and differences are paired.
        key_data, key_train = jax.random.split(jax.random.fold_in(key, i))
        x_train = setting.target.sample(key_data, train_size)
        for m, sigma in enumerate(jnp.asarray([0.0, *levels])):
            start = clock.run_seconds
            if m == 0:
                params, losses = by_likelihood(key_train, x_train, setting.grid)
            else:
                params, losses = by_denoising(key_train, x_train, sigma)
            seconds[m] += (clock.run_seconds - start) / seeds
            record.require(bool(jnp.isfinite(losses).all()), f"seed {i}, {names[m]}: the loss is not finite")
            models[m].append(params)
            found[m].append(assessed(params, setting, sigma))
            bar.update(task, advance=1, note=f"seed {i + 1} of {seeds}")
    rows = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *row) for row in found]
    return models, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), seconds


def check_quadrature(
    network: dsm.EnergyMLP, models: list[list[dict]], log_partition: Float[Array, "M S 2"], nodes: int
) -> dict[str, float]:
    """Return the largest error of log Z in float32 on either grid, against float64 and `nodes` along each axis."""
    with jax.enable_x64(True):
        grid = box_grid(nodes)
        exact = jax.jit(lambda params: dsm.log_partition(energy_of(network, params), grid))
        doubles = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), models)
        truth = np.array([[exact(params) for params in row] for row in doubles])
    error = np.abs(np.asarray(log_partition) - truth[:, :, None])
    return {"equation 1, in training": float(error[0, :, 0].max()), "all models, compared": float(error[:, :, 1].max())}


if __name__ == "__main__":
    record.command(main)

"""The bias of the unadjusted Langevin algorithm against its step h: measured, and predicted in two ways.

Chains x' = x + h s(x) + sqrt(2 h) eps on a density p of the line, s = (log p)', are held against what they sample
instead of p, as `langevin_bias_predictions` has it: to first order in h, and exactly, from their kernel on a grid.

Beside it MALA, which has no bias, and BAOAB with the step sqrt(2 h), which costs and moves as much as ULA's h: at
friction 1, with a bias of order h, the square of its own step, and at high friction, of order h^2.

    python -m experiments.langevin_bias
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

import dsm
from dsm import chains as markov
from dsm import langevin, underdamped
from experiments import langevin_bias_figures, record
from experiments.langevin_bias_predictions import REACH, on_a_line, predictions, targets
from experiments.langevin_bias_report import BATCHES, measure, show, signs, slopes


def samplers(target: dsm.GaussianMixture) -> dict[str, tuple[Callable, Callable]]:
    """`init(key, x)` and `step(key, state, h)` of each; all take the h of ULA and evaluate one score a step."""

    def baoab(friction):
        # High friction is per step, not per time: of the velocity, exp(-friction) is left after each.
        def step(key, state, h):
            tau = jnp.sqrt(2 * h)
            g = friction if friction <= 1 else friction / tau
            return underdamped.baoab_step(key, state, target.score, step_size=tau, friction=g)

        return lambda key, x: underdamped.underdamped_init(key, x, target.score), step

    return {
        "ULA": (
            lambda key, x: langevin.init(x),
            lambda key, state, h: langevin.ula_step(key, state, target.score, step_size=h),
        ),
        "MALA": (
            lambda key, x: langevin.mala_init(x, target.logdensity),
            lambda key, state, h: langevin.mala_step(key, state, target.logdensity, step_size=h),
        ),
        "BAOAB": baoab(1.0),
        "BAOAB, high friction": baoab(30.0),
    }


def sampled(target: Any, init: Callable, step: Callable, chains: int, draws: int, burn_in: int, thin: int) -> Callable:
    """Return `(key, h) -> (draws [C, T], acceptance)`."""

    def chain(key: Key[Array, ""], x: Float[Array, " 1"], h: Array) -> tuple[Array, Array]:
        key_start, key_run = jax.random.split(key)
        num = thin * (burn_in + draws)
        _, history = markov.run(key_run, lambda key, s: step(key, s, h), init(key_start, x), num, thin=thin)
        return history.states.x[burn_in:, 0], jnp.mean(getattr(history.infos, "acceptance", jnp.ones(1)))

    def run(key: Key[Array, ""], h: Array) -> tuple[Array, Array]:
        key_start, key_run = jax.random.split(key)
        keys = jax.random.split(key_run, chains)
        x, acceptance = jax.vmap(chain, (0, 0, None))(keys, target.sample(key_start, chains), h)
        return x, jnp.mean(acceptance)

    return run


def main(
    *,
    steps: tuple[float, ...] = (0.02, 0.04, 0.08, 0.16, 0.32),
    chains: int = 20_000,
    draws: int = 40,
    burn_in: int = 25,
    thin: int = 16,
    grid: int = 1201,
    seed: int = 0,
    out: Path = Path("results/langevin_bias"),
) -> dict:
    """Measure the bias of ULA, MALA and BAOAB on two targets, and hold that of ULA against its predictions.

    Args:
        steps: h, ascending; stable on both targets below 0.7.
        chains: independent chains, which start as exact draws.
        draws: kept from each.
        burn_in: draws left out before them; by default, at the least h, 4.6 relaxation times of the slower target.
        thin: steps from draw to draw.
        grid: points of the grid on which the transition kernel is a matrix.
        seed: of everything random.
        out: folder for metrics.json and the figure.
    """
    arguments = locals()
    least = {"chains": 2 * BATCHES, "draws": 1, "burn_in": 0, "thin": 1, "grid": 200}
    for name, low in least.items():
        record.require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    record.require(len(steps) >= 2, f"steps must hold at least two, got {steps}")
    ordered = all(a < b for a, b in pairwise(steps))
    record.require(ordered and steps[0] > 0 and steps[-1] < 0.7, f"steps must ascend between 0 and 0.7, got {steps}")
    # The kernel's standard deviation must span a spacing of the grid.
    spacing = 2 * REACH / (grid - 1)
    record.require(math.sqrt(2 * steps[0]) > spacing, f"grid must be finer for h = {steps[0]}, got {grid} points")
    record.require_run(seed, out)

    clock, found = record.Clock(), {}
    with record.progress() as bar:
        task = bar.add_task("bias", total=2 * 4 * len(steps), note="")
        for i, (title, target) in enumerate(targets().items()):
            line = on_a_line(target, grid)
            rows: dict[str, Any] = {"predicted": [predictions(line, h) for h in steps], "measured": {}}
            with jax.enable_x64(False):
                target = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), target)
                for j, (name, (init, step)) in enumerate(samplers(target).items()):
                    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), i), j)
                    run = clock.compile(sampled(target, init, step, chains, draws, burn_in, thin), key, jnp.zeros(()))
                    runs = []
                    for k, h in enumerate(steps):
                        x, acceptance = run(jax.random.fold_in(key, k), jnp.asarray(h, jnp.float32))
                        record.require(bool(jnp.isfinite(x).all()), f"{name}, h = {h}: a chain is not finite")
                        runs.append((np.asarray(x), float(acceptance)))
                        bar.update(task, advance=1, note=f"{title}, {name}")
                    # Draws for nothing else: those of the largest step cannot be both signs and values.
                    x, _ = run(jax.random.fold_in(key, len(steps)), jnp.asarray(steps[-1], jnp.float32))
                    directions = signs(np.asarray(x), line)
                    rows["measured"][name] = [measure(x, line, directions) | {"acceptance": a} for x, a in runs]
            rows["slopes"] = slopes(steps, rows)
            found[title] = rows
    show(steps, found)
    return record.write(
        out,
        arguments=arguments,
        metrics=found,
        figures={"bias": langevin_bias_figures.draw(steps, found)},
        clock=clock,
        dtype="float32",
    )


if __name__ == "__main__":
    record.command(main)

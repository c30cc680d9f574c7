"""The bias of the unadjusted Langevin algorithm against its step h: measured, and predicted in two ways.

For x' = x + h s(x) + sqrt(2 h) eps on a density p of the line, with s = (log p)', the stationary density is

    p_h = p (1 + h c) + O(h^2),    c = (s^2 + 2 s' + E_p[s^2]) / 4.

It follows from E f(x') = f + h L f + h^2 A f + ..., L f = s f' + f'', A f = s^2 f''/2 + s f''' + f''''/2: the terms of
order h^2 in E_{p_h}[E f(x') - f] = 0 ask that E_p[c L f] = -E_p[A f] for every f, and A = L^2/2 - (s s' + s'') f'/2 -
s' f'' with E_p[L^2 f] = 0. By parts, c' = (s'' + s s') / 2. For N(0, v) it says v + h/2, and exact is v / (1 - h/2v).
The other prediction has no order: p_h is the leading eigenvector of the transition kernel on a fine grid.

Beside it MALA, which has no bias, and BAOAB with the step sqrt(2 h), which costs and moves as much as ULA's h: at
friction 1, with a bias of order h, the square of its own step, and at high friction, of order h^2.

    python -m experiments.langevin_bias
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from rich.table import Table

import dsm
from dsm import chains as markov
from dsm import langevin, underdamped
from experiments import langevin_bias_figures, record

REACH = 9.0
"""Half the length of the grid, in standard deviations of a Gaussian target."""
BINS = 40
BATCHES = 20
"""Chains are compared in so many batches, whose scatter is the standard error."""


class Line(NamedTuple):
    """A target on a uniform grid of the line: density, score, and the first-order change of the density per h."""

    x: Float[np.ndarray, " G"]
    p: Float[np.ndarray, " G"]
    score: Float[np.ndarray, " G"]
    change: Float[np.ndarray, " G"]
    """c(x)."""

    @property
    def weight(self) -> float:
        """The distance of neighbours: all integrands vanish at the ends, so sums times it converge fast."""
        return float(self.x[1] - self.x[0])


def targets() -> dict[str, dsm.GaussianMixture]:
    """A Gaussian of variance 1, and two overlapping modes of different weights."""
    return {
        "Gaussian": dsm.gaussian([0.0], 1.0),
        "two modes": dsm.gaussian_mixture([0.6, 0.4], [[-1.0], [1.0]], 0.36),
    }


def on_a_line(target: dsm.GaussianMixture, num: int, reach: float = REACH) -> Line:
    """Evaluate density, score and c = (s^2 + 2 s' + E_p[s^2]) / 4 on [-reach, reach], in float64."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        target = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), target)
        x = jnp.linspace(-reach, reach, num)
        p = np.asarray(jnp.exp(jax.vmap(target.logdensity)(x[:, None])))
        score = jax.vmap(lambda x: target.score(x[None])[0])
        s = np.asarray(score(x))
        slope = np.asarray(jax.vmap(jax.grad(lambda x: target.score(x[None])[0]))(x))
    x = np.asarray(x)
    p = p / p.sum() / (x[1] - x[0])
    information = float(np.sum(p * s**2) * (x[1] - x[0]))
    return Line(x, p, s, (s**2 + 2 * slope + information) / 4)


def stationary(line: Line, h: float) -> Float[np.ndarray, " G"]:
    """The density that x' = x + h s(x) + sqrt(2 h) eps leaves as it is: the eigenvector of the kernel on the grid."""
    kernel = np.exp(-((line.x[:, None] - line.x - h * line.score) ** 2) / (4 * h))
    kernel /= kernel.sum(axis=0)
    # (K - I) p = 0 with one row replaced by the sum of p.
    system = kernel - np.eye(len(line.x))
    system[len(line.x) // 2] = 1.0
    right = np.zeros(len(line.x))
    right[len(line.x) // 2] = 1.0 / line.weight
    return np.linalg.solve(system, right)


def predictions(line: Line, h: float) -> dict[str, dict[str, float]]:
    """Error of E[x^2] and total variation: exact, from the kernel, and to first order in h, from c."""
    change = {"kernel": stationary(line, h) - line.p, "first order": h * line.p * line.change}
    return {
        name: {
            "second_moment": float(np.sum(line.x**2 * d) * line.weight),
            "total_variation": float(np.abs(d).sum() * line.weight / 2),
        }
        for name, d in change.items()
    }


def samplers(target: dsm.GaussianMixture) -> dict[str, tuple[Callable, Callable]]:
    """`init(key, x)` and `step(key, state, h)` of each; all take the h of ULA and evaluate one score a step."""

    def baoab(friction):
        # friction is times the step: exp(-30) of the velocity is left.
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


def measure(x: Float[np.ndarray, "C T"], line: Line) -> dict[str, float]:
    """Errors of E[x^2] and of the density over bins, with standard errors over batches of chains.

    The total variation is sum_i sign(q_i - p_i) (r_i - p_i) / 2, q the histogram of one half of the chains and r that
    of the other: it has no floor of noise, as absolute values of differences have, and may be negative.
    """
    truth = float(np.sum(line.x**2 * line.p) * line.weight)
    batches = np.array_split(x, BATCHES)
    moment = np.array([np.mean(batch.astype(np.float64) ** 2) for batch in batches]) - truth
    cumulative = np.concatenate([[0.0], np.cumsum((line.p[1:] + line.p[:-1]) / 2) * line.weight])
    inner = np.interp(np.linspace(0.0005, 0.9995, BINS - 1), cumulative, line.x)
    p = np.diff(np.concatenate([[0.0], np.interp(inner, line.x, cumulative), [1.0]]))
    counts = np.array(
        [np.bincount(np.searchsorted(inner, batch.ravel()), minlength=BINS) / batch.size for batch in batches]
    )
    first, second = np.split(counts, 2)
    variation = (second - p) @ np.sign(first.mean(axis=0) - p) / 2

    def error(values):
        return float(values.std(ddof=1) / math.sqrt(len(values)))

    return {
        "second_moment": float(moment.mean()),
        "second_moment_se": error(moment),
        "total_variation": float(variation.mean()),
        "total_variation_se": error(variation),
    }


def slope(h: list[float], values: list[float], errors: list[float]) -> tuple[float, float] | None:
    """Fit log |value| = a + b log h by weighted least squares where |value| > 3 standard errors; b and its error."""
    v, e = np.abs(values), np.asarray(errors)
    seen = v > 3 * e
    if seen.sum() < 2:
        return None
    x, y, w = np.log(np.asarray(h)[seen]), np.log(v[seen]), (v / np.maximum(e, 1e-12 * v))[seen] ** 2
    x = x - np.average(x, weights=w)
    return float(np.sum(w * x * y) / np.sum(w * x * x)), float(np.sum(w * x * x) ** -0.5)


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
        burn_in: draws left out before them.
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
                    rows["measured"][name] = []
                    for k, h in enumerate(steps):
                        x, acceptance = run(jax.random.fold_in(key, k), jnp.asarray(h, jnp.float32))
                        record.require(bool(jnp.isfinite(x).all()), f"{name}, h = {h}: a chain is not finite")
                        row = measure(np.asarray(x), line) | {"acceptance": float(acceptance)}
                        rows["measured"][name].append(row)
                        bar.update(task, advance=1, note=f"{title}, {name}")
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


def slopes(steps: tuple[float, ...], rows: dict) -> dict[str, dict[str, tuple[float, float] | None]]:
    """Fit the order in h of every measured error, and of ULA's exact one."""
    fitted = {}
    for measure in ("second_moment", "total_variation"):
        fitted[measure] = {
            name: slope(list(steps), [r[measure] for r in row], [r[f"{measure}_se"] for r in row])
            for name, row in rows["measured"].items()
        }
        exact = [row["kernel"][measure] for row in rows["predicted"]]
        fitted[measure]["ULA, predicted"] = slope(list(steps), exact, [1e-3 * abs(v) for v in exact])
    return fitted


def show(steps: tuple[float, ...], found: dict) -> None:
    """Print the errors of E[x^2], the total variation of ULA and the fitted orders."""
    for title, rows in found.items():
        names = list(rows["measured"])
        for measure, caption in (("second_moment", "error of E x²"), ("total_variation", "total variation")):
            table = Table("h", *names, "ULA: kernel", "first order", title=f"{title}: {caption}")
            for k, h in enumerate(steps):
                cells = (rows["measured"][name][k] for name in names)
                predicted = rows["predicted"][k]
                table.add_row(
                    f"{h:g}",
                    *(f"{c[measure]:.5f} ± {c[f'{measure}_se']:.5f}" for c in cells),
                    *(f"{predicted[name][measure]:.5f}" for name in ("kernel", "first order")),
                )
            order = rows["slopes"][measure]
            fits = [order[name] for name in (*names, "ULA, predicted")]
            table.add_row("order", *("" if fit is None else f"{fit[0]:.2f} ± {fit[1]:.2f}" for fit in fits))
            record.console.print(table)


if __name__ == "__main__":
    record.command(main)

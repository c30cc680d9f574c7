"""From draws to errors with standard errors, their orders in h, and the tables of `experiments.langevin_bias`."""

import math

import numpy as np
from jaxtyping import Float
from rich.table import Table

from experiments import record
from experiments.langevin_bias_predictions import Line

BINS = 40
BATCHES = 20
"""Chains are compared in so many batches, whose scatter is the standard error."""


def excess(x: Float[np.ndarray, "C T"], line: Line) -> Float[np.ndarray, "20 40"]:
    """Return the share of the draws in each bin, batch by batch, less the probability of the bin."""
    cumulative = np.concatenate([[0.0], np.cumsum((line.p[1:] + line.p[:-1]) / 2) * line.weight])
    inner = np.interp(np.linspace(0.0005, 0.9995, BINS - 1), cumulative, line.x)
    p = np.diff(np.concatenate([[0.0], np.interp(inner, line.x, cumulative), [1.0]]))
    shares = [
        np.bincount(np.searchsorted(inner, batch.ravel()), minlength=BINS) / batch.size
        for batch in np.array_split(x, BATCHES)
    ]
    return np.array(shares) - p


def signs(x: Float[np.ndarray, "C T"], line: Line) -> Float[np.ndarray, " 40"]:
    """Return in which bins the draws are too many, 1, and too few, -1."""
    return np.sign(excess(x, line).mean(axis=0))


def measure(x: Float[np.ndarray, "C T"], line: Line, directions: Float[np.ndarray, " 40"]) -> dict[str, float]:
    """Errors of E[x^2] and of the density over bins, with standard errors over batches of chains.

    The total variation is sum_i sign(d_i) e_i / 2, e the excess of the draws over p and d that of other draws, by the
    same sampler at its largest step. Sums of |e_i| would have a floor of noise; signs of e itself, by other draws, are
    wrong half the time where e_i is below its noise, and would lose most of a small bias. To first order in h the
    signs are the same at all steps (of ULA's total variation, those of h = 0.32 keep about 98% or more), and at the
    largest they are surest. Where there is no bias it is 0 on average, so it may be negative.

    Args:
        x: draws, a row for each chain.
        line: what they should be draws of.
        directions: the `signs` of d.
    """
    truth = float(np.sum(line.x**2 * line.p) * line.weight)
    moment = np.array([np.mean(batch.astype(np.float64) ** 2) for batch in np.array_split(x, BATCHES)]) - truth
    variation = excess(x, line) @ directions / 2

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


def slopes(steps: tuple[float, ...], rows: dict) -> dict[str, dict[str, tuple[float, float] | None]]:
    """Fit the order in h of every measured error, and of ULA's exact one."""
    fitted = {}
    for measure in ("second_moment", "total_variation"):
        fitted[measure] = {
            name: slope(list(steps), [r[measure] for r in row], [r[f"{measure}_se"] for r in row])
            for name, row in rows["measured"].items()
        }
        # With the weights of what was measured: the exact one is no power of h.
        relative = [abs(r[f"{measure}_se"] / r[measure]) for r in rows["measured"]["ULA"]]
        exact = [row["kernel"][measure] for row in rows["predicted"]]
        errors = [r * abs(v) for r, v in zip(relative, exact, strict=True)]
        fit = slope(list(steps), exact, errors)
        fitted[measure]["ULA, predicted"] = None if fit is None else (fit[0], 0.0)
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

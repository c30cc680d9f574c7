"""Figures of `experiments.low_density`: score errors against density and sigma, and maps over the box."""

import math
from typing import Any

import jax
import matplotlib
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import dsm
from experiments.low_density_models import DENOISING, LEVELS, PERSISTENT


def styles(names: list[str]) -> list[dict]:
    """Black for equation 1, a colour for each sigma, small to large, and dashes for the variants."""
    fixed = sum(name.startswith(DENOISING) for name in names)
    scales = matplotlib.colormaps["plasma"](np.linspace(0, 0.9, fixed))
    variants = {LEVELS: {"color": "tab:green", "ls": "--"}, PERSISTENT: {"color": "tab:gray", "ls": "--"}}
    return [{"color": "black"}, *({"color": colour} for colour in scales), *(variants[name] for name in names[-2:])]


def band(ax: Axes, x: Any, mean: np.ndarray, half_width: np.ndarray, **style: Any) -> None:
    """Draw a mean and its confidence band."""
    (line,) = ax.plot(x, mean, **style)
    # A logarithmic axis has no place for a band that reaches 0.
    ax.fill_between(x, np.maximum(mean - half_width, 1e-9), mean + half_width, color=line.get_color(), alpha=0.2, lw=0)


def deciles(metrics: dict) -> Figure:
    """Draw the error of every model, as a share of the data's score, against the density of the data."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    axes = figure.subplots(1, len(metrics["error"]), sharey=True)
    x = np.arange(1, 11)
    for ax, (points, rows) in zip(axes, metrics["error"].items(), strict=True):
        size = metrics["data_score"][points]
        for (name, row), style in zip(rows.items(), styles(list(rows)), strict=True):
            band(ax, x, row["mean"] / size, row["half_width"] / size, marker="o", ms=3, label=name, **style)
        ax.axhline(1, color="grey", ls=":", label="a score of 0")
        ax.set_xticks(x, [f"{d}\n{v:.0f}" for d, v in zip(x, metrics["median_log_density"][points], strict=True)])
        ax.set(title=f"points {points}", xlabel="decile of log p_D, and its median", ylim=(0, 1.5))
    axes[0].set_ylabel("RMS |s − ∇ log p_D| / RMS |∇ log p_D|")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=10)
    return figure


def sigmas(metrics: dict, levels: list[float]) -> Figure:
    """Draw the error in the sparsest decile against sigma: from the data's score, from the smoothed one, the bias."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplots(1, len(metrics["error"]))
    for ax, (points, errors) in zip(axes, metrics["error"].items(), strict=True):
        names = list(metrics["bias_of_smoothing"][points])
        rows = [errors[name] for name in names]
        from_smoothed = [metrics["error_from_smoothed_score"][points][name] for name in names]
        bias = [row[0] for row in metrics["bias_of_smoothing"][points].values()]
        for name, style in zip(errors, styles(list(errors)), strict=True):
            if name not in names:
                band(ax, levels, *sparsest([errors[name]] * len(levels)), label=name, **style)
        band(ax, levels, *sparsest(rows), color="tab:red", marker="o", label="equation 2, from ∇ log p_D")
        band(
            ax, levels, *sparsest(from_smoothed), color="tab:blue", marker="s", label="equation 2, from its own target"
        )
        ax.plot(levels, bias, color="tab:red", ls="--", label="its own target, from ∇ log p_D")
        ax.axhline(metrics["data_score"][points][0], color="grey", ls=":", label="a score of 0")
        low = min(row["mean"][0] for row in from_smoothed)
        ax.set(title=f"sparsest decile, {points}", xlabel="σ", xscale="log", yscale="log", ylim=(low / 3, None))
    axes[0].set_ylabel("RMS error of the score")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return figure


def sparsest(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return means and half widths in the first decile."""
    return np.array([row["mean"][0] for row in rows]), np.array([row["half_width"][0] for row in rows])


def densities(
    names: list[str], target: dsm.GaussianMixture, grid: dsm.Grid, log_density: Float[Array, "M G"]
) -> Figure:
    """Draw log p_D and the log p of every model, normalised on the box."""
    log_p = np.asarray(jax.vmap(target.logdensity)(grid.points))
    panels = {"p_D": log_p} | dict(zip(names, np.asarray(log_density), strict=True))
    return maps(panels, log_p, grid, "log density", vmin=-30, vmax=0)


def error_maps(names: list[str], target: dsm.GaussianMixture, grid: dsm.Grid, error_map: Float[Array, "M G"]) -> Figure:
    """Draw the score error of every model over the box."""
    log_p = np.asarray(jax.vmap(target.logdensity)(grid.points))
    panels = dict(zip(names, np.log10(np.asarray(error_map)), strict=True))
    return maps(panels, log_p, grid, "log₁₀ |s − ∇ log p_D|", vmin=-1, vmax=1.5)


def maps(
    panels: dict[str, np.ndarray], log_p: np.ndarray, grid: dsm.Grid, label: str, *, vmin: float, vmax: float
) -> Figure:
    """Draw functions on a square grid, with contours where log p_D has fallen by 2, 8 and 18."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3 * columns + 1, 3 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    n = math.isqrt(len(log_p))
    x = np.asarray(grid.points[:n, 1])
    for ax, (title, values) in zip(axes, panels.items(), strict=False):
        ax.pcolormesh(x, x, values.reshape(n, n).T, vmin=vmin, vmax=vmax, rasterized=True)
        levels = log_p.max() - np.array([18, 8, 2])
        ax.contour(x, x, log_p.reshape(n, n).T, levels=levels, colors="white", linewidths=0.6, linestyles="solid")
        ax.set(title=title, aspect="equal")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.colorbar(axes[0].collections[0], ax=axes.tolist(), label=label, extend="both")
    return figure

"""Figures of `experiments.objectives`: errors, densities, the noise of gradients, and times."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

LABELS = {
    "relative_error": "relative error of the score",
    "kl": "KL(q ‖ model), nats",
    "sliced_wasserstein": "MALA samples: SW₂",
}
MARKERS = "osD^vP*X"


def errors(targets: dict[str, dict], names: Sequence[str]) -> Figure:
    """Draw the errors of every objective, a dot for each seed and a row for each objective."""
    objectives = list(next(iter(targets.values())))
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True)
    # Around the middle of the row, also where there is one target.
    offsets = np.linspace(-0.5, 0.5, len(targets) + 2)[1:-1]
    for ax, error in zip(axes, names, strict=True):
        for i, ((title, table), offset) in enumerate(zip(targets.items(), offsets, strict=True)):
            points = [
                (value, row - offset)
                for row, name in enumerate(objectives)
                # q itself has no error of its own but that of its samples.
                if name != "exact density" or error == "sliced_wasserstein"
                for value in table[name][error]["seeds"]
            ]
            ax.plot(*np.transpose(points), MARKERS[i], ms=4, color=f"C{i}", alpha=0.8, label=title)
        ax.set(xscale="log", xlabel=LABELS[error])
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="x", which="both", alpha=0.3)
        for row in range(1, len(objectives)):
            ax.axhline(row - 0.5, color="grey", lw=0.3)
    axes[0].set_yticks(range(len(objectives)), objectives)
    axes[0].set_ylim(len(objectives) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(targets))
    return figure


def densities(maps: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw the densities exp(-E) / Z of the first seed on the nodes of the quadrature; a row for each target."""
    columns = list(next(iter(maps.values())))
    figure = Figure(figsize=(1.5 * len(columns), 1.7 * len(maps)), layout="constrained")
    axes = figure.subplots(len(maps), len(columns), squeeze=False)
    for row, (title, panels) in zip(axes, maps.items(), strict=True):
        top = np.exp(panels["exact density"]).max()
        for ax, name in zip(row, columns, strict=True):
            num = int(len(panels[name]) ** 0.5)
            # Nodes are numbered with the second coordinate fastest.
            density = np.exp(panels[name]).reshape(num, num).T
            ax.imshow(density, origin="lower", cmap="viridis", vmin=0, vmax=top)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(title, fontsize=9)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name.replace(", ", ",\n"), fontsize=7)
    return figure


def gradient_noise(by_sigma: dict, by_dimension: dict) -> Figure:
    """Draw the variance of the gradient of one example against σ and against D, and over its squared mean."""
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    for row, part, axis, label in zip(
        figure.subplots(2, 2), (by_sigma, by_dimension), ("sigmas", "dims"), ("σ", "dimension D"), strict=True
    ):
        for ax, what, ylabel in zip(
            row, ("trace", "noise_to_signal"), ("tr Cov of the gradient", "tr Cov / |mean gradient|²"), strict=True
        ):
            lines(ax, part[axis], {name: r[what] for name, r in part["objectives"].items()}, label, ylabel)
            ax.legend(
                [f"{name}: slope {r['slope_of_trace']:.2f}" for name, r in part["objectives"].items()]
                if what == "trace"
                else list(part["objectives"]),
                fontsize=7,
            )
    return figure


def times(plane: dict[str, dict], by_dimension: dict) -> Figure:
    """Draw the time of a step of training in the plane, and that of a gradient against D."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(plane)
    left.barh(names, [plane[name]["milliseconds_per_step"] for name in names], color="tab:blue")
    left.invert_yaxis()
    left.set(xlabel="milliseconds a step of training, D = 2, median of chunks")
    seconds = {name: 1e3 * np.asarray(row["seconds"]) for name, row in by_dimension["time"].items()}
    lines(right, by_dimension["dims"], seconds, "dimension D", "milliseconds a gradient of a batch")
    right.legend([f"{name}: slope {row['slope']:.2f}" for name, row in by_dimension["time"].items()], fontsize=7)
    return figure


def lines(ax: Axes, x: Sequence[float], rows: dict[str, Any], xlabel: str, ylabel: str) -> None:
    """Draw a line for each row on logarithmic axes."""
    colours = matplotlib.colormaps["tab10"]
    for i, row in enumerate(rows.values()):
        ax.plot(x, row, marker=MARKERS[i], ms=4, color=colours(i), ls="-" if i % 2 == 0 else "--")
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(list(x), [f"{v:g}" for v in x], minor=False)
    ax.minorticks_off()
    ax.grid(alpha=0.3)

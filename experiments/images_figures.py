"""The figures of `experiments.images`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.data import NUM_CLASSES, Split


def samples(generated: Float[np.ndarray, "N D"], heldout: Float[np.ndarray, "M D"], split: Split) -> Figure:
    """Draw the first 100 generated images beside as many held-out ones; none is chosen."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for ax, title, images in zip(figure.subplots(1, 2), ("generated", "held out"), (generated, heldout), strict=True):
        show(ax, images, 8 if len(images) < 100 else 10, 8 if len(images) < 100 else 10, split)
        ax.set(title=title, xticks=[], yticks=[])
    return figure


def training(lines: list[dict[str, Any]]) -> Figure:
    """Draw the mean loss between checkpoints and the loss of held-out images."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    step = [line["step"] for line in lines]
    ax.plot(step, [line["loss"] for line in lines], "o-", ms=3, label="training, mean since the last point")
    held = [(line["step"], line["evaluation"]["heldout_loss"]) for line in lines if "evaluation" in line]
    ax.plot(*zip(*held, strict=True), "o-", ms=3, label="held out, averaged parameters")
    ax.set(xlabel="step", ylabel="loss", title="denoising over noise scales")
    ax.legend()
    return figure


def trajectory(path: Float[np.ndarray, "C L D"], sigmas: Float[np.ndarray, " L"], split: Split) -> Figure:
    """Draw the way from noise to images, a row each, as pixels of x / (1 + σ²)^½."""
    rows, columns = path.shape[:2]
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    ax = figure.subplots()
    show(ax, path.reshape(rows * columns, -1), rows, columns, split)
    ax.set_xticks(middles(np.arange(columns), split.shape[1]), [f"{sigma:.2g}" for sigma in sigmas])
    ax.set(xlabel="σ", yticks=[], title="from noise to images: mean image + x / (1 + σ²)^½")
    return figure


def neighbours(generated: Float[np.ndarray, "N D"], split: Split, num: int = 7) -> Figure:
    """Draw generated images, each above the training images that are nearest to it in pixels."""
    near = [np.argsort(((split.train - image) ** 2).sum(axis=1))[:num] for image in generated]
    columns = [np.concatenate([image[None], split.train[i]]) for image, i in zip(generated, near, strict=True)]
    figure = Figure(figsize=(9, 6), layout="constrained")
    ax = figure.subplots()
    show(ax, np.stack(columns, axis=1).reshape(-1, split.train.shape[1]), num + 1, len(generated), split)
    ax.axhline(split.shape[0], color="C3", lw=1.5)
    ax.set(xticks=[], yticks=[], title="above the line generated, below it the nearest training images")
    return figure


def interpolation(images: Float[np.ndarray, "N D"], split: Split, columns: int = 11) -> Figure:
    """Draw what the flow makes of noises between two, a row for each pair."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    ax = figure.subplots()
    show(ax, images, len(images) // columns, columns, split)
    ax.set(xticks=[], yticks=[], title="from one noise to another along an arc, and the image of each")
    return figure


def completions(
    known: Float[np.ndarray, "N D"],
    mask: Bool[np.ndarray, " D"],
    completed: Float[np.ndarray, "N C D"],
    split: Split,
    classes: bool,
) -> Figure:
    """Draw held-out images, below each what is known of it, and then how the model goes on."""
    given = np.where(mask, known, np.nan)
    rows = np.concatenate([known[:, None], given[:, None], completed], axis=1).swapaxes(0, 1)
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    ax = figure.subplots()
    show(ax, rows.reshape(-1, known.shape[1]), len(rows), len(known), split)
    drawn = 2 + len(completed[0]) // 2
    ax.set_yticks(middles(np.array([0, 1, drawn]), split.shape[0]), ["held out", "known", "drawn"])
    given_is = "the upper half and the class are known" if classes else "the upper half is known"
    ax.set(xticks=[], title=f"{given_is}, the lower is drawn given that")
    return figure


def classes(sets: Sequence[Float[np.ndarray, "N D"]], weights: Sequence[float], split: Split) -> Figure:
    """Draw images of class 0 to 9, a column each, once for every weight of guidance, from the same noises."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    for ax, images, weight in zip(figure.subplots(1, len(sets)), sets, weights, strict=True):
        show(ax, images, len(images) // NUM_CLASSES, NUM_CLASSES, split)
        labels = np.arange(NUM_CLASSES)
        ax.set_xticks(middles(labels, split.shape[1]), [str(label) for label in labels])
        ax.set(yticks=[], xlabel="class", title=f"guidance of weight {weight:g}")
    return figure


def middles(cells: Int[np.ndarray, " C"], size: int) -> Float[np.ndarray, " C"]:
    """Where the middles of cells lie along a side of what `show` draws: of `size` pixels, with gaps of one."""
    return (size + 1) * cells + (size - 1) / 2


def show(ax: Axes, images: Float[np.ndarray, "N D"], rows: int, columns: int, split: Split) -> None:
    """Draw rows * columns images on one, with gaps of a pixel, dark on light."""
    height, width = split.shape
    cells = np.full((rows, columns, height + 1, width + 1), np.nan)
    cells[:, :, :height, :width] = images[: rows * columns].reshape(rows, columns, height, width)
    sheet = cells.transpose(0, 2, 1, 3).reshape((height + 1) * rows, (width + 1) * columns)[:-1, :-1]
    # Gaps, and what is not known, have a colour of their own.
    ax.imshow(sheet, cmap=colormaps["gray_r"].with_extremes(bad="#dbe6f4"), vmin=0, vmax=split.levels - 1)

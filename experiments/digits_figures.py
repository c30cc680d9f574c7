"""The figures of `experiments.digits`."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.data import INK, PAPER, Scaling


def samples(generated: Float[np.ndarray, "N 64"], heldout: Float[np.ndarray, "M 64"]) -> Figure:
    """Draw the first 64 generated digits beside as many held-out ones; none is chosen."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    for ax, title, images in zip(figure.subplots(1, 2), ("generated", "held out"), (generated, heldout), strict=True):
        ax.imshow(sheet(images, 8, 8), cmap="gray_r", vmin=PAPER, vmax=INK)
        ax.set(title=title, xticks=[], yticks=[])
    return figure


def training(losses: Float[np.ndarray, " steps"]) -> Figure:
    """Draw the loss of every minibatch and its running mean."""
    window = max(1, len(losses) // 50)
    mean = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.plot(losses, lw=0.4, alpha=0.4, label="minibatch")
    ax.plot(np.arange(len(mean)) + window - 1, mean, label=f"mean of {window} steps")
    ax.set(xlabel="step", ylabel="σ² · equation (2)", yscale="log", title="loss, a noise level drawn for each image")
    ax.legend()
    return figure


def annealing(
    path: Float[np.ndarray, "C L 64"],
    denoised: Float[np.ndarray, "C 64"],
    sigmas: Float[np.ndarray, " L"],
    scaling: Scaling,
) -> Figure:
    """Draw chains from noise to digits: x at the end of some levels, then after the denoising step."""
    levels = np.unique(np.linspace(0, len(sigmas) - 1, 11).round().astype(int))
    # By the standard deviation of data and noise together: the first levels would be black and white otherwise.
    rescaled = path[:, levels] / np.sqrt(1 + sigmas[levels] ** 2)[:, None]
    images = scaling.pixels(np.concatenate([rescaled, denoised[:, None]], axis=1))
    rows, columns = images.shape[:2]
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    ax = figure.subplots()
    ax.imshow(sheet(images.reshape(-1, 64), rows, columns), cmap="gray_r", vmin=PAPER, vmax=INK)
    ax.set_xticks(9 * np.arange(columns) + 3.5, [*(f"{sigma:.2g}" for sigma in sigmas[levels]), "denoised"])
    ax.set(
        xlabel="σ of the level just ended; x divided by (1 + σ²)^½", yticks=[], title="annealed Langevin, a chain a row"
    )
    return figure


def sheet(images: Float[np.ndarray, "N 64"], rows: int, columns: int) -> Float[np.ndarray, "H W"]:
    """Lay rows * columns images on one, with gaps of a pixel."""
    cells = np.full((rows, columns, 9, 9), np.nan)
    cells[:, :, :8, :8] = images[: rows * columns].reshape(rows, columns, 8, 8)
    return cells.transpose(0, 2, 1, 3).reshape(9 * rows, 9 * columns)[:-1, :-1]

"""Figures of `experiments.score_matching`: fields, densities and samples in the plane, and the loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import dsm

BOX = 3.5  # the plane is drawn, and densities are normalised, on [-3.5, 3.5]²


def plane(num: int) -> Float[Array, "N 2"]:
    """Return a num x num lattice of the box, row by row."""
    line = jnp.linspace(-BOX, BOX, num)
    return jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)


def image(ax: Axes, values: Array, title: str, **kwargs: Any) -> Any:
    """Draw values on `plane(num)` as a square."""
    num = int(len(values) ** 0.5)
    ax.set(title=title, xticks=[], yticks=[])
    return ax.imshow(np.asarray(values).reshape(num, num), origin="lower", extent=(-BOX, BOX, -BOX, BOX), **kwargs)


def fields(scores: dict[str, Callable], smoothed: dsm.GaussianMixture) -> Figure:
    """Draw the exact and the learned score fields, and where the learned ones err."""
    learned = [name for name in scores if not name.startswith("exact")]
    figure = Figure(figsize=(11, 7), layout="constrained")
    top, bottom = figure.subplots(2, 3)
    fine, coarse = plane(120), plane(18)
    density = jnp.exp(jax.vmap(smoothed.logdensity)(fine))
    exact = jax.vmap(smoothed.score)(fine)
    for ax, name in zip(top, ["exact smoothed score", *learned], strict=True):
        image(ax, density, name, cmap="Greys")
        ax.quiver(*coarse.T, *jax.vmap(scores[name])(coarse).T, color="tab:blue", scale=120, width=0.004)
    image(bottom[0], jnp.log(density), "log density of the smoothed mixture", cmap="viridis")
    shown: Any = None
    for ax, name in zip(bottom[1:], learned, strict=True):
        error = jnp.linalg.norm(jax.vmap(scores[name])(fine) - exact, axis=1)
        shown = image(ax, error, f"|error| of the {name}", cmap="magma", vmin=0, vmax=4)
        ax.contour(density.reshape(120, 120), levels=3, colors="white", linewidths=0.5, extent=(-BOX, BOX, -BOX, BOX))
    figure.colorbar(shown, ax=bottom, shrink=0.8, extend="max")
    return figure


def densities(smoothed: dsm.GaussianMixture, energy: Callable) -> Figure:
    """Draw the exact smoothed density beside exp(-E)/Z, with Z by quadrature on the box."""
    fine, grid = plane(150), dsm.quadrature_grid((-BOX, -BOX), (BOX, BOX), 100)
    log_Z = dsm.log_partition(energy, grid)
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    panels = {
        "exact smoothed density": jnp.exp(jax.vmap(smoothed.logdensity)(fine)),
        "exp(-E(x)) / Z, learned": jnp.exp(-jax.vmap(energy)(fine) - log_Z),
    }
    axes, top = figure.subplots(1, 2), float(panels["exact smoothed density"].max())
    shown: Any = None
    for ax, (title, density) in zip(axes, panels.items(), strict=True):
        shown = image(ax, density, title, cmap="viridis", vmin=0, vmax=top)
    figure.colorbar(shown, ax=axes)
    return figure


def samples(drawn: dict[str, Array]) -> Figure:
    """Draw the ends of the chains."""
    figure = Figure(figsize=(3 * len(drawn), 3.2), layout="constrained")
    for ax, (name, x) in zip(figure.subplots(1, len(drawn)), drawn.items(), strict=True):
        ax.scatter(*np.asarray(x).T, s=1, alpha=0.5)
        ax.set(
            title=name if name.startswith("exact, ") else f"Langevin: {name}",
            xlim=(-BOX, BOX),
            ylim=(-BOX, BOX),
            aspect="equal",
        )
        ax.title.set_fontsize(9)
    return figure


def training(losses: dict[str, np.ndarray], floor: float) -> Figure:
    """Draw the running mean of the loss of each network, and the least value that equation (2) can take."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.subplots()
    for name, loss in losses.items():
        window = max(1, len(loss) // 100)
        ax.plot(np.arange(window, len(loss) + 1), np.convolve(loss, np.full(window, 1 / window), "valid"), label=name)
    ax.axhline(floor, color="grey", ls="--", label="least possible: the exact smoothed score")
    ax.set(xlabel="step", ylabel="equation (2), running mean", yscale="log")
    ax.legend()
    return figure

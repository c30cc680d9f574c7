"""Maximum likelihood, equation (1), exact by quadrature in 1-D and 2-D: the baseline of score matching."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .energies import check_finite, scalar_energy


class Grid(NamedTuple):
    """A quadrature rule: integral of f(x) dx ~ sum_n exp(log_weights_n) f(points_n)."""

    points: Float[Array, "N D"]
    log_weights: Float[Array, " N"]


def quadrature_grid(
    lower: float | Float[Array, " D"] | tuple[float, ...],
    upper: float | Float[Array, " D"] | tuple[float, ...],
    num: int,
) -> Grid:
    """The tensor Gauss-Legendre rule on the box [lower, upper] with num nodes along each axis, N = num^D.

    Scalars mean D = 1. Gauss-Legendre rather than the trapezoid: it converges geometrically for every smooth
    integrand, also while a model in training still has mass at the edge of the box. A node spacing of about
    half the narrowest standard deviation gives 8 digits.

    Raises ValueError if D > 2 (the rule grows as num^D), num < 1, or not lower < upper.
    """
    low, high = np.atleast_1d(np.asarray(lower, np.float64)), np.atleast_1d(np.asarray(upper, np.float64))
    if low.ndim != 1 or low.shape != high.shape:
        raise ValueError(f"lower and upper have shapes {low.shape} and {high.shape}: they must be scalars or both [D]")
    if len(low) > 2:
        raise ValueError(f"lower has D = {len(low)} entries: quadrature grows as num^D and is for D = 1 or 2")
    if num < 1:
        raise ValueError(f"num = {num}: at least one node is needed")
    for i, (a, b) in enumerate(zip(low, high, strict=True)):
        if not -np.inf < a < b < np.inf:
            raise ValueError(f"lower[{i}] = {a}, upper[{i}] = {b}: the box must be finite, with lower < upper")
    nodes, weights = np.polynomial.legendre.leggauss(num)
    axes = [a + (b - a) * (nodes + 1) / 2 for a, b in zip(low, high, strict=True)]
    logs = [np.log(weights * (b - a) / 2) for a, b in zip(low, high, strict=True)]
    points = np.stack([u.ravel() for u in np.meshgrid(*axes, indexing="ij")], axis=1)
    log_weights = sum(u.ravel() for u in np.meshgrid(*logs, indexing="ij"))
    return Grid(jnp.asarray(points, jnp.result_type(float)), jnp.asarray(log_weights, jnp.result_type(float)))


def log_partition(energy: Callable[[Float[Array, " D"]], Float[Array, ""]], grid: Grid) -> Float[Array, ""]:
    """log Z = log integral exp(-E(x)) dx over the box, as log sum_n exp(log_weights_n - E(points_n)).

    Memory grows with the number of points, not with what the energy computes inside, under grad too. The integral is
    over R^D, D that of the grid. Raises ValueError if the energy is not a scalar.
    """
    return jax.nn.logsumexp(grid.log_weights - _energies(energy, grid.points))


def negative_log_likelihood(
    energy: Callable[[Float[Array, " D"]], Float[Array, ""]], x_batch: Float[Array, "n D"], grid: Grid
) -> Float[Array, ""]:
    """-1/n sum_i log p(x_i) = 1/n sum_i E(x_i) + log Z: equation (1), as a loss.

    The model is exp(-E) / Z on the box of the grid, and nothing outside. The box must hold the data: outside
    it the model has no mass, and this function would not notice. Raises ValueError if the data and the grid have not
    the same D, the data are known and not finite, or the energy is not a scalar.
    """
    check_finite("x_batch", x_batch)
    if x_batch.shape[1:] != grid.points.shape[1:]:
        raise ValueError(f"x_batch has shape {x_batch.shape}, the points of the grid {grid.points.shape}: D must agree")
    return jnp.mean(_energies(energy, x_batch)) + log_partition(energy, grid)


def _energies(energy, x_batch):
    # Tiles that fit the cache, recomputed in the backward pass: a network on 10^5 points would not fit in
    # memory otherwise.
    return jax.lax.map(jax.checkpoint(lambda x: scalar_energy(energy, x)), x_batch, batch_size=1024)

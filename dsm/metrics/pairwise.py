"""Distances between samples from all pairs of points, one row of pairs at a time: memory is linear in the sample."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .points import check_two_of_each, squared_distances

Kernel = Callable[[Float[Array, " D"], Float[Array, "N D"]], Float[Array, " N"]]


def mmd(x: Float[Array, "N D"], y: Float[Array, "M D"], *, bandwidth: float | Float[Array, ""]) -> Float[Array, ""]:
    """MMD^2 = mean_{i != i'} k(x_i, x_i') + mean_{j != j'} k(y_j, y_j') - 2 mean_{i, j} k(x_i, y_j).

    The kernel is k(x, y) = exp(-|x - y|^2 / (2 b^2)), b the bandwidth, for instance `median_distance`. This
    is the unbiased estimate of the SQUARED maximum mean discrepancy: its mean is 0 for equal distributions,
    so it can be negative; `mmd_test` says whether it is large. No unit. Source: Gretton et al. (2012), equation 3.

    Args:
        bandwidth: b > 0, in the units of x.
    """
    check_two_of_each(x, y)
    return _squared_discrepancy(gaussian_kernel(bandwidth), x, y, diagonal=1)


def energy_distance(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, ""]:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, primes for independent copies: 0 only for equal distributions.

    In one dimension it is 2 int (F - G)^2, F and G the distribution functions. It is the `mmd` of the kernel
    -|x - y|, which has no bandwidth to choose, and the estimate is unbiased like that one: the means over X, X' and
    Y, Y' leave out each point with itself, so it can be negative. Units: those of x. Source: Szekely and Rizzo (2013).
    """
    check_two_of_each(x, y)

    def kernel(row: Float[Array, " D"], points: Float[Array, "N D"]) -> Float[Array, " N"]:
        squared = squared_distances(row, points)
        # The root has no derivative at 0, where every point meets itself.
        return -jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)

    return _squared_discrepancy(kernel, x, y, diagonal=0)


def gaussian_kernel(bandwidth: float | Float[Array, ""]) -> Kernel:
    """k(x, y) = exp(-|x - y|^2 / (2 b^2)) of one point with many. Raises ValueError if b is known and not positive."""
    if not isinstance(bandwidth, Tracer) and not float(bandwidth) > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")

    def kernel(row: Float[Array, " D"], points: Float[Array, "N D"]) -> Float[Array, " N"]:
        b = jnp.asarray(bandwidth, row.dtype)
        return jnp.exp(-squared_distances(row, points) / (2 * b**2))

    return kernel


def _squared_discrepancy(
    kernel: Kernel, x: Float[Array, "N D"], y: Float[Array, "M D"], *, diagonal: int
) -> Float[Array, ""]:
    """The equation of `mmd` for any kernel whose k(x, x) is `diagonal`, exactly."""
    n, m = x.shape[0], y.shape[0]

    def total(a: Array, b: Array) -> Float[Array, ""]:
        return jnp.sum(jax.lax.map(lambda row: jnp.sum(kernel(row, b)), a))

    # Subtracting the diagonal, as it is exact, is the cheap way to leave it out.
    within_x = (total(x, x) - n * diagonal) / float(n * (n - 1))
    within_y = (total(y, y) - m * diagonal) / float(m * (m - 1))
    return within_x + within_y - 2 * total(x, y) / float(n * m)


def median_distance(x: Float[Array, "N D"]) -> Float[Array, ""]:
    """median_{i < j} |x_i - x_j|: the usual bandwidth of a Gaussian kernel. Units: those of x.

    For `mmd`, give it the pooled sample, so that the answer does not depend on which of the two comes
    first. Memory: N^2. Source: Gretton et al. (2012), section 8.
    """
    if x.shape[0] < 2:
        raise ValueError(f"x must have at least 2 points, got {x.shape[0]}")
    squared = jax.lax.map(lambda row: squared_distances(row, x), x)
    # Not the root of the median of squares: the two differ when the number of pairs is even.
    return jnp.median(jnp.sqrt(squared[np.triu_indices(x.shape[0], 1)]))

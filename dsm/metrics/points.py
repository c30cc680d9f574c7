"""Points [N, D] and how far apart they are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..energies import check_finite

CANDIDATES = 4
"""Points whose distance is computed exactly, of those that may be the nearest."""
FEW = 32
"""Columns, of which differences cost little."""


def squared_distances(row: Float[Array, " D"], points: Float[Array, "N D"]) -> Float[Array, " N"]:
    """|row - points_n|^2 for every n: summed differences, so that a copy has distance exactly 0."""
    # Summed over the leading axis: a reduction over a short last axis costs several times as much on a CPU.
    return jnp.sum((row[:, None] - points.T) ** 2, axis=0)


def nearest_squared_distances(x: Float[Array, "N D"], points: Float[Array, "M D"]) -> Float[Array, " N"]:
    """min_m |x_n - points_m|^2 for every n.

    Of rows with more than FEW columns the expansion |p|^2 - 2 <x, p>, about the mean of points, names CANDIDATES, whose
    distances are computed exactly. That is fast, and it finds a copy unless more points than these lie within the
    rounding of |p|^2, as they can in few dimensions.
    """
    if points.shape[1] <= FEW:
        return jax.lax.map(lambda row: jnp.min(squared_distances(row, points)), x)
    middle = jnp.mean(points, axis=0, keepdims=True)
    centred = points - middle
    lengths = jnp.sum(centred * centred, axis=1)

    def nearest(row: Float[Array, " D"]) -> Array:
        near = lengths - 2.0 * jnp.matmul(centred, row - middle[0], precision="highest")
        candidates = jax.lax.top_k(-near, min(CANDIDATES, points.shape[0]))[1]
        return jnp.min(squared_distances(row, points[candidates]))

    return jax.lax.map(nearest, x, batch_size=64)


def check_pair(x: Array, y: Array) -> None:
    """Raises ValueError unless x and y are two samples [N, D] and [M, D], not empty, and finite where known."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in x.shape + y.shape:
        raise ValueError(
            f"samples must be two arrays [N, D] and [M, D] that are not empty, got {x.shape} and {y.shape}"
        )
    # A distance to nan is in no order with any other, so a test would answer something.
    check_finite("x", x)
    check_finite("y", y)


def check_two_of_each(x: Array, y: Array) -> None:
    """Raises ValueError unless x and y are two samples [N, D] and [M, D] with N, M >= 2."""
    check_pair(x, y)
    if x.shape[0] < 2 or y.shape[0] < 2:
        raise ValueError(f"at least 2 points are needed in each sample, got {x.shape[0]} in x and {y.shape[0]} in y")

"""Nearest neighbours: were modes dropped, were training data copied?"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .points import check_pair, nearest_squared_distances, squared_distances


def coverage(real: Float[Array, "N D"], fake: Float[Array, "M D"], *, k: int = 5) -> Float[Array, ""]:
    """mean_i 1[ min_j |fake_j - real_i| <= NND_k(real_i) ], NND_k: distance to the k-th nearest other real.

    A share in [0, 1]: low when modes were dropped. Two samples of one distribution, N = M, have an expected
    coverage near 1 - 2^-k, not 1. Source: Naeem et al. (2020), section 3.

    Args:
        real, fake: points or features.
        k: neighbours that set the radius, 1 <= k < N.
    """
    check_pair(real, fake)
    if not 1 <= k < real.shape[0]:
        raise ValueError(f"k must be at least 1 and below the {real.shape[0]} real points, got {k}")

    def covered(row: Float[Array, " D"]) -> Array:
        # The point itself is the first of its k + 1 nearest.
        radius = -jax.lax.top_k(-squared_distances(row, real), k + 1)[0][k]
        return jnp.min(squared_distances(row, fake)) <= radius

    return jnp.mean(jax.lax.map(covered, real), dtype=real.dtype)


def nearest_neighbour_ratio(
    samples: Float[Array, "N D"], train: Float[Array, "T D"], heldout: Float[Array, "H D"]
) -> Float[Array, ""]:
    """median_n min_t |samples_n - train_t| / median_h min_t |heldout_h - train_t|.

    1: samples are as far from the training data as unseen data are. 0: they are copies. Above 1 they lie
    off the data. No unit; not finite if at least half of heldout repeats points of train.
    """
    check_pair(samples, train)
    check_pair(heldout, train)

    def typical(points: Array) -> Float[Array, ""]:
        return jnp.median(jnp.sqrt(nearest_squared_distances(points, train)))

    return typical(samples) / typical(heldout)

"""Distances between samples and distributions: is a model right, and did it copy its training data?

Everything here is plain jittable JAX; `jax.jit` the call when it is repeated. Distances between points are
summed differences, one row at a time: memory stays linear in the sample, and a copy has distance exactly 0.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from .losses import explicit


def fisher_divergence(
    score: Callable[[Array], Array], true_score: Callable[[Array], Array], x_batch: Float[Array, "N *shape"]
) -> Float[Array, ""]:
    """E_p 1/2 |s(x) - grad log p(x)|^2, averaged over x_batch, a sample of p.

    Zero only where the two scores agree almost everywhere on p. It is local: it hardly sees wrong weights
    of modes that are far apart, nor an error where p has no mass. Units: 1/x^2. Source: Hyvarinen (2005),
    equation 2.

    Args:
        score: s(x), for one example.
        true_score: grad log p(x), for one example.
        x_batch: draws of p.
    """
    return jnp.mean(jax.vmap(lambda x: explicit(score, true_score, x))(x_batch))


def sliced_wasserstein(
    key: Key[Array, ""],
    x: Float[Array, "N D"],
    y: Float[Array, "M D"],
    *,
    num_projections: int,
    p: int | float = 2,
) -> Float[Array, ""]:
    """SW_p = ( E_theta W_p(theta.x, theta.y)^p )^(1/p), theta uniform on the sphere, W_p exact on each line.

    The samples may differ in size: W_p^p = int_0^1 |F_x^-1(u) - F_y^-1(u)|^p du is summed over the merged
    steps of the two quantile functions. For y = x + delta, SW_2 = |delta| / sqrt(D). In one dimension every
    theta is +-1, so the answer is W_p itself. Its gradient is not finite where the samples coincide. key is
    consumed. Units: those of x. Source: Bonneel, Rabin, Peyre & Pfister (2015).

    Args:
        num_projections: directions drawn; the Monte Carlo error of SW_p^p falls with its square root.
        p: order, at least 1; a Python number.
    """
    _check_pair(x, y)
    if num_projections < 1:
        raise ValueError(f"num_projections must be at least 1, got {num_projections}")
    if not 1 <= p < math.inf:
        raise ValueError(f"p must be finite and at least 1, got {p}")
    theta = jax.random.normal(key, (num_projections, x.shape[1]), x.dtype)
    theta = theta / jnp.linalg.norm(theta, axis=1, keepdims=True)
    i, j, mass = _quantile_steps(x.shape[0], y.shape[0])

    def transport(theta: Float[Array, " D"]) -> Float[Array, ""]:
        quantile_x = jnp.sort(jnp.matmul(x, theta, precision="highest"))[i]
        quantile_y = jnp.sort(jnp.matmul(y, theta, precision="highest"))[j]
        return jnp.vdot(jnp.asarray(mass, x.dtype), jnp.abs(quantile_x - quantile_y) ** p, precision="highest")

    return jnp.mean(jax.lax.map(transport, theta)) ** (1 / p)


def _quantile_steps(n: int, m: int) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Order statistics i of n and j of m points that meet over one step of the quantiles, and its mass.

    Steps are counted in units of 1/(n m), so that they meet exactly.
    """
    ends = np.union1d(np.arange(n + 1, dtype=np.int64) * m, np.arange(m + 1, dtype=np.int64) * n)
    return ends[:-1] // m, ends[:-1] // n, np.diff(ends) / (n * m)


def mmd(x: Float[Array, "N D"], y: Float[Array, "M D"], *, bandwidth: float | Float[Array, ""]) -> Float[Array, ""]:
    """MMD^2 = mean_{i != i'} k(x_i, x_i') + mean_{j != j'} k(y_j, y_j') - 2 mean_{i, j} k(x_i, y_j).

    The kernel is k(x, y) = exp(-|x - y|^2 / (2 b^2)), b the bandwidth, for instance `median_distance`. This
    is the unbiased estimate of the SQUARED maximum mean discrepancy: its mean is 0 for equal distributions,
    so it can be negative. No unit. Source: Gretton et al. (2012), equation 3.

    Args:
        bandwidth: b > 0, in the units of x.
    """
    _check_pair(x, y)
    n, m = x.shape[0], y.shape[0]
    if n < 2 or m < 2:
        raise ValueError(f"an unbiased estimate needs at least 2 points in each sample, got {n} in x and {m} in y")
    if not isinstance(bandwidth, Tracer) and not float(bandwidth) > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    b = jnp.asarray(bandwidth, x.dtype)

    def kernel_sum(a: Array, others: Array) -> Float[Array, ""]:
        return jnp.sum(jax.lax.map(lambda row: jnp.sum(jnp.exp(-_squared_distances(row, others) / (2 * b**2))), a))

    # k(x_i, x_i) = 1 exactly, so subtracting the count leaves out the diagonal.
    within_x = (kernel_sum(x, x) - n) / float(n * (n - 1))
    within_y = (kernel_sum(y, y) - m) / float(m * (m - 1))
    return within_x + within_y - 2 * kernel_sum(x, y) / float(n * m)


def median_distance(x: Float[Array, "N D"]) -> Float[Array, ""]:
    """median_{i < j} |x_i - x_j|: the usual bandwidth of a Gaussian kernel. Units: those of x.

    For `mmd`, give it the pooled sample, so that the answer does not depend on which of the two comes
    first. Memory: N^2. Source: Gretton et al. (2012), section 8.
    """
    if x.shape[0] < 2:
        raise ValueError(f"x must have at least 2 points, got {x.shape[0]}")
    squared = jax.lax.map(lambda row: _squared_distances(row, x), x)
    # Not the root of the median of squares: the two differ when the number of pairs is even.
    return jnp.median(jnp.sqrt(squared[np.triu_indices(x.shape[0], 1)]))


def frechet_distance(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, ""]:
    """|m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2}): W_2^2 between Gaussians fitted to x and to y.

    m are means, S unbiased covariances. S may be singular (dead features, N <= D): with S = R'R, R from the QR
    factors of the centred features, tr (S_1 S_2)^{1/2} is the sum of the singular values of R_1 R_2'. Nothing is
    squared before its root is taken, so float32 keeps its digits, where a root of S_1 S_2 loses half of them on a
    null space. The estimate is biased upwards, by (D^2 + 5 D) / (2 N) for N = M and S = I: compare only numbers
    taken at equal N and M. Units: x^2. Source: Dowson & Landau (1982); as the quality of samples, Heusel et al.
    (2017), equation 6.

    Args:
        x, y: features of two samples, at least 2 of each.
    """
    _check_pair(x, y)
    for name, features in (("x", x), ("y", y)):
        if features.shape[0] < 2:
            raise ValueError(f"{name} must have at least 2 points to have a covariance, got {features.shape[0]}")
    mean_x, root_x = _gaussian_fit(x)
    mean_y, root_y = _gaussian_fit(y)
    shared = jnp.linalg.svd(jnp.matmul(root_x, root_y.T, precision="highest"), compute_uv=False)
    # tr S is the sum of squares of its root, whatever the rotation of the root.
    distance = jnp.sum((mean_x - mean_y) ** 2) + jnp.sum(root_x**2) + jnp.sum(root_y**2) - 2 * jnp.sum(shared)
    return jnp.maximum(distance, 0.0)


def _gaussian_fit(x: Float[Array, "N D"]) -> tuple[Float[Array, " D"], Float[Array, "R D"]]:
    """Mean, and a root R of the unbiased covariance R'R."""
    mean = jnp.mean(x, axis=0)
    return mean, jnp.linalg.qr((x - mean[None, :]) / math.sqrt(x.shape[0] - 1), mode="r")


def coverage(real: Float[Array, "N D"], fake: Float[Array, "M D"], *, k: int = 5) -> Float[Array, ""]:
    """mean_i 1[ min_j |fake_j - real_i| <= NND_k(real_i) ], NND_k: distance to the k-th nearest other real.

    A share in [0, 1]: low when modes were dropped. Two samples of one distribution, N = M, have an expected
    coverage near 1 - 2^-k, not 1. Source: Naeem et al. (2020), section 3.

    Args:
        real, fake: points or features.
        k: neighbours that set the radius, 1 <= k < N.
    """
    _check_pair(real, fake)
    if not 1 <= k < real.shape[0]:
        raise ValueError(f"k must be at least 1 and below the {real.shape[0]} real points, got {k}")

    def covered(row: Float[Array, " D"]) -> Array:
        # The point itself is the first of its k + 1 nearest.
        radius = -jax.lax.top_k(-_squared_distances(row, real), k + 1)[0][k]
        return jnp.min(_squared_distances(row, fake)) <= radius

    return jnp.mean(jax.lax.map(covered, real), dtype=real.dtype)


def nearest_neighbour_ratio(
    samples: Float[Array, "N D"], train: Float[Array, "T D"], heldout: Float[Array, "H D"]
) -> Float[Array, ""]:
    """median_n min_t |samples_n - train_t| / median_h min_t |heldout_h - train_t|.

    1: samples are as far from the training data as unseen data are. 0: they are copies. Above 1 they lie
    off the data. No unit; not finite if at least half of heldout repeats points of train.
    """
    _check_pair(samples, train)
    _check_pair(heldout, train)

    def typical(points: Array) -> Float[Array, ""]:
        return jnp.median(jnp.sqrt(jax.lax.map(lambda row: jnp.min(_squared_distances(row, train)), points)))

    return typical(samples) / typical(heldout)


def _squared_distances(row: Float[Array, " D"], points: Float[Array, "N D"]) -> Float[Array, " N"]:
    # Summed over the leading axis: a reduction over a short last axis costs several times as much on a CPU.
    return jnp.sum((row[:, None] - points.T) ** 2, axis=0)


def _check_pair(x: Array, y: Array) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in x.shape + y.shape:
        raise ValueError(
            f"samples must be two arrays [N, D] and [M, D] that are not empty, got {x.shape} and {y.shape}"
        )

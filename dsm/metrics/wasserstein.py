"""Wasserstein distances between samples: exact on random lines, or between fitted Gaussians."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .points import check_pair


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
    check_pair(x, y)
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
    check_pair(x, y)
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

"""Kernelised Stein discrepancy: how far a sample is from a score, without draws of the model and without log Z.

A kernel here is radial, k(x, y) = phi(|x - y|^2 / b^2) with the bandwidth b, and given by a function that returns phi
and its first two derivatives.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .energies import check_finite, checked_score

RadialKernel = Callable[[Float[Array, ""]], tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]]


def rbf(u: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """phi(u) = exp(-u / 2), phi'(u) and phi''(u): k(x, y) = exp(-|x - y|^2 / (2 b^2))."""
    phi = jnp.exp(-0.5 * u)
    return phi, -0.5 * phi, 0.25 * phi


def inverse_multiquadric(u: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """phi(u) = (1 + u)^(-1/2), phi'(u) and phi''(u): k(x, y) = (1 + |x - y|^2 / b^2)^(-1/2).

    Its slow decay sees a sample that wanders off, where `rbf` fails from three dimensions on. Source: Gorham and Mackey
    (2017), theorems 6 and 8.
    """
    phi = jax.lax.rsqrt(1.0 + u)
    return phi, -0.5 * phi**3, 0.75 * phi**5


def stein_kernel(
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    y: Float[Array, "*shape"],
    *,
    bandwidth: float | Float[Array, ""],
    kernel: RadialKernel = inverse_multiquadric,
) -> Float[Array, ""]:
    """u_p(x, y) = s(x)'s(y) k + s(x)' grad_y k + s(y)' grad_x k + tr grad_x grad_y k at one pair of points.

    Its mean over x ~ p, for any y, is 0 if s = grad log p. Units: 1/x^2. Raises ValueError if bandwidth is known and
    not positive, score(x) is not like x, or x or y is known and not finite. Source: Liu, Lee and Jordan (2016), "A
    kernelized Stein discrepancy for goodness-of-fit tests", theorem 3.6.
    """
    _check_bandwidth(bandwidth)
    check_finite("y", y)
    score = checked_score(score, x)
    s, t = score(x).reshape(-1), score(y).reshape(-1)
    return _stein_kernel(x.reshape(-1), s, y.reshape(-1), t, jnp.asarray(bandwidth, x.dtype), kernel)


def stein_discrepancy(
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x_batch: Float[Array, "N *shape"],
    *,
    bandwidth: float | Float[Array, ""],
    kernel: RadialKernel = inverse_multiquadric,
    unbiased: bool = True,
) -> Float[Array, ""]:
    """KSD^2 = mean_{i != j} u_p(x_i, x_j), the squared discrepancy of a sample of q from the score s of p.

    Its mean is E (s - s_q)(x)' k(x, y) (s - s_q)(y) over independent x, y ~ q, s_q = grad log q: 0 if s = s_q and
    positive if not. That is the Fisher divergence seen through a kernel, and like it blind to the weights of modes that
    are far apart. The U-statistic (unbiased) can be negative; with unbiased=False it is the V-statistic, the mean over
    all pairs, i = j too, never negative and too large by about E u_p(x, x) / N.

    A measure of samples, and also a loss over a batch, not for one example: it is differentiable in the parameters of
    the score and needs no derivative of it in x. Time N^2 D, memory N D, also under grad. Units: 1/x^2. Raises
    ValueError if N < 2 (N < 1 for the V-statistic), bandwidth is known and not positive, score(x) is not like x, or
    x_batch is known and not finite. Source: Liu, Lee and Jordan (2016), section 4; Chwialkowski, Strathmann
    and Gretton (2016).

    Args:
        score: s(x), for one example.
        x_batch: the sample; examples of any shape.
        bandwidth: b > 0 in the units of x, for instance `metrics.median_distance`.
        kernel: `inverse_multiquadric`, `rbf`, or any function to phi, phi' and phi''.
    """
    _check_bandwidth(bandwidth)
    num, least = x_batch.shape[0], 2 if unbiased else 1
    if num < least:
        raise ValueError(f"x_batch has {num} points: at least {least} are needed")
    check_finite("x_batch", x_batch)
    b = jnp.asarray(bandwidth, x_batch.dtype)
    s_batch = jax.vmap(lambda x: checked_score(score, x)(x))(x_batch).reshape(num, -1)
    x_batch = x_batch.reshape(num, -1)
    # Points in the last axis: a reduction over a short last axis is slow on a CPU.
    x_columns, s_columns = x_batch.T, s_batch.T

    # Recomputed in the backward pass, which would keep N numbers for each of N rows otherwise.
    @jax.checkpoint
    def row(i_x_s):
        i, x, s = i_x_s
        pair = jax.vmap(lambda y, t: _stein_kernel(x, s, y, t, b, kernel), in_axes=(1, 1))
        values = pair(x_columns, s_columns)
        # Left out, not subtracted: in the tails |s|^2 would drown the other terms.
        return jnp.sum(jnp.where(jnp.arange(num) == i, 0.0, values) if unbiased else values)

    total = jnp.sum(jax.lax.map(row, (jnp.arange(num), x_batch, s_batch)))
    return total / float(num * (num - 1) if unbiased else num * num)


def _stein_kernel(
    x: Float[Array, " D"],
    s: Float[Array, " D"],
    y: Float[Array, " D"],
    t: Float[Array, " D"],
    b: Float[Array, ""],
    kernel: RadialKernel,
) -> Float[Array, ""]:
    # With u = |x - y|^2 / b^2: grad_x k = 2 phi' (x - y) / b^2 = -grad_y k,
    # tr grad_x grad_y k = -(2 D phi' + 4 u phi'') / b^2.
    r = (x - y) / b
    u = jnp.sum(r * r)
    phi, slope, curvature = kernel(u)
    cross = jnp.sum((s - t) * r) / b
    trace = -(2.0 * x.size * slope + 4.0 * u * curvature) / b**2
    return phi * jnp.sum(s * t) - 2.0 * slope * cross + trace


def _check_bandwidth(bandwidth: float | Float[Array, ""]) -> None:
    if not isinstance(bandwidth, Tracer) and not 0 < float(bandwidth) < np.inf:
        raise ValueError(f"bandwidth = {bandwidth}: it must be positive and finite")

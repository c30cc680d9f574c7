"""The least value that equation (2) can reach: without it, a training loss says nothing about the score learned.

With q = p_D * N(0, sigma^2 I), s_sigma = grad log q and I = E_q |s_sigma|^2, its Fisher information,

    E 1/2 |s(x~) + (x~ - x) / sigma^2|^2 = E_q 1/2 |s - s_sigma|^2 + floor,    floor = (D / sigma^2 - I) / 2,

D the size of x: the loss is the floor plus `fisher_divergence` at draws x~ of q. Source: Vincent (2011), whose
constant this is; Robbins (1956) for the posterior variance below.

Three integrands have the floor for their mean over q:

    (D / sigma^2 - |s_sigma|^2) / 2,
    (D / sigma^2 + div s_sigma) / 2 = tr Cov[x | x~] / (2 sigma^4),
    1/2 |s_sigma(x~) + eps / sigma|^2, the loss at s_sigma,    x~ = x + sigma eps.

Here it is the second. As a variance it is never negative, where the first may be by chance. It is the mean of the
third given x~, so it has the smaller variance, and none at all for a Gaussian. In floating point its two terms do
cancel where sigma is far above the spread of the data: an error of about u / sigma^2, u the rounding unit; use
float64 there. Standard deviations of one draw x~, measured for 1/2 N(-1, 1/4) + 1/2 N(1, 1/4):

    sigma   floor     first    second     third
    0.1     48.6      2.1      1.5        69
    0.5     1.46      1.1      0.61       2.4
    1       0.266     0.45     0.11       0.39
    4       0.00226   0.041    0.00014    0.0021
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..energies import check_finite, checked_score
from ..hyvarinen import score_and_diagonal
from ..likelihood import Grid
from ..noise import check_sigma, perturb


class Estimate(NamedTuple):
    """A mean over independent draws."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


def denoising_floor(
    smoothed_logdensity: Callable[[Float[Array, " D"]], Float[Array, ""]],
    sigma: float | Float[Array, ""],
    grid: Grid,
) -> Float[Array, ""]:
    """floor = E_q (D / sigma^2 + div grad log q) / 2, q the smoothed density, by quadrature in 1-D or 2-D.

    For N(0, v) in one dimension it is v / (2 sigma^2 (v + sigma^2)). The weights are normalised on the grid, so log q
    may lack a constant, and the box must hold the mass of q: mass that it misses goes unnoticed. Units: 1/x^2.

    Args:
        smoothed_logdensity: log q(x~), for one example: that of `target.smooth(sigma)`.
        sigma: the noise scale of equation (2), with which q was smoothed.
        grid: where q has its mass; its dtype is that of the answer.
    """
    check_sigma(sigma)
    score = jax.grad(smoothed_logdensity)
    # Tiles, as for the log-partition: a fine grid in 2-D has 10^5 points.
    log_q, values = jax.lax.map(
        lambda x: (smoothed_logdensity(x), _posterior_variance(score, x, sigma)), grid.points, batch_size=1024
    )
    return jnp.vdot(jax.nn.softmax(grid.log_weights + log_q), values, precision="highest")


def denoising_floor_monte_carlo(
    key: Key[Array, ""],
    smoothed_score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x_batch: Float[Array, "N *shape"],
    sigma: float | Float[Array, ""],
) -> Estimate:
    """floor ~ 1/N sum_n (D / sigma^2 + div s_sigma(x~_n)) / 2, x~_n = x_n + sigma eps_n, in any dimension.

    The divergence costs D directional derivatives of the score at each point. Where that is too dear, the mean of
    `denoising` at s_sigma has the same limit and needs none, with a larger standard error. `key` is consumed.
    Units: 1/x^2.

    Args:
        smoothed_score: grad log q(x~), for one example: that of `target.smooth(sigma)`.
        x_batch: N >= 2 independent draws of p_D itself, not smoothed.
        sigma: the noise scale of equation (2).
    """
    check_sigma(sigma)
    num = x_batch.shape[0]
    if num < 2:
        raise ValueError(f"x_batch must have at least 2 points to have a standard error, got {num}")

    check_finite("x_batch", x_batch)

    def value(key: Key[Array, ""], x: Float[Array, "*shape"]) -> Float[Array, ""]:
        return _posterior_variance(smoothed_score, perturb(key, x, sigma), sigma)

    values = jax.vmap(value)(jax.random.split(key, num), x_batch)
    return Estimate(jnp.mean(values), jnp.std(values, ddof=1) / np.sqrt(num).item())


def _posterior_variance(
    smoothed_score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x_tilde: Float[Array, "*shape"],
    sigma: float | Float[Array, ""],
) -> Float[Array, ""]:
    """(D / sigma^2 + div s_sigma(x~)) / 2 = tr Cov[x | x~] / (2 sigma^4), by the derivative of Tweedie's formula."""
    _, slopes = score_and_diagonal(checked_score(smoothed_score, x_tilde, "smoothed_score"), x_tilde)
    return 0.5 * jnp.sum(1 / jnp.asarray(sigma, x_tilde.dtype) ** 2 + slopes)

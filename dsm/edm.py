"""Sampling by the probability-flow ODE over noise scales, dx/dsigma = -sigma s(x, sigma), by few steps of Heun.

s(., sigma) is the score of the data smoothed by N(0, sigma^2 I). Run from N(0, sigma_max^2 I) at a large sigma down to
0, the ODE has those smoothed data for its law at every sigma. Source of all: Karras, Aittala, Aila and Laine (2022),
"Elucidating the design space of diffusion-based generative models".
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from .energies import checked_score
from .noise import check_sigmas, tweedie

SigmaScore = Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]]


def karras_sigmas(num: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> Float[Array, " L"]:
    """sigma_i = (sigma_max^(1/rho) + i / (L - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho for 0 <= i < L = num.

    A descending ladder whose steps are shorter near sigma_min the larger rho is; rho -> inf is `geometric_sigmas`. The
    step from sigma_min to 0 is understood. Source: equation 5.

    Raises ValueError unless sigma_max > sigma_min > 0, both finite, num >= 2 and rho > 0.
    """
    if num < 2:
        raise ValueError(f"num = {num}: a ladder has at least 2 levels")
    if not 0 < sigma_min < np.inf:
        raise ValueError(f"sigma_min = {sigma_min}: a noise scale is positive and finite")
    if not sigma_min < sigma_max < np.inf:
        raise ValueError(f"sigma_max = {sigma_max}: it must be finite and above sigma_min = {sigma_min}")
    if not 0 < rho < np.inf:
        raise ValueError(f"rho = {rho}: it must be positive and finite")
    roots = np.linspace(sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho), num)
    return jnp.asarray(roots**rho, jnp.result_type(float))


def heun(score: SigmaScore, x: Float[Array, "*shape"], sigmas: Float[Array, " L"]) -> Float[Array, "*shape"]:
    """x <- x + (sigma' - sigma) (d + d') / 2 from level to level, d = -sigma s(x, sigma), d' = d after an Euler step.

    One example from x, a draw from N(0, sigma_1^2 I), down the descending `sigmas`; many by vmap. The last step, from
    sigma_L to 0, is Euler's, which is Tweedie's formula x + sigma_L^2 s(x, sigma_L). The error of the others is of
    second order in their length. It costs 2 L - 1 scores and the memory of one step.

    Raises ValueError if sigmas are known and not positive and descending, score(x, sigma) is not like x, or x is known
    and not finite. Source: Algorithm 1 with sigma(t) = t and s(t) = 1.
    """
    check_sigmas(sigmas)
    score = checked_score(score, x)
    sigmas = sigmas.astype(x.dtype)

    def step(x, levels):
        return heun_step(score, x, *levels), None

    x, _ = jax.lax.scan(step, x, (sigmas[:-1], sigmas[1:]))
    return tweedie(lambda x: score(x, sigmas[-1]), x, sigmas[-1])


def heun_churn(
    key: Key[Array, ""],
    score: SigmaScore,
    x: Float[Array, "*shape"],
    sigmas: Float[Array, " L"],
    *,
    churn: float | Float[Array, ""],
    between: tuple[float, float] = (0.0, math.inf),
    noise: float | Float[Array, ""] = 1.0,
) -> Float[Array, "*shape"]:
    """`heun` with noise thrown in: before each step x <- x + noise sqrt(s^2 - sigma^2) eps, and the step is from s.

    s = (1 + g) sigma with g = min(churn / L, sqrt(2) - 1) where sigma lies within `between`, and s = sigma elsewhere.
    For noise = 1 the law of the smoothed data is kept: added noise and ODE undo each other, while eps forgets what
    earlier steps did wrong. churn = 0 is `heun`. Karras et al. call the three S_churn, [S_tmin, S_tmax] and S_noise;
    good values are found by trial, and noise a little above 1 makes up for denoisers that take away too much.

    `key` is consumed; level i has fold_in(key, i). Raises ValueError as `heun` does, if churn or noise is known and
    negative, or `between` descends. Source: Algorithm 2.
    """
    check_sigmas(sigmas)
    for name, value in (("churn", churn), ("noise", noise)):
        if not isinstance(value, Tracer) and not 0 <= float(value) < np.inf:
            raise ValueError(f"{name} = {value}: it must be finite and not negative")
    if not between[0] <= between[1]:
        raise ValueError(f"between = {between}: the first must not be above the second")
    score = checked_score(score, x)
    sigmas, noise = sigmas.astype(x.dtype), jnp.asarray(noise, x.dtype)
    L = sigmas.shape[0]
    most = jnp.minimum(jnp.asarray(churn, x.dtype) / L, math.sqrt(2.0) - 1.0)

    def raise_level(x, i):
        sigma = sigmas[i]
        g = jnp.where((between[0] <= sigma) & (sigma <= between[1]), most, 0.0)
        eps = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
        return x + noise * sigma * jnp.sqrt(g * (2.0 + g)) * eps, (1.0 + g) * sigma

    def step(x, i):
        return heun_step(score, *raise_level(x, i), sigmas[i + 1]), None

    x, _ = jax.lax.scan(step, x, jnp.arange(L - 1))
    x, raised = raise_level(x, L - 1)
    return tweedie(lambda x: score(x, raised), x, raised)


def heun_step(
    score: SigmaScore, x: Float[Array, "*shape"], sigma: Float[Array, ""], lower: Float[Array, ""]
) -> Float[Array, "*shape"]:
    """x + (sigma' - sigma) (d + d') / 2 from sigma to sigma' = lower > 0, one step of `heun`."""
    d = -sigma * score(x, sigma)
    ahead = -lower * score(x + (lower - sigma) * d, lower)
    return x + (lower - sigma) * 0.5 * (d + ahead)

"""The perturbation q_sigma(x~ | x) = N(x~; x, sigma^2 I) of Section 1(b), and ladders of its scale."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key


def perturb(key: Key[Array, ""], x: Float[Array, "*shape"], sigma: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """x~ = x + sigma eps with eps ~ N(0, I): one draw from q_sigma(. | x). `key` is consumed.

    Raises ValueError if sigma is known and not positive.
    """
    check_sigma(sigma)
    return x + sigma * jax.random.normal(key, x.shape, x.dtype)


def kernel_logdensity(
    x_tilde: Float[Array, "*shape"], x: Float[Array, "*shape"], sigma: float | Float[Array, ""]
) -> Float[Array, ""]:
    """log q_sigma(x~ | x) = -|x~ - x|^2 / (2 sigma^2) - D/2 log(2 pi sigma^2), D the size of x."""
    check_sigma(sigma)
    u = (x_tilde - x) / sigma
    return -0.5 * jnp.sum(u * u) - x.size * (jnp.log(sigma) + 0.5 * np.log(2 * np.pi).item())


def kernel_score(
    x_tilde: Float[Array, "*shape"], x: Float[Array, "*shape"], sigma: float | Float[Array, ""]
) -> Float[Array, "*shape"]:
    """grad_x~ log q_sigma(x~ | x) = -(x~ - x) / sigma^2, the regression target of equation (2)."""
    check_sigma(sigma)
    return -(x_tilde - x) / sigma**2


def tweedie(
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x_tilde: Float[Array, "*shape"],
    sigma: float | Float[Array, ""],
) -> Float[Array, "*shape"]:
    """E[x | x~] = x~ + sigma^2 s(x~), s the score of the data smoothed by N(0, sigma^2 I): the best denoiser.

    Source: Robbins (1956); Efron (2011), "Tweedie's formula and selection bias", equation 1.4.
    """
    check_sigma(sigma)
    return x_tilde + sigma**2 * score(x_tilde)


def geometric_sigmas(largest: float, smallest: float, num: int) -> Float[Array, " L"]:
    """sigma_1 > ... > sigma_L with a constant ratio, from `largest` to `smallest`; L = num.

    The largest should be about the largest distance between two data points, and the ratio small enough that
    neighbouring levels overlap: Song and Ermon (2020), "Improved techniques", techniques 1 and 2.

    Raises ValueError unless largest > smallest > 0, both finite, and num >= 2.
    """
    if num < 2:
        raise ValueError(f"num = {num}: a ladder has at least 2 levels")
    if not 0 < smallest < np.inf:
        raise ValueError(f"smallest = {smallest}: a noise scale is positive and finite")
    if not smallest < largest < np.inf:
        raise ValueError(f"largest = {largest}: it must be finite and above smallest = {smallest}")
    return jnp.asarray(np.geomspace(largest, smallest, num), jnp.result_type(float))


def check_sigma(sigma: float | Float[Array, ""]) -> None:
    """Raises ValueError unless sigma is positive and finite; a traced value passes unseen."""
    if not isinstance(sigma, Tracer) and not 0 < float(sigma) < np.inf:
        raise ValueError(f"sigma = {float(sigma)}: a noise scale is positive and finite")


def check_sigmas(sigmas: Float[Array, " L"]) -> None:
    """Raises ValueError unless sigmas are positive, finite and descending; traced values pass unseen."""
    if sigmas.shape[0] == 0:
        raise ValueError("sigmas is empty: at least one noise level is needed")
    if isinstance(sigmas, Tracer):
        return
    levels = np.asarray(sigmas)
    for i, sigma in enumerate(levels):
        if not 0 < sigma < np.inf:
            raise ValueError(f"sigmas[{i}] = {sigma}: a noise scale is positive and finite")
        if i > 0 and not sigma < levels[i - 1]:
            raise ValueError(f"sigmas[{i}] = {sigma} is not below sigmas[{i - 1}] = {levels[i - 1]}")

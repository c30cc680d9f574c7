"""Score-matching objectives, each for one example; a training loss is their mean over a batch (by vmap).

A score is any function `score(x)` that returns an array like x, or `score(x, sigma)` over noise levels. x may
have any shape.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .noise import check_sigmas, kernel_score, perturb


def explicit(
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    true_score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
) -> Float[Array, ""]:
    """1/2 |s(x) - grad_x log p(x)|^2, the objective of Section 1, for those who know the true score.

    Its mean over x ~ p is the Fisher divergence. Source: Hyvarinen (2005), equation 2.
    """
    return half_squared_norm(score(x) - true_score(x))


def denoising(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    sigma: float | Float[Array, ""],
) -> Float[Array, ""]:
    """Equation (2): 1/2 |s(x~) + (x~ - x) / sigma^2|^2 at one x~ ~ N(x, sigma^2 I).

    Its mean over x ~ p_D is least at the score of the smoothed data, p_D convolved with N(0, sigma^2 I), not
    at the score of p_D. The least value is not 0; it grows as D / (2 sigma^2) when sigma goes to 0. `key` is
    consumed. Raises ValueError if sigma is known and not positive. Source: Vincent (2011), equation 9.
    """
    x_tilde = perturb(key, x, sigma)
    return half_squared_norm(score(x_tilde) - kernel_score(x_tilde, x, sigma))


def denoising_over_levels(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    sigmas: Float[Array, " L"],
) -> Float[Array, ""]:
    """sigma^2 times equation (2) for s(., sigma), sigma drawn uniformly from the ladder `sigmas`.

    An unbiased estimate of 1/L sum_i sigma_i^2 l(sigma_i). The weight sigma^2 keeps the loss of every level below
    about D / 2, that of s = 0. `key` is consumed. Raises ValueError if sigmas are known and not positive and
    descending. Source: Song and Ermon (2019), equation 6.
    """
    check_sigmas(sigmas)
    key_level, key_noise = jax.random.split(key)
    sigma = sigmas[jax.random.randint(key_level, (), 0, sigmas.shape[0])]
    return sigma**2 * denoising(key_noise, lambda x_tilde: score(x_tilde, sigma), x, sigma)


def half_squared_norm(u: Float[Array, "*shape"]) -> Float[Array, ""]:
    """1/2 |u|^2, summed over all entries of u, of any shape: what every objective here ends on."""
    return 0.5 * jnp.sum(u * u)

"""Score-matching objectives, each for one example; a training loss is their mean over a batch (by vmap).

A score is any function `score(x)` that returns an array like x, or `score(x, sigma)` over noise levels; the score of
an energy is `score_of(energy)`. x may have any shape. Every objective raises ValueError if the score's value has not
the shape of x, or if x is known and not finite. Objectives with derivatives of the score are in `hyvarinen`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from .energies import checked_score
from .noise import check_sigmas, kernel_score, perturb
from .sde import VE, VP, SubVP, check_t_min


def explicit(
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    true_score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
) -> Float[Array, ""]:
    """1/2 |s(x) - grad_x log p(x)|^2, the objective of Section 1, for those who know the true score.

    Its mean over x ~ p is the Fisher divergence. Source: Hyvarinen (2005), equation 2.
    """
    return half_squared_norm(checked_score(score, x)(x) - checked_score(true_score, x, "true_score")(x))


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
    score = checked_score(score, x)
    x_tilde = perturb(key, x, sigma)
    return half_squared_norm(score(x_tilde) - kernel_score(x_tilde, x, sigma))


def denoising_control_variate(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    sigma: float | Float[Array, ""],
) -> Float[Array, ""]:
    """1/2 |s(x~)|^2 + (s(x~) - s(x))' eps / sigma + D / (2 sigma^2), x~ = x + sigma eps: equation (2), for small sigma.

    Equation (2) multiplied out is 1/2 |s(x~)|^2 + s(x~)' eps / sigma + |eps|^2 / (2 sigma^2), eps ~ N(0, I). Since
    E eps = 0 and E |eps|^2 = D, taking s(x)' eps / sigma away and writing D for |eps|^2 changes neither the mean nor
    the mean gradient. For sigma -> 0 the variance of equation (2) grows as 1/sigma^4 and that of its gradient as
    1/sigma^2; here both stay bounded, and but for the constant the loss becomes v' grad s(x) v + 1/2 |s(x)|^2 with
    v = eps, `sliced` with its variance reduced. From sigma about the scale of the data on, equation (2) varies less.

    The same key draws the same x~ as in `denoising`. It costs one more s. Rounding: s(x~) - s(x) keeps an error of
    about u |s|, u the rounding unit, so the loss one of u |s| sqrt(D) / sigma; and the constant
    rounds the loss, not its gradient, by u D / (2 sigma^2), in float32 0.03 D at sigma = 1e-3. `key` is consumed.
    Raises ValueError if sigma is known and not positive. Source: Wang et al. (2020), "A Wasserstein minimum velocity
    approach to learning unnormalized models".
    """
    score = checked_score(score, x)
    x_tilde = perturb(key, x, sigma)
    s, target = score(x_tilde), kernel_score(x_tilde, x, sigma)
    return half_squared_norm(s) - jnp.sum((s - score(x)) * target) + 0.5 * x.size / sigma**2


def denoising_over_levels(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    sigmas: Float[Array, " L"],
    *,
    weight: Callable[[Float[Array, ""]], Float[Array, ""]] | None = None,
) -> Float[Array, ""]:
    """lambda(sigma) times equation (2) for s(., sigma), sigma drawn uniformly from the ladder `sigmas`.

    An unbiased estimate of 1/L sum_i lambda(sigma_i) l(sigma_i). The default weight, lambda = sigma^2, keeps the loss
    of every level below about D / 2, that of s = 0. `key` is consumed. Raises ValueError if sigmas are known and not
    positive and descending. Source: Song and Ermon (2019), equation 6.
    """
    check_sigmas(sigmas)
    key_level, key_noise = jax.random.split(key)
    sigma = sigmas[jax.random.randint(key_level, (), 0, sigmas.shape[0])]
    scale = sigma**2 if weight is None else weight(sigma)
    return scale * denoising(key_noise, lambda x_tilde: score(x_tilde, sigma), x, sigma)


def denoising_continuous(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    sde: VE | VP | SubVP,
    *,
    weight: Callable[[Float[Array, ""]], Float[Array, ""]] | str | None = None,
    t_min: float | Float[Array, ""] = 1e-5,
) -> Float[Array, ""]:
    """lambda(t)/2 |s(x_t, t) + eps / std(t)|^2 at x_t = alpha(t) x + std(t) eps, t uniform on [t_min, 1].

    It is lambda(t) times equation (2) for alpha(t) x at sigma = std(t), and an unbiased estimate of the mean over t.
    The default weight is lambda = std(t)^2, as over levels. With weight "likelihood", lambda = g(t)^2, the squared
    diffusion of the SDE, and the mean over x ~ p_D bounds the Kullback-Leibler divergence from p_D to the model, up to
    a constant and what t < t_min leaves out; it varies more for VP and SubVP, where g^2 / std^2
    grows like 1/t (for VE it is constant: both weights are one). Any function of t will do.

    Near t = 0 rounding x_t adds an error of about u |x| / std(t) to eps, u the rounding unit: in float32 with `SubVP`,
    whose std is beta_min t there, take t_min = 1e-3. `key` is consumed. Raises ValueError if t_min is known and not in
    (0, 1), or weight is another string.
    Source: Song et al. (2021), "Score-based generative modeling through stochastic differential equations", equation 7;
    Song, Durkan et al. (2021), "Maximum likelihood training of score-based diffusion models", equation 7.
    """
    if isinstance(weight, str) and weight != "likelihood":
        raise ValueError(f"weight = {weight!r}: the only one with a name is 'likelihood'")
    check_t_min(t_min)
    key_time, key_noise = jax.random.split(key)
    lowest = jnp.asarray(t_min, x.dtype)
    t = lowest + (1.0 - lowest) * jax.random.uniform(key_time, (), x.dtype)
    alpha, std = sde.marginal(t)
    if weight is None:
        scale = std**2
    elif isinstance(weight, str):
        scale = sde.diffusion(t) ** 2
    else:
        scale = weight(t)
    return scale * denoising(key_noise, lambda x_t: score(x_t, t), alpha * x, std)


def denoising_lognormal(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    *,
    mean: float | Float[Array, ""] = -1.2,
    std: float | Float[Array, ""] = 1.2,
    sigma_data: float | Float[Array, ""] = 0.5,
) -> Float[Array, ""]:
    """lambda(sigma) |D(x~) - x|^2, D(x~) = x~ + sigma^2 s(x~, sigma), for a sigma with log sigma ~ N(mean, std^2).

    lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, sigma_data the standard deviation of the data: the
    training loss of EDM. As D(x~) - x = sigma^2 (s + (x~ - x) / sigma^2), it is 2 lambda sigma^4 times equation (2).
    The defaults are EDM's, for images on [-1, 1]; of standardised data sigma_data is 1. With the best constant
    multiple of x~ for D it is the size of x in the mean, at every sigma, for data of mean 0 that have this deviation.

    `key` is consumed. Raises ValueError if std is known and negative, or sigma_data is known and not positive. Source:
    Karras et al. (2022), "Elucidating the design space of diffusion-based generative models", equations 2 and 8 and
    table 1.
    """
    if not isinstance(std, Tracer) and not 0 <= float(std) < np.inf:
        raise ValueError(f"std = {std}: it must be finite and not negative")
    if not isinstance(sigma_data, Tracer) and not 0 < float(sigma_data) < np.inf:
        raise ValueError(f"sigma_data = {sigma_data}: it must be positive and finite")
    key_level, key_noise = jax.random.split(key)
    sigma = jnp.exp(mean + std * jax.random.normal(key_level, (), x.dtype))
    scale = 2.0 * sigma**2 * (1.0 + (sigma / sigma_data) ** 2)
    return scale * denoising(key_noise, lambda x_tilde: score(x_tilde, sigma), x, sigma)


def half_squared_norm(u: Float[Array, "*shape"]) -> Float[Array, ""]:
    """1/2 |u|^2, summed over all entries of u, of any shape: what every objective here ends on."""
    return 0.5 * jnp.sum(u * u)

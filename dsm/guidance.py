"""Samples of a class, by guidance without a classifier, and of images some of whose pixels are known.

A class-conditional score is `score(x, sigma, label)`; label = num_classes means no class, the score of all data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from .energies import check_finite, checked_score
from .noise import check_sigmas, tweedie

Scalar = float | Float[Array, ""]
Label = int | Int[Array, ""]
ClassScore = Callable[[Float[Array, "*shape"], Scalar, Label], Float[Array, "*shape"]]


def guided(score: ClassScore, weight: Scalar, num_classes: int) -> ClassScore:
    """s(x, sigma, none) + w (s(x, sigma, label) - s(x, sigma, none)), none = num_classes: a score of three arguments.

    w = 1 is the score of the class and w = 0 that of all data, whatever the label. w > 1 is that of
    p_sigma(x) p_sigma(label | x)^w up to a constant, surer of its class and less varied; for no data is it the score of
    smoothed ones at every sigma, so that samplers agree on what they draw only for w = 0 and 1. Ho and Salimans write
    1 + w for the w here. It costs two scores.

    Raises ValueError if num_classes < 1, weight is known and not finite, or a label is known and not in
    0..num_classes. Source: Ho and Salimans (2022), "Classifier-free diffusion guidance", equation 6.
    """
    _check_num_classes(num_classes)
    if not isinstance(weight, Tracer) and not np.isfinite(float(weight)):
        raise ValueError(f"weight = {weight}: it must be finite")

    def guided_score(x: Float[Array, "*shape"], sigma: Scalar, label: Label) -> Float[Array, "*shape"]:
        _check_label(label, num_classes)
        checked = checked_score(score, x)
        # Of the label's own type, as the network expects it.
        none = num_classes if isinstance(label, int) else jnp.full_like(label, num_classes)
        free = checked(x, sigma, none)
        return free + jnp.asarray(weight, x.dtype) * (checked(x, sigma, label) - free)

    return guided_score


def drop_label(key: Key[Array, ""], label: Label, num_classes: int, rate: Scalar) -> Int[Array, ""]:
    """num_classes, that is no class, with probability rate, else the label: so that one network learns both scores.

    `key` is consumed. Raises ValueError if num_classes < 1, label is known and not in 0..num_classes, or rate is known
    and not in [0, 1]. Source: Ho and Salimans (2022), Algorithm 1; they find 0.1 and 0.2 about as good.
    """
    _check_num_classes(num_classes)
    _check_label(label, num_classes)
    if not isinstance(rate, Tracer) and not 0 <= float(rate) <= 1:
        raise ValueError(f"rate = {rate}: it must lie in [0, 1]")
    label = jnp.asarray(label)
    return jnp.where(jax.random.bernoulli(key, rate), jnp.asarray(num_classes, label.dtype), label)


def inpaint(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]],
    known: Float[Array, "*shape"],
    mask: Bool[Array, "..."],
    sigmas: Float[Array, " L"],
    *,
    resamples: int = 1,
) -> Float[Array, "*shape"]:
    """x given x = known where mask is True: at each sigma known + sigma eps stands there, the rest follows the score.

    From N(0, sigma_1^2 I) in unknown places, the steps are x + b^2 s(x, sigma) + b eps from one level to the next,
    b^2 = sigma^2 - sigma'^2, after which the known places are put back with fresh noise. With resamples = R > 1 noise
    of scale b then leads back to the level above and the step is made again, R times in all, so that the two parts come
    to agree. The last step is Tweedie's formula, with `known` itself in its places. What `known` holds elsewhere is not
    looked at. It costs 1 + R (L - 1) scores and the memory of one step.

    It samples p(x | known) approximately: exactly only as the levels grow dense, R -> inf and sigma_L -> 0. At each
    level it tends to p_sigma(x_u | known + sigma eps) for the unknown x_u. With R = 1 what is unknown lags far behind:
    of a Gaussian in the plane with unit variances and correlation 0.8, given 1.5 (exact: mean 1.2, variance 0.36), 60
    levels of `karras_sigmas` from 10 to 0.01 give, for R = 1, 4, 10, 40, means of 0.73, 1.06, 1.15, 1.19 and variances
    of 0.56, 0.40, 0.38, 0.36.

    `key` is consumed. Raises ValueError if mask has not the shape of known, known is known and not finite where mask is
    True, resamples < 1, sigmas are known and not positive and descending, or score(x, sigma) is not like x. Source:
    Song et al. (2021), "Score-based generative modeling through stochastic differential equations", appendix I.2;
    Lugmayr et al. (2022), "RePaint", Algorithm 1, with jumps of one level.
    """
    if mask.shape != known.shape:
        raise ValueError(f"mask has shape {mask.shape}, but known has {known.shape}")
    if resamples < 1:
        raise ValueError(f"resamples = {resamples}: each level is sampled at least once")
    check_sigmas(sigmas)
    known = jnp.where(mask, known, 0.0)
    check_finite("known", known)
    score = checked_score(score, known)
    sigmas = sigmas.astype(known.dtype)

    def normal(key):
        return jax.random.normal(key, known.shape, known.dtype)

    def level(x, i):
        sigma, lower = sigmas[i], sigmas[i + 1]
        key_level = jax.random.fold_in(key, i)

        def again(j, x):
            key_up, key_down, key_known = jax.random.split(jax.random.fold_in(key_level, j), 3)
            squared = (sigma - lower) * (sigma + lower)
            b = jnp.sqrt(squared)
            x = x + jnp.where(j == 0, 0.0, b) * normal(key_up)
            x = x + squared * score(x, sigma) + b * normal(key_down)
            return jnp.where(mask, known + lower * normal(key_known), x)

        return jax.lax.fori_loop(0, resamples, again, x), None

    L = sigmas.shape[0]
    start = known + sigmas[0] * normal(jax.random.fold_in(key, L))
    x, _ = jax.lax.scan(level, start, jnp.arange(L - 1))
    return jnp.where(mask, known, tweedie(lambda x: score(x, sigmas[-1]), x, sigmas[-1]))


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes = {num_classes}: at least one class is needed")


def _check_label(label: Label, num_classes: int) -> None:
    if not isinstance(label, Tracer) and not 0 <= int(label) <= num_classes:
        raise ValueError(f"label = {label}: it must lie in 0..{num_classes}, where {num_classes} means no class")

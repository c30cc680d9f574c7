"""Sampling by an SDE of `dsm.sde` run backwards, from nearly pure noise at t = 1 to the data.

Where the score of p_t is s(x, t), dx = [f(x, t) - g(t)^2 s(x, t)] dt + g(t) dw, with time running from 1 to 0, has the
law p_t at every t. Source of all: Song et al. (2021), "Score-based generative modeling through stochastic differential
equations"; Anderson (1982) for the reverse SDE.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from .energies import checked_score
from .langevin import LangevinState, ula_step
from .noise import tweedie
from .sde import VE, VP, SubVP, check_t_min

LinearSDE = VE | VP | SubVP
TimeScore = Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]]
Marginal = tuple[Float[Array, ""], Float[Array, ""]]


def at_time(score: Callable[..., Float[Array, "*shape"]], sde: LinearSDE) -> Callable[..., Float[Array, "*shape"]]:
    """s_t(x, t) = s(x / alpha, std / alpha) / alpha, alpha and std those of sde at t: a score over sigma, over time.

    x_t / alpha is the data plus noise of scale std / alpha, so that one s(x, sigma) serves every linear SDE. Further
    arguments pass through, as the label in s_t(x, t, label).
    """

    def score_t(x: Float[Array, "*shape"], t: float | Float[Array, ""], *args) -> Float[Array, "*shape"]:
        alpha, std = sde.marginal(jnp.asarray(t, x.dtype))
        return score(x / alpha, std / alpha, *args) / alpha

    return score_t


def prior(
    key: Key[Array, ""], sde: LinearSDE, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float
) -> Float[Array, "*shape"]:
    """A draw from N(0, std(1)^2 I), where the reverse SDE starts. `key` is consumed.

    x_1 is alpha(1) x_0 + std(1) eps: what is left out has alpha(1) = 0.0066 for the default `VP` and `SubVP`; for `VE`
    it is the data themselves, which sigma_max should dwarf.
    """
    eps = jax.random.normal(key, shape, dtype)
    return sde.marginal(jnp.ones((), eps.dtype))[1] * eps


def reverse_sde(
    key: Key[Array, ""],
    score_t: TimeScore,
    x: Float[Array, "*shape"],
    sde: LinearSDE,
    *,
    num_steps: int,
    t_min: float | Float[Array, ""] = 1e-3,
) -> Float[Array, "*shape"]:
    """x <- x - [f(x, t) - g(t)^2 s(x, t)] dt + g(t) sqrt(dt) eps from t = 1 to t_min: Euler-Maruyama, backwards.

    One example from x, a draw of `prior`, with num_steps equal steps dt; many by vmap. It ends on Tweedie's formula,
    (x + std^2 s(x, t_min)) / alpha, the mean of the data given x. The bias is of first order in dt; `VE` takes more
    steps than the others, as g^2 dt must be small beside std^2: 2 log(sigma_max / sigma_min) dt << 1.

    `key` is consumed; step i has fold_in(key, i). Raises ValueError if num_steps < 1, t_min is known and not in (0, 1),
    score_t(x, t) is not like x, or x is known and not finite. Source: equation 6.
    """
    return _backwards(key, score_t, x, sde, num_steps, t_min, _euler_maruyama, None)


def predictor_corrector(
    key: Key[Array, ""],
    score_t: TimeScore,
    x: Float[Array, "*shape"],
    sde: LinearSDE,
    *,
    num_steps: int,
    t_min: float | Float[Array, ""] = 1e-3,
    predictor: str = "reverse_diffusion",
    corrector_steps: int = 1,
    signal_to_noise: float | Float[Array, ""] = 0.16,
    corrector_scale: str = "level",
) -> Float[Array, "*shape"]:
    """At each of num_steps times from 1 to t_min a predictor's step, then corrector_steps of Langevin at the new time.

    With x_{t'} = a x_t + b eps the SDE's own step from t to t' > t, the predictors go from x = x_{t'} to x_t by
    "reverse_diffusion"  (2 - a) x + b^2 s(x, t') + b eps,
    "ancestral"          (x + b^2 s(x, t')) / a + b std(t) / std(t') eps, whose mean is right for any data, and whose
                         variance is right for a single point,
    "euler_maruyama"     the step of `reverse_sde`.

    The corrector is `langevin.ula_step`, x + h s(x, t) + sqrt(2 h) eps, with r = signal_to_noise and
    h = 2 (r std(t))^2 for corrector_scale "level", or h = 2 r^2 D / |s(x, t)|^2 for "norms". The second is that of Song
    et al., 2 (r |eps| / |s|)^2, whose norms are means over a batch; here the score is that of one example. The two
    agree where noise outweighs the data, s = -eps / std. In few dimensions take the first: |s| may be 0, and a step
    that depends on x does not leave p_t alone. Langevin's own bias stays: the variance of narrow data is too large by
    the factor 1 / (1 - r^2) under many corrector steps.

    It ends as `reverse_sde` does. `key` is consumed; step i has fold_in(key, i). Raises ValueError as `reverse_sde`
    does, if predictor or corrector_scale is another string, corrector_steps < 0, or signal_to_noise is known and not
    positive. Source: Algorithm 1; appendix E for the first predictor, appendix F and Ho, Jain and Abbeel (2020),
    equation 7, for the second; Algorithms 4 and 5 for the corrector.
    """
    if predictor not in _PREDICTORS:
        raise ValueError(f"predictor = {predictor!r}: they are {', '.join(map(repr, _PREDICTORS))}")
    if corrector_scale not in ("level", "norms"):
        raise ValueError(f"corrector_scale = {corrector_scale!r}: it is 'level' or 'norms'")
    if corrector_steps < 0:
        raise ValueError(f"corrector_steps = {corrector_steps}: it must not be negative")
    if not isinstance(signal_to_noise, Tracer) and not 0 < float(signal_to_noise) < np.inf:
        raise ValueError(f"signal_to_noise = {signal_to_noise}: it must be positive and finite")
    r = jnp.asarray(signal_to_noise, x.dtype)

    def correct(key, score_t, x, t):
        def langevin(j, x):
            s = score_t(x, t)
            squared = sde.marginal(t)[1] ** 2 if corrector_scale == "level" else x.size / jnp.sum(s * s)
            state = LangevinState(x)
            return ula_step(jax.random.fold_in(key, j), state, lambda x: s, step_size=2.0 * r**2 * squared)[0].x

        return jax.lax.fori_loop(0, corrector_steps, langevin, x)

    return _backwards(
        key, score_t, x, sde, num_steps, t_min, _PREDICTORS[predictor], correct if corrector_steps else None
    )


def _backwards(key, score_t, x, sde, num_steps, t_min, predict, correct):
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: at least one step is needed")
    check_t_min(t_min)
    score_t = checked_score(score_t, x, "score_t")
    t_min = jnp.asarray(t_min, x.dtype)

    def time(i):
        return 1.0 - (1.0 - t_min) * (i.astype(x.dtype) / num_steps)

    def step(i, x):
        t, sooner = time(i), time(i + 1)
        key_step = jax.random.fold_in(key, i)
        key_noise, key_corrector = (key_step, key_step) if correct is None else jax.random.split(key_step)
        mean, scale = predict(sde, score_t(x, t), x, t, sooner)
        x = mean + scale * jax.random.normal(key_noise, x.shape, x.dtype)
        return x if correct is None else correct(key_corrector, score_t, x, sooner)

    x = jax.lax.fori_loop(0, num_steps, step, x)
    alpha, std = sde.marginal(t_min)
    return tweedie(lambda x: score_t(x, t_min), x, std) / alpha


def _transition(here: Marginal, there: Marginal) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """a and b^2 of x = a x' + b eps, x' where there is less noise."""
    (alpha, std), (alpha_there, std_there) = here, there
    a = alpha / alpha_there
    # Of many short steps rounding could make one negative.
    return a, jnp.maximum((std - a * std_there) * (std + a * std_there), 0.0)


# Of each: the mean and the scale of the noise.


def _euler_maruyama(sde, s, x, t, sooner):
    g, dt = sde.diffusion(t), t - sooner
    return x - dt * (sde.drift(x, t) - g**2 * s), g * jnp.sqrt(dt)


def _reverse_diffusion(sde, s, x, t, sooner):
    a, b_squared = _transition(sde.marginal(t), sde.marginal(sooner))
    return (2.0 - a) * x + b_squared * s, jnp.sqrt(b_squared)


def _ancestral(sde, s, x, t, sooner):
    (_, std), (_, std_sooner) = here, there = sde.marginal(t), sde.marginal(sooner)
    a, b_squared = _transition(here, there)
    return (x + b_squared * s) / a, jnp.sqrt(b_squared) * std_sooner / std


_PREDICTORS = {
    "reverse_diffusion": _reverse_diffusion,
    "ancestral": _ancestral,
    "euler_maruyama": _euler_maruyama,
}

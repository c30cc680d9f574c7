"""The probability-flow ODE dx/dt = f(x, t) - 1/2 g(t)^2 s(x, t) by an adaptive solver, and exact likelihood through it.

It has the same law at every t as the SDE, run either way. Source of all: Song et al. (2021), "Score-based generative
modeling through stochastic differential equations", section 4.3 and appendix D.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

try:
    import diffrax
except ImportError as error:
    raise ImportError("dsm.flow needs diffrax: pip install 'dsm-dp[ode]'") from error

from .energies import checked_score
from .hyvarinen import score_and_diagonal
from .metrics.floor import Estimate
from .reverse import LinearSDE, TimeScore
from .sde import check_t_min


def probability_flow(
    score_t: TimeScore,
    x: Float[Array, "*shape"],
    sde: LinearSDE,
    *,
    t_from: float | Float[Array, ""],
    t_to: float | Float[Array, ""],
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> Float[Array, "*shape"]:
    """x at t_to of dx/dt = f(x, t) - 1/2 g(t)^2 s(x, t) through x at t_from: from noise a sample, or the other way.

    From t_from = 1 and a draw of `reverse.prior` it samples, up to the data's law at t_to, which still holds noise:
    take Tweedie's formula there, or a small t_to. The other way it encodes; there and back is the identity up to the
    tolerances. By Tsit5 (a Runge-Kutta pair of order 5) with steps such that the error of each, as the root of the mean
    square over x, is below atol + rtol |x|. rtol below 1e-6 asks too much of float32.

    All entries are nan where max_steps do not suffice: inside jit nothing can raise. Raises ValueError if t_from or
    t_to is known and not in [0, 1], rtol or atol is not positive, max_steps < 1, score_t(x, t) is not like x, or x is
    known and not finite. Source: equation 13; Tsitouras (2011).
    """
    for name, t in (("t_from", t_from), ("t_to", t_to)):
        if not isinstance(t, Tracer) and not 0 <= float(t) <= 1:
            raise ValueError(f"{name} = {t}: it must lie in [0, 1]")
    drift = _drift(score_t, x, sde)
    t_from, t_to = jnp.asarray(t_from, x.dtype), jnp.asarray(t_to, x.dtype)
    return _solve(lambda t, x: drift(x, t), x, t_from, t_to, rtol, atol, max_steps)


def log_likelihood(
    key: Key[Array, ""] | None,
    score_t: TimeScore,
    x: Float[Array, "*shape"],
    sde: LinearSDE,
    *,
    num_probes: int | None = 1,
    t_min: float | Float[Array, ""] = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> Estimate:
    """log p(x) = log N(x_1; 0, std(1)^2 I) + int_{t_min}^1 div(f - 1/2 g^2 s)(x_t, t) dt + D log alpha(t_min), in nats.

    x_t follows `probability_flow` from alpha(t_min) x at t_min. This is the exact log-density, up to the tolerances, of
    what the flow makes of draws of `reverse.prior`: x_{t_min} / alpha(t_min). That alpha(1) is not 0 makes the model
    differ from the data, not this number from the model.

    The divergence is exact with num_probes = None, at the cost of D products with grad s for each s; `key` is not used
    then and may be None. With num_probes = k it is Hutchinson's estimate, the mean of v' grad s v over k fixed random
    vectors of signs, for k products: log p is unbiased (exp of it is not) and standard_error is that of the mean over
    the probes, nan for k = 1 and 0 without probes. Over a data set the spread between examples holds both errors.

    With the true score it is log p_sigma(x), p_sigma being the data plus noise of scale sigma = std(t_min) /
    alpha(t_min), about sigma_min for `VE`, and by default 0.001 for `VP` and 1e-6 for `SubVP`. In the mean over data
    this is too low by KL(p | p_sigma); for a Gaussian whose variances v_d are far above sigma^2, by
    sum_d sigma^4 / (4 v_d^2). In directions narrower than sigma, or none at all as in pixels that are not dequantised,
    nothing is small about it. A network is asked for scores down to sigma: choose t_min such that it was trained there.

    nan where max_steps do not suffice. `key` is consumed. Raises ValueError if num_probes < 1, t_min is known and not
    in (0, 1), and as `probability_flow` does. Source: equations 39 and 40; Hutchinson (1989); Grathwohl et al. (2019).
    """
    if num_probes is None:
        probes = None
    elif num_probes < 1:
        raise ValueError(f"num_probes = {num_probes}: at least one is needed, or None for the exact divergence")
    elif key is None:
        raise ValueError("key = None: probes are random; num_probes = None needs no key")
    else:
        probes = jax.random.rademacher(key, (num_probes, *x.shape), x.dtype)
    check_t_min(t_min)
    drift = _drift(score_t, x, sde)

    def rates(t: Float[Array, ""], state: Any) -> Any:
        rate = lambda x: drift(x, t)  # noqa: E731
        if probes is None:
            value, diagonal = score_and_diagonal(rate, state[0])
            return value, jnp.sum(diagonal)[None]
        value, product = jax.linearize(rate, state[0])
        return value, jax.lax.map(lambda v: jnp.sum(v * product(v)), probes)

    t_min, one = jnp.asarray(t_min, x.dtype), jnp.ones((), x.dtype)
    alpha = sde.marginal(t_min)[0]
    start = (alpha * x, jnp.zeros(num_probes or 1, x.dtype))
    x_1, gained = _solve(rates, start, t_min, one, rtol, atol, max_steps)
    std = sde.marginal(one)[1]
    u = x_1 / std
    log_prior = -0.5 * jnp.sum(u * u) - x.size * (jnp.log(std) + 0.5 * np.log(2 * np.pi).item())
    value = log_prior + jnp.mean(gained) + x.size * jnp.log(alpha)
    if probes is None:
        return Estimate(value, jnp.zeros_like(value))
    error = jnp.std(gained, ddof=1) / math.sqrt(gained.size) if gained.size > 1 else jnp.full_like(value, np.nan)
    return Estimate(value, error)


def bits_per_dimension(
    logp: Float[Array, "*batch"], size: int, step: float | Float[Array, "..."]
) -> Float[Array, "*batch"]:
    """-(log p(x) / D + mean log step) / log 2, D = size: bits for each number of an image, from a density in nats.

    For grey levels k = 0, 1, ... made continuous by u uniform on [0, 1), x = c + step (k + u), it bounds from above the
    mean of -log2 P(k) / D, P(k) being the mass of the model in the cell of k (Jensen, over u). step, the distance of
    two levels in the units of x, is the Jacobian: 1 / 256 for (k + u) / 256, 1 / (256 std) if that is divided by std
    afterwards; one number, or one for each of the D. A standard error of logp becomes one of bits by 1 / (D log 2).

    Raises ValueError if size < 1, step is known and not positive, or it has neither 1 nor size entries. Source: Theis,
    van den Oord and Bethge (2016), "A note on the evaluation of generative models", equation 7.
    """
    if size < 1:
        raise ValueError(f"size = {size}: an image has at least one number")
    if jnp.size(step) not in (1, size):
        raise ValueError(f"step has {jnp.size(step)} entries: it must have 1 or size = {size}")
    if not isinstance(step, Tracer) and not np.all((np.asarray(step) > 0) & np.isfinite(np.asarray(step))):
        raise ValueError(f"step = {step}: it must be positive and finite")
    return -(logp / size + jnp.mean(jnp.log(jnp.asarray(step, logp.dtype)))) / np.log(2.0).item()


def _drift(score_t: TimeScore, x: Float[Array, "*shape"], sde: LinearSDE) -> TimeScore:
    score_t = checked_score(score_t, x, "score_t")
    return lambda x, t: sde.drift(x, t) - 0.5 * sde.diffusion(t) ** 2 * score_t(x, t)


def _solve(
    rates: Callable[[Float[Array, ""], Any], Any],
    state: Any,
    t_from: Float[Array, ""],
    t_to: Float[Array, ""],
    rtol: float,
    atol: float,
    max_steps: int,
) -> Any:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not isinstance(value, Tracer) and not 0 < float(value) < np.inf:
            raise ValueError(f"{name} = {value}: it must be positive and finite")
    if max_steps < 1:
        raise ValueError(f"max_steps = {max_steps}: at least one step is needed")

    # The parts of a state are judged apart: among a thousand pixels an error of the likelihood would go unnoticed.
    def largest_part(errors: Any) -> Float[Array, ""]:
        return jnp.max(jnp.stack([jnp.sqrt(jnp.mean(e * e)) for e in jax.tree.leaves(errors)]))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: rates(jnp.asarray(t), y)),
        diffrax.Tsit5(),
        t_from,
        t_to,
        None,
        state,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=largest_part),
        saveat=diffrax.SaveAt(t1=True),
        max_steps=max_steps,
        throw=False,
    )
    solved = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda y: jnp.where(solved, y[0], jnp.nan), solution.ys)

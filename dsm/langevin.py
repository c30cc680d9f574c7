"""Langevin chains: `ula_step` needs a score and is biased by its step, `mala_step` needs a density too and is not.

Each has an init, a state and an info; `run` and `warm_up` iterate them (`dsm.chains`), many chains by vmap.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Key

from .boxes import Box
from .chains import History as History
from .chains import check_step_size
from .chains import run as run
from .chains import run_many as run_many
from .chains import warm_up as warm_up
from .energies import check_finite, checked_score, scalar_energy


class LangevinState(NamedTuple):
    """Where a chain stands."""

    x: Float[Array, "*shape"]


class LangevinInfo(NamedTuple):
    """What a step tells."""

    diverged: Bool[Array, ""]
    """The step would have gone to inf or nan, so the chain stayed where it was."""


def init(x: Float[Array, "*shape"]) -> LangevinState:
    """The state of a chain that starts at x. Raises ValueError if x is known and not finite."""
    check_finite("x", x)
    return LangevinState(x)


def ula_step(
    key: Key[Array, ""],
    state: LangevinState,
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    *,
    step_size: float | Float[Array, ""],
    temperature: float | Float[Array, ""] = 1.0,
    box: Box | None = None,
) -> tuple[LangevinState, LangevinInfo]:
    """x' = x + h s(x) + sqrt(2 h T) eps, eps ~ N(0, I), h = step_size, T = temperature.

    The unadjusted Langevin algorithm: it samples p(x)^(1/T) up to a bias of order h (for N(0, v) at T = 1 the
    variance is v / (1 - h / 2v)), and is gradient ascent on log p at T = 0. Where s has slope -L it is stable
    for h < 2/L only. In a `box` x' is reflected at the walls, and p(x)^(1/T) restricted to the box is sampled.

    `key` is consumed. Raises ValueError if step_size is known and not positive, temperature known and negative,
    or s(x) has not the shape of x. Source: Roberts and Tweedie (1996) (their h is 2 h here).
    """
    check_step_size(step_size)
    check_temperature(temperature, allow_zero=True)
    x = state.x
    eps = jax.random.normal(key, x.shape, x.dtype)
    drift = checked_score(score, x)(x)
    proposal = x + step_size * drift + jnp.sqrt(2.0 * step_size * temperature) * eps
    if box is not None:
        proposal, _ = box.reflect(proposal)
    diverged = ~jnp.all(jnp.isfinite(proposal))
    return LangevinState(jnp.where(diverged, x, proposal)), LangevinInfo(diverged)


class MALAState(NamedTuple):
    """Where a chain stands, and what the next step would otherwise compute anew."""

    x: Float[Array, "*shape"]
    logdensity: Float[Array, ""]
    """log p(x), up to a constant."""
    score: Float[Array, "*shape"]
    """Its gradient."""


class MALAInfo(NamedTuple):
    """What a step tells."""

    acceptance: Float[Array, ""]
    """The probability with which the proposal was accepted."""
    accepted: Float[Array, ""]
    """1 if it was, 0 if not; so that the mean over steps is the acceptance rate."""
    diverged: Bool[Array, ""]
    """The proposal, its density or its score was not a number, and it was refused for that."""


def mala_init(x: Float[Array, "*shape"], logdensity: Callable[[Float[Array, "*shape"]], Float[Array, ""]]) -> MALAState:
    """The state of a chain that starts at x, where the density must be positive.

    Raises ValueError if x is known and it or its log-density is not finite, or logdensity is not a scalar.
    """
    check_finite("x", x)
    state = MALAState(x, *jax.value_and_grad(lambda x: scalar_energy(logdensity, x, name="logdensity"))(x))
    if not isinstance(state.logdensity, Tracer) and not math.isfinite(float(state.logdensity)):
        raise ValueError(f"logdensity(x) = {state.logdensity} at the start: a chain needs a point of positive density")
    return state


def mala_step(
    key: Key[Array, ""],
    state: MALAState,
    logdensity: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    *,
    step_size: float | Float[Array, ""],
    temperature: float | Float[Array, ""] = 1.0,
) -> tuple[MALAState, MALAInfo]:
    """x' = x + h s(x) + sqrt(2 h T) eps, accepted with min(1, p(x')^(1/T) q(x | x') / p(x)^(1/T) q(x' | x)).

    h = step_size, T = temperature, q(x' | x) = N(x'; x + h s(x), 2 h T I): the Metropolis-adjusted Langevin
    algorithm, which leaves p^(1/T) invariant whatever h. A good h accepts about 0.574 in high dimension, and shrinks
    as D^(-1/3); `warm_up` finds it. Where logdensity is -inf the density is 0: nothing enters there.

    `key` is consumed. Raises ValueError if step_size or temperature is known and not positive. Source: Roberts and
    Tweedie (1996); Roberts and Rosenthal (1998).
    """
    check_step_size(step_size)
    check_temperature(temperature)
    x = state.x
    # The noise and the draw that decides, from one key at once: random bits are most of what a step costs. As
    # `jax.random.normal` does, eps = sqrt(2) erfinv(u), u uniform on (-1, 1).
    lowest = np.nextafter(np.array(-1.0, x.dtype), np.array(0.0, x.dtype))
    u = jax.random.uniform(key, (x.size + 1,), x.dtype, minval=lowest, maxval=1.0)
    eps = math.sqrt(2.0) * jax.lax.erf_inv(u[:-1]).reshape(x.shape)
    proposal = x + step_size * state.score + jnp.sqrt(2.0 * step_size * temperature) * eps
    new = MALAState(proposal, *jax.value_and_grad(lambda x: scalar_energy(logdensity, x, name="logdensity"))(proposal))
    # log q(x | x') - log q(x' | x): the noise that would lead back, against the noise that led here.
    back = (x - proposal - step_size * new.score) / jnp.sqrt(4.0 * step_size * temperature)
    log_ratio = (new.logdensity - state.logdensity) / temperature + 0.5 * jnp.sum(eps * eps) - jnp.sum(back * back)
    impossible = new.logdensity == -jnp.inf
    sound = jnp.all(jnp.isfinite(proposal)) & (
        impossible | (jnp.isfinite(new.logdensity) & jnp.all(jnp.isfinite(back)))
    )
    acceptance = jnp.where(sound & ~impossible, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0).astype(x.dtype)
    accepted = 0.5 * (u[-1] + 1.0) < acceptance
    state = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, state)
    return state, MALAInfo(acceptance, accepted.astype(x.dtype), ~sound)


def sample(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "N *shape"],
    *,
    step_size: float | Float[Array, ""],
    num_steps: int,
    tile: int | None = None,
) -> Float[Array, "N *shape"]:
    """The ends of N independent chains of `ula_step` that start at the rows of x, num_steps steps each.

    Chain i is `run` with the i-th of `split(key, N)`, whatever the others do; `tile` is that of `run_many`. Where a
    step would diverge the chain stays where it was; the History of `run_many` says so, this function does not. `key` is
    consumed. Bias, stability and errors are those of `ula_step` and `run_many`.
    """
    check_finite("x", x)

    def step(key, state):
        return ula_step(key, state, score, step_size=step_size)

    keys = jax.random.split(key, x.shape[0])
    return run_many(keys, step, LangevinState(x), num_steps, thin=num_steps, tile=tile)[0].x


def check_temperature(temperature: float | Float[Array, ""], *, allow_zero: bool = False) -> None:
    """Raises ValueError unless temperature is positive (or 0, where that has a meaning); traced values pass unseen."""
    if isinstance(temperature, Tracer):
        return
    if allow_zero and not 0 <= float(temperature) < math.inf:
        raise ValueError(f"temperature = {temperature}: it must be finite and not negative")
    if not allow_zero and not 0 < float(temperature) < math.inf:
        raise ValueError(f"temperature = {temperature}: it must be positive and finite")

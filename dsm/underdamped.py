"""Underdamped Langevin dynamics of unit mass: dx = v dt, dv = s(x) dt - g v dt + sqrt(2 g T) dW, split as BAOAB."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from .boxes import Box
from .chains import check_step_size
from .energies import check_finite, checked_score
from .langevin import LangevinInfo, check_temperature


class UnderdampedState(NamedTuple):
    """Where a chain stands, and what the next step would otherwise compute anew."""

    x: Float[Array, "*shape"]
    v: Float[Array, "*shape"]
    """Velocity: N(0, T I) in equilibrium as the step tends to 0, independent of x."""
    score: Float[Array, "*shape"]
    """s(x)."""


def underdamped_init(
    key: Key[Array, ""],
    x: Float[Array, "*shape"],
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    *,
    temperature: float | Float[Array, ""] = 1.0,
) -> UnderdampedState:
    """A chain at x with a velocity drawn from N(0, T I). `key` is consumed.

    Raises ValueError if x is known and not finite, temperature known and negative, or s(x) has not the shape of x.
    """
    check_finite("x", x)
    check_temperature(temperature, allow_zero=True)
    v = jnp.sqrt(jnp.asarray(temperature, x.dtype)) * jax.random.normal(key, x.shape, x.dtype)
    return UnderdampedState(x, v, checked_score(score, x)(x))


def baoab_step(
    key: Key[Array, ""],
    state: UnderdampedState,
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    *,
    step_size: float | Float[Array, ""],
    friction: float | Float[Array, ""] = 1.0,
    temperature: float | Float[Array, ""] = 1.0,
    box: Box | None = None,
) -> tuple[UnderdampedState, LangevinInfo]:
    """B: v += h/2 s(x). A: x += h/2 v. O: v <- c v + sqrt((1 - c^2) T) eps, c = exp(-g h). A. B.

    h = step_size (a time: ULA's h corresponds to h^2 / 2 here), g = friction. One score per step. It samples
    p(x)^(1/T) with a bias of order h^2; for a Gaussian p the distribution of x is exact for every stable step,
    h < 2 sqrt(w) with w the least variance of p; that of v falls short by T h^2 / (4 w). In a `box` A is a flight
    between mirrors: v turns where x does.

    `key` is consumed. Raises ValueError if step_size is known and not positive, friction or temperature known and
    negative, or s(x) has not the shape of x. Source: Leimkuhler and Matthews (2013).
    """
    check_step_size(step_size)
    check_temperature(temperature, allow_zero=True)
    if not isinstance(friction, Tracer) and not 0 <= float(friction) < math.inf:
        raise ValueError(f"friction = {friction}: it must be finite and not negative")

    def fly(x, v):
        x = x + 0.5 * step_size * v
        if box is None:
            return x, v
        x, turned = box.reflect(x)
        return x, jnp.where(turned, -v, v)

    eps = jax.random.normal(key, state.x.shape, state.x.dtype)
    rate = jnp.asarray(friction * step_size, state.x.dtype)
    x, v = fly(state.x, state.v + 0.5 * step_size * state.score)
    # Not 1 - c^2: in float32 little of it would be left where g h is small.
    v = jnp.exp(-rate) * v + jnp.sqrt(-jnp.expm1(-2.0 * rate) * temperature) * eps
    x, v = fly(x, v)
    new_score = checked_score(score, x)(x)
    new = UnderdampedState(x, v + 0.5 * step_size * new_score, new_score)
    diverged = ~(jnp.all(jnp.isfinite(new.x)) & jnp.all(jnp.isfinite(new.v)))
    # At rest where it was: with the velocity that led astray it would go there again.
    stay = state._replace(v=jnp.zeros_like(state.v))
    return jax.tree.map(lambda a, b: jnp.where(diverged, a, b), stay, new), LangevinInfo(diverged)

"""Parallel tempering: MALA chains at several temperatures that trade places, so that the coldest one mixes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Key

from .chains import check_step_size
from .energies import check_finite
from .langevin import MALAInfo, MALAState, mala_init, mala_step


class TemperingInfo(NamedTuple):
    """What a step tells."""

    moves: MALAInfo
    """Of each replica's own step, [K]."""
    acceptance: Float[Array, " K-1"]
    """The probability with which each pair of neighbours traded places, 0 for pairs whose turn it was not."""
    diverged: Bool[Array, ""]
    """The step of some replica was refused because it led to something that is not a number."""


def tempering_init(
    x: Float[Array, "K *shape"], logdensity: Callable[[Float[Array, "*shape"]], Float[Array, ""]]
) -> MALAState:
    """K replicas that start at the rows of x: a `langevin.MALAState` with a leading axis, replica 0 the coldest.

    Raises ValueError if x has fewer than two rows or is known and not finite, or logdensity is not a scalar.
    """
    if x.ndim < 1 or x.shape[0] < 2:
        raise ValueError(f"x has shape {x.shape}: a row for each of at least two temperatures is needed")
    check_finite("x", x)
    return jax.vmap(lambda x: mala_init(x, logdensity))(x)


def tempering_step(
    key: Key[Array, ""],
    state: MALAState,
    logdensity: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    *,
    temperatures: Float[Array, " K"],
    step_size: float | Float[Array, ""] | Float[Array, " K"],
) -> tuple[MALAState, TemperingInfo]:
    """A `mala_step` on p^(1/T_k) for each replica k, then neighbours i, i+1 trade places with probability min(1, r).

    r = (p(x_i) / p(x_{i+1}))^(1/T_{i+1} - 1/T_i), for pairs that begin at an even or an odd i, at random. Replica k
    samples p^(1/T_k), whatever the steps; step_size is common to all or one for each. A geometric ladder is usual,
    close enough that neighbours trade in 0.2 to 0.4 of their turns.

    `key` is consumed. Raises ValueError unless temperatures, where known, are positive and ascending, one for each
    replica. Source: Geyer (1991); Earl and Deem (2005), equation 3.
    """
    K = state.x.shape[0]
    if temperatures.shape != (K,):
        raise ValueError(f"temperatures has shape {temperatures.shape}, but there are {K} replicas")
    if not isinstance(temperatures, Tracer):
        ladder = np.asarray(temperatures)
        if not (ladder[0] > 0 and np.all(np.diff(ladder) > 0) and np.isfinite(ladder[-1])):
            raise ValueError(f"temperatures = {ladder}: they must be positive, finite and ascending")
    check_step_size(step_size)
    key_move, key_parity, key_trade = jax.random.split(key, 3)

    steps = jnp.broadcast_to(jnp.asarray(step_size, temperatures.dtype), (K,))

    def move(key, replica, step_size, temperature):
        return mala_step(key, replica, logdensity, step_size=step_size, temperature=temperature)

    state, moves = jax.vmap(move)(jax.random.split(key_move, K), state, steps, temperatures)
    cold = 1.0 / temperatures
    log_ratio = (cold[1:] - cold[:-1]) * (state.logdensity[:-1] - state.logdensity[1:])
    turn = jnp.arange(K - 1) % 2 == jax.random.randint(key_parity, (), 0, 2)
    acceptance = jnp.where(turn, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
    trade = jax.random.uniform(key_trade, (K - 1,), acceptance.dtype) < acceptance
    down, up = jnp.append(trade, False), jnp.append(False, trade)
    partner = jnp.arange(K, dtype=jnp.int32) + down.astype(jnp.int32) - up.astype(jnp.int32)
    state = jax.tree.map(lambda a: a[partner], state)
    return state, TemperingInfo(moves, acceptance, jnp.any(moves.diverged))

"""Value iteration: turn the Bellman optimality equation into an update.

    v_{k+1}(s) = max_a Σ_{s',r} p(s', r|s, a) [r + γ v_k(s')]

Out of place and synchronous (the whole new vector from the whole old one), or in place, in any order of states: each
backup then uses the newest values, as in Gauss-Seidel, and only one state's values change at a time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from dp import bellman
from dp.bounds import enclose, modulus
from dp.evaluation import start_values
from dp.fixed_point import (
    PATIENCE,
    Backup,
    History,
    Solution,
    conclude,
    history,
    require_iterations,
    tolerance,
    until_certified,
)
from dp.mdp import MDP, require_discount

# One sweep [N], or several [M, N] taken in turn; a sweep may skip states and repeat others.
Order = Int[Array, " N"] | Int[Array, "M N"]


def value_iteration(
    mdp: MDP,
    v0: ArrayLike | None = None,
    *,
    order: Order | ArrayLike | None = None,
    tol: float | None = None,
    max_iters: int = 1_000_000,
) -> Solution:
    """Iterate `v <- T v` until the certificate says that `max(upper - lower) <= tol`.

    v0: [S] (default 0). tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32.
    order: None for synchronous sweeps, or the states in the order of their backups, in place: [N] for the same order in
        every sweep, [M, N] for M sweeps taken in turn. Every state must come up, else `converged` stays False. A sweep
        in place is followed by a synchronous backup for the certificate, so that it reads the model twice.
    max_iters: sweeps at most. A sweep that visits all states multiplies the error by γ or less.
    Returns a Solution. Raises ValueError for gamma = 1, tol <= 0 or an order that names no state.
    Source: Sutton and Barto (2018), section 4.4; stopping rule: `dp.bounds`.
    """
    require_discount(mdp.gamma, "value_iteration")
    require_iterations(max_iters)
    return _value_iteration(mdp, start_values(mdp, v0), _sweeps(mdp, order), tolerance(tol, mdp.R.dtype), max_iters)


@jax.jit
def _value_iteration(mdp: MDP, v0, order, tol, max_iters) -> Solution:
    contraction = modulus(*mdp)

    def back_up(v: Float[Array, " S"], policy: Int[Array, " S"] | None) -> Backup:
        q = bellman.action_values(mdp, v)
        Tv = jnp.max(q, axis=1)
        return Backup(v, Tv, jnp.argmax(q, axis=1), enclose(v, Tv, contraction))

    def advance(k: Int[Array, ""], backup: Backup) -> Float[Array, " S"]:
        return backup.Tv if order is None else in_place(mdp, backup.v, order[(k - 1) % order.shape[0]])

    start = back_up(v0, None)
    # The gap is a maximum over all states: where sweeps visit few of them, or some only once in M, it waits for those.
    patience = PATIENCE if order is None else PATIENCE * -(-mdp.R.shape[0] // order.shape[1]) + order.shape[0]
    end, iterations = until_certified(advance, back_up, start, tol=tol, max_iters=max_iters, patience=patience)
    return conclude(mdp, end, iterations, tol)


def in_place(mdp: MDP, v: Float[Array, " S"], order: Int[Array, " N"]) -> Float[Array, " S"]:
    """Back up the states of `order` one after the other, each with the newest values: `v(s) <- T v(s)`. Shape [S]."""

    def back_up(v: Float[Array, " S"], s: Int[Array, ""]) -> tuple[Float[Array, " S"], None]:
        at_s = MDP(mdp.P[s], mdp.R[s], mdp.gamma, None if mdp.mask is None else mdp.mask[s])
        return v.at[s].set(bellman.optimality(at_s, v)), None

    return jax.lax.scan(back_up, v, order)[0]


def value_iteration_history(
    mdp: MDP, v0: ArrayLike | None, num: int, *, order: Order | ArrayLike | None = None
) -> History:
    """Return v_0 ... v_num of value iteration with the action values and the greedy policy of each; see History.

    v0: [S] or None for 0; order: as in `value_iteration`. gamma = 1 is allowed: nothing waits for convergence.
    """
    return _value_iteration_history(mdp, start_values(mdp, v0), _sweeps(mdp, order), num=num)


@functools.partial(jax.jit, static_argnames="num")
def _value_iteration_history(mdp: MDP, v0, order, *, num: int) -> History:
    def extend(v: Float[Array, " S"]) -> History:
        q = bellman.action_values(mdp, v)
        return History(v, q, jnp.argmax(q, axis=1))

    def step(k: Int[Array, ""], last: History) -> History:
        sweep = order is not None
        return extend(in_place(mdp, last.v, order[k % order.shape[0]]) if sweep else jnp.max(last.q, axis=1))

    return history(step, extend(v0), num)


def _sweeps(mdp: MDP, order: Order | ArrayLike | None) -> Int[Array, "M N"] | None:
    """Bring an order to the form [M, N], and refuse a state that is not there while it can be seen."""
    if order is None:
        return None
    order = order if isinstance(order, jax.Array) else jnp.asarray(np.asarray(order))
    if order.ndim not in (1, 2) or not jnp.issubdtype(order.dtype, jnp.integer):
        raise ValueError(f"order must be integers of shape [N] or [M, N], got {order.dtype} with {list(order.shape)}")
    S = mdp.R.shape[0]
    if not isinstance(order, Tracer):
        states = np.asarray(order)
        if states.size == 0 or states.min() < 0 or states.max() >= S:
            raise ValueError(f"order must name states 0 to {S - 1}, got {states.tolist()}")
    return jnp.atleast_2d(order)

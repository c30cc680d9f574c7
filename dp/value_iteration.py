"""Value iteration: turn the Bellman optimality equation into an update.

    v_{k+1}(s) = max_a Σ_{s',r} p(s', r|s, a) [r + γ v_k(s')]

Out of place and synchronous (the whole new vector from the whole old one), or in place, in any order of states: each
backup then uses the newest values, as in Gauss-Seidel, and only one state's values change at a time, or one block's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from dp import bellman
from dp.bounds import modulus
from dp.checks import require_at_least, require_model, start_values, tolerance
from dp.choices import argmax, maximum
from dp.fixed_point import PATIENCE, History, history, recentred, sweep, until_certified
from dp.mdp import MDP, Count, Scalar, at_states
from dp.solution import Solution, back_up, certified

# One sweep [N], or several [M, N] taken in turn; a sweep may skip states and repeat others.
Order = Int[Array, " N"] | Int[Array, "M N"]


def value_iteration(
    mdp: MDP,
    start: ArrayLike | Solution | None = None,
    *,
    order: Order | ArrayLike | None = None,
    block: int = 1,
    tol: Scalar | None = None,
    max_iters: Count = 1_000_000,
) -> Solution:
    """Iterate `v <- T v` until the certificate says that `max(upper - lower) <= tol`.

    start: values [S] or a Solution (default 0).
    tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32.
    order: None for synchronous sweeps, or the states in the order of their backups, in place: [N] for the same order in
        every sweep (`jnp.arange(S)`: Gauss-Seidel, round robin), [M, N] for M sweeps taken in turn (shuffled, or states
        at random: `jax.random.randint(key, (M, N), 0, S)`). Where some state never comes up it may not converge.
        A sweep in place is followed by a synchronous backup for the certificate, so that it reads the model twice;
        now and then it starts from the middle of the bounds.
    block: so many states of the order are backed up at once, from the newest values of all others: fewer, wider steps.
    max_iters: sweeps at most. A sweep that visits all states multiplies the error by γ or less.
    Returns a Solution. Raises ValueError for gamma = 1, tol <= 0, block < 1 or an order that names no state.
    Source: Sutton and Barto (2018), section 4.4; Bertsekas (2012), section 2.6.1; stopping rule: `dp.bounds`.
    """
    require_model(mdp, "value_iteration")
    require_at_least(1, max_iters, "max_iters")
    require_at_least(1, block, "block")
    order, tol = _sweeps(mdp, order), tolerance(tol, mdp.R.dtype)
    return _value_iteration(mdp, start_values(mdp, start), order, tol, max_iters, block=block)


@functools.partial(jax.jit, static_argnames="block")
def _value_iteration(mdp: MDP, v0, order, tol, max_iters, *, block: int) -> Solution:
    fixed, v0 = jax.lax.stop_gradient((mdp, v0))
    contraction = modulus(*fixed)

    def update(k: Int[Array, ""], v: Float[Array, " S"]) -> Float[Array, " S"]:
        return in_place(fixed, v, order[(k - 1) % order.shape[0]], block=block)

    start = back_up(fixed, contraction, v0)
    # The gap is a maximum over all states: where sweeps visit few of them, or some only once in M, it waits for those.
    patience = PATIENCE if order is None else PATIENCE * -(-mdp.size // order.shape[1]) + order.shape[0]
    advance, memory = (sweep, ()) if order is None else recentred(update, contraction)
    end, iterations = until_certified(
        advance,
        lambda v, policy: back_up(fixed, contraction, v),
        start,
        tol=tol,
        max_iters=max_iters,
        patience=patience,
        memory=memory,
    )
    return certified(mdp, end, contraction, iterations, tol)


def in_place(mdp: MDP, v: Float[Array, " S"], order: Int[Array, " N"], *, block: int = 1) -> Float[Array, " S"]:
    """Back up the states of `order`, `block` at a time, from the newest values: `v(s) <- T v(s)`. Shape [S].

    With blocks of one this is Gauss-Seidel; with one block of all states, a synchronous sweep.
    """

    def back_up(v: Float[Array, " S"], s: Int[Array, " block"]) -> tuple[Float[Array, " S"], None]:
        return v.at[s].set(bellman.optimality(at_states(mdp, s), v)), None

    # The last block is filled up with its own last state: the same backup twice.
    order = jnp.pad(order, (0, -order.shape[0] % block), mode="edge")
    return jax.lax.scan(back_up, v, order.reshape(-1, block))[0]


def value_iteration_history(
    mdp: MDP,
    start: ArrayLike | Solution | None,
    num: int,
    *,
    order: Order | ArrayLike | None = None,
    block: int = 1,
) -> History:
    """Return v_0 ... v_num of value iteration with the action values and the greedy policy of each; see History.

    start: values [S] or None for 0; order, block: as in `value_iteration`. gamma = 1 is allowed: nothing waits for
    convergence.
    """
    require_at_least(1, block, "block")
    return _value_iteration_history(mdp, start_values(mdp, start), _sweeps(mdp, order), num=num, block=block)


@functools.partial(jax.jit, static_argnames=("num", "block"))
def _value_iteration_history(mdp: MDP, v0, order, *, num: int, block: int) -> History:
    def extend(v: Float[Array, " S"]) -> History:
        q = bellman.action_values(mdp, v)
        return History(v, q, argmax(q, mdp.choices))

    def step(k: Int[Array, ""], last: History) -> History:
        if order is None:
            return extend(maximum(last.q, mdp.choices))
        return extend(in_place(mdp, last.v, order[k % order.shape[0]], block=block))

    return history(step, extend(v0), num)


def _sweeps(mdp: MDP, order: Order | ArrayLike | None) -> Int[Array, "M N"] | None:
    """Bring an order to the form [M, N], and refuse a state that is not there while it can be seen."""
    if order is None:
        return None
    order = order if isinstance(order, Tracer) else np.asarray(order)
    if order.ndim not in (1, 2) or not jnp.issubdtype(order.dtype, jnp.integer):
        raise ValueError(f"order must be integers of shape [N] or [M, N], got {order.dtype} with {list(order.shape)}")
    S = mdp.size
    if not isinstance(order, Tracer):
        states = np.asarray(order)
        if states.size == 0 or states.min() < 0 or states.max() >= S:
            raise ValueError(f"order must name states 0 to {S - 1}, got {states.tolist()}")
    return jnp.atleast_2d(jnp.asarray(order))

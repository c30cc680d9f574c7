"""A model that is a function: checked once, at the door, and never tabulated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from dp import memory
from dp.matrix_free import Steps
from dp.mdp import MDP
from dp.validation import check_actions, check_gamma, check_probabilities, floats, host, rounding_slack


def from_step(
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    probability: ArrayLike | Callable[[Any, Any, Any], Any],
    states: int,
    actions: int,
    gamma: ArrayLike,
    *,
    events: int | None = None,
    mask: ArrayLike | None = None,
) -> MDP:
    """Make a matrix-free MDP of a simulator: nothing is stored but a reward for every state and action.

        p(s' | s, a) = Σ_e p(e) [s' = next_state(s, a, e)]          R(s, a) = Σ_e p(e) reward(s, a, e)

    step: a jittable function of three int32 scalars, `step(state, action, event) -> (next_state, reward)`; a negative
        next state ends the episode. A `jax.tree_util.Partial` of it keeps parameters as arguments, which may change
        without a new compilation.
    probability: of the events, [E], the same everywhere, or a function `(state, action, event) -> probability`; then
        `events` says how many there are. states, actions: how many. mask: [S, A], True where the action is allowed.
    The dtype is that of the probabilities. A backup costs S A E calls, by blocks, in memory that does not grow with E.
    Every step is checked once here. Raises ValueError naming state and action where the probabilities do not sum to
    one, are negative, where a reward is not finite, or where a step leads to a state that is not there; MemoryError
    where the host has too little for R.
    """
    if states < 1 or actions < 1:
        raise ValueError(f"an MDP needs at least one state and one action, got {states} and {actions}")
    gamma = check_gamma(gamma)
    if callable(probability):
        if events is None or events < 1:
            raise ValueError(f"events must say how many there are, got {events}")
        given = _partial(probability)
    else:
        given = host(probability, "probability")
        (given,) = floats(given)
        if given.ndim != 1 or events not in (None, len(given)):
            raise ValueError(f"probability must have shape [E], got {list(given.shape)}; events = {events}")
        check_probabilities(given, "probability")
        events = len(given)
        given = jnp.asarray(given)
    memory.require(memory.steps(states * actions, 8), f"R of shape {[states, actions]}", memory.SPREAD)
    allowed, _ = check_actions(mask, None, (states, actions))
    every = jnp.arange(states, dtype=jnp.int32), jnp.arange(actions, dtype=jnp.int32)
    _require_scalars(step)
    P = Steps(_partial(step), given, every[0][:, None], every[1][None, :], jnp.arange(events, dtype=jnp.int32))
    least, total, most, R = map(np.asarray, jax.jit(Steps.extremes)(P))
    _check_steps(least, total, most, R, states, allowed, rounding_slack(np.dtype(P.dtype)))
    return MDP(
        P,
        jnp.asarray(np.where(allowed, R, 0)),
        jnp.asarray(gamma, P.dtype),
        None if allowed.all() else jnp.asarray(allowed),
    )


def _check_steps(least, total, most, R, states: int, allowed: np.ndarray, slack: float) -> None:
    if not np.isfinite(total).all():
        s, a = np.argwhere(~np.isfinite(total))[0]
        raise ValueError(f"in state {s} under action {a} the probability of an event is not finite")

    def place(wrong: np.ndarray) -> str | None:
        wrong = wrong & allowed
        return (
            None if not wrong.any() else f"in state {np.argwhere(wrong)[0][0]} under action {np.argwhere(wrong)[0][1]}"
        )

    if where := place(~(least >= 0)):
        raise ValueError(f"{where} some event has a negative probability")
    if where := place(~(np.abs(total - 1) <= slack)):
        wrong = total[allowed & ~(np.abs(total - 1) <= slack)][0]
        raise ValueError(f"{where} the probabilities of the events sum to {wrong:.10g}, not to 1")
    if where := place(~np.isfinite(R)):
        raise ValueError(f"{where} the reward is not finite")
    if where := place(most >= states):
        raise ValueError(f"{where} a step leads to state {most[allowed & (most >= states)][0]}: there are {states}")


def _require_scalars(step: Callable) -> None:
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    there, reward = (jax.eval_shape(jnp.asarray, x) for x in jax.eval_shape(step, scalar, scalar, scalar))
    if there.shape != () or not jnp.issubdtype(there.dtype, jnp.integer):
        raise ValueError(f"step must return an integer next state, got {there.dtype} of shape {list(there.shape)}")
    if reward.shape != ():
        raise ValueError(f"step must return one number as reward, got shape {list(reward.shape)}")


def _partial(function: Callable) -> jax.tree_util.Partial:
    return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)

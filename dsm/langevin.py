"""Langevin chains: init / step, with a state and an info; one chain each, many chains by vmap.

A step is any function `step(key, state) -> (state, info)`; `run` iterates it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Key


class LangevinState(NamedTuple):
    """Where a chain stands."""

    x: Float[Array, "*shape"]


class LangevinInfo(NamedTuple):
    """What a step tells."""

    diverged: Bool[Array, ""]
    """The step would have gone to inf or nan, so the chain stayed where it was."""


class History(NamedTuple):
    """What `run` kept, along a new leading axis of num_steps / thin."""

    states: Any
    """The state after every `thin` steps."""
    infos: Any
    """The infos of those `thin` steps together: whether a flag was ever set, the mean of a number."""


def init(x: Float[Array, "*shape"]) -> LangevinState:
    """The state of a chain that starts at x."""
    return LangevinState(x)


def ula_step(
    key: Key[Array, ""],
    state: LangevinState,
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    *,
    step_size: float | Float[Array, ""],
    temperature: float | Float[Array, ""] = 1.0,
) -> tuple[LangevinState, LangevinInfo]:
    """x' = x + h s(x) + sqrt(2 h T) eps, eps ~ N(0, I), h = step_size, T = temperature.

    The unadjusted Langevin algorithm: it samples p(x)^(1/T) up to a bias of order h (for N(0, v) at T = 1 the
    variance is v / (1 - h / 2v)), and is gradient ascent on log p at T = 0. Where s has slope -L it is stable
    for h < 2/L only.

    `key` is consumed. Raises ValueError if step_size is known and not positive, or temperature known and
    negative. Source: Roberts and Tweedie (1996) (their h is 2 h here).
    """
    if not isinstance(step_size, Tracer) and not float(step_size) > 0:
        raise ValueError(f"step_size = {step_size}: it must be positive")
    if not isinstance(temperature, Tracer) and not float(temperature) >= 0:
        raise ValueError(f"temperature = {temperature}: it must not be negative")
    x = state.x
    eps = jax.random.normal(key, x.shape, x.dtype)
    proposal = x + step_size * score(x) + jnp.sqrt(2.0 * step_size * temperature) * eps
    diverged = ~jnp.all(jnp.isfinite(proposal))
    return LangevinState(jnp.where(diverged, x, proposal)), LangevinInfo(diverged)


def run(
    key: Key[Array, ""],
    step: Callable[[Key[Array, ""], Any], tuple[Any, Any]],
    state: Any,
    num_steps: int,
    *,
    thin: int = 1,
) -> tuple[Any, History]:
    """state_{i+1}, info_i = step(fold_in(key, i), state_i) for i < num_steps: one chain.

    Returns the last state and a History. The history keeps every thin-th state, the last one included;
    `thin=num_steps` keeps no more than the last. The path does not depend on thin. `key` is consumed. Raises
    ValueError unless thin >= 1 divides num_steps >= 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: at least one step is needed")
    if thin < 1 or num_steps % thin:
        raise ValueError(f"thin = {thin} does not divide num_steps = {num_steps}")
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(step, key, state)[1])

    def block(state, first):
        def body(j, carry):
            state, total = carry
            state, info = step(jax.random.fold_in(key, first + j), state)
            # Summed as they come: with thin = num_steps a stack of infos would be as long as the run.
            return state, jax.tree.map(lambda a, b: a | b if a.dtype == bool else a + b, total, info)

        state, total = jax.lax.fori_loop(0, thin, body, (state, blank))
        return state, (state, jax.tree.map(lambda a: a if a.dtype == bool else a / thin, total))

    state, kept = jax.lax.scan(block, state, jnp.arange(0, num_steps, thin))
    return state, History(*kept)


def sample(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "N *shape"],
    *,
    step_size: float | Float[Array, ""],
    num_steps: int,
) -> Float[Array, "N *shape"]:
    """The ends of N independent chains of `ula_step` that start at the rows of x, num_steps steps each.

    Chain i is `run` with the i-th of `split(key, N)`, whatever the others do. `key` is consumed. Bias, stability and
    errors are those of `ula_step` and `run`.
    """

    def chain(key, x):
        def step(key, state):
            return ula_step(key, state, score, step_size=step_size)

        return run(key, step, init(x), num_steps, thin=num_steps)[0].x

    return jax.vmap(chain)(jax.random.split(key, x.shape[0]), x)

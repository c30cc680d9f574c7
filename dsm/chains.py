"""Markov chains: `run` iterates a step, `run_many` does for many, `warm_up` first finds a step size.

A step is any function `step(key, state) -> (state, info)`; states and infos are NamedTuples of arrays. All that a
chain needs to go on is its state, the key of the run and the number of steps done: save these three.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

Step = Callable[[Key[Array, ""], Any], tuple[Any, Any]]


class History(NamedTuple):
    """What `run` kept; the first two along a new leading axis of num_steps / thin."""

    states: Any
    """The state after every `thin` steps."""
    infos: Any
    """The infos of those `thin` steps together: whether a flag was ever set, the mean of a number."""
    diverged_at: Int[Array, ""]
    """The number of the first step whose `info.diverged` was set; -1 if there is none."""


def run(
    key: Key[Array, ""], step: Step, state: Any, num_steps: int, *, thin: int = 1, first: int | Int[Array, ""] = 0
) -> tuple[Any, History]:
    """state_{i+1}, info_i = step(fold_in(key, i), state_i) for first <= i < first + num_steps: one chain.

    Returns the last state and a History. The history keeps every thin-th state, the last one included;
    `thin=num_steps` keeps no more than the last, in memory that does not grow with num_steps. The path does not
    depend on thin. With one key, 100 steps and then 100 more with `first=100` give the same bits as 200 at once.

    `key` is consumed by the whole run. Raises ValueError unless thin >= 1 divides num_steps >= 1, or if first is
    known and negative.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: at least one step is needed")
    if thin < 1 or num_steps % thin:
        raise ValueError(f"thin = {thin} does not divide num_steps = {num_steps}")
    if not isinstance(first, Tracer) and int(first) < 0:
        raise ValueError(f"first = {first}: steps are counted from 0")

    def blank_of(leaf):
        counts = jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.zeros(leaf.shape, jnp.result_type(float) if counts else leaf.dtype)

    blank = jax.tree.map(blank_of, jax.eval_shape(step, key, state)[1])

    def block(carry, start):
        def body(j, carry):
            state, diverged_at, mean = carry
            state, info = step(jax.random.fold_in(key, start + j), state)
            fails = jnp.any(jnp.asarray(getattr(info, "diverged", False)))
            diverged_at = jnp.where(fails & (diverged_at < 0), start + j, diverged_at)

            # Averaged as they come: with thin = num_steps a stack of infos would be as long as the run, and a sum in
            # float32 stands still at 2^24.
            def join(so_far, new):
                if new.dtype == bool:
                    return so_far | new
                return so_far + (new.astype(so_far.dtype) - so_far) / (j + 1).astype(so_far.dtype)

            return state, diverged_at, jax.tree.map(join, mean, info)

        *carry, mean = jax.lax.fori_loop(0, thin, body, (*carry, blank))
        return tuple(carry), (carry[0], mean)

    starts = jnp.asarray(first, jnp.int32) + jnp.arange(0, num_steps, thin, dtype=jnp.int32)
    (state, diverged_at), kept = jax.lax.scan(block, (state, jnp.asarray(-1, jnp.int32)), starts)
    return state, History(*kept, diverged_at)


def run_many(
    keys: Key[Array, " N"],
    step: Step,
    states: Any,
    num_steps: int,
    *,
    thin: int = 1,
    first: int | Int[Array, ""] = 0,
    tile: int | None = None,
) -> tuple[Any, History]:
    """`run` for N chains at once, `states` and results with a leading axis [N].

    With `tile` they run so many at a time, the last group filled up. XLA may sum in another order for another number
    of chains, which changes last digits and, in time, paths; with one tile chain i has the same bits alone or among a
    thousand. It costs a lonely chain the time of a whole tile. Without one, chains whose states are sharded over a
    mesh run where they are and never wait for each other; a CPU is a device for each core if the variable
    JAX_NUM_CPU_DEVICES says so, which for cheap steps is faster than XLA's own threads. The i-th key is consumed by
    chain i. Raises ValueError as `run` does, if tile < 1, or with a tile if there is no chain.
    """

    def together(keys, states):
        return jax.vmap(lambda key, state: run(key, step, state, num_steps, thin=thin, first=first))(keys, states)

    if tile is None:
        return together(keys, states)
    if tile < 1:
        raise ValueError(f"tile = {tile}: at least one chain is needed")
    num = keys.shape[0]
    if num == 0:
        raise ValueError("keys is empty: there is no chain")
    index = jnp.arange(-(-num // tile) * tile, dtype=jnp.int32).reshape(-1, tile) % num
    found = jax.lax.map(lambda i: together(keys[i], jax.tree.map(lambda a: a[i], states)), index)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num], found)


class WarmUp(NamedTuple):
    """What `warm_up` found."""

    state: Any
    """The state after the last step, to go on from."""
    step_size: Float[Array, ""]
    """The averaged step size: keep it fixed from here on."""
    step_sizes: Float[Array, " num_steps"]
    """Those that were tried, step by step."""
    acceptance: Float[Array, " num_steps"]
    """The mean acceptance probability of each step."""


def warm_up(
    key: Key[Array, ""],
    step: Callable[[Key[Array, ""], Any, Float[Array, ""]], tuple[Any, Any]],
    state: Any,
    num_steps: int,
    *,
    step_size: float | Float[Array, ""],
    target_acceptance: float = 0.574,
) -> WarmUp:
    """Dual averaging of log h towards a mean acceptance: log h_t = mu - sqrt(t) / (g (t + t0)) sum_i e_i.

    e_i = target_acceptance - info.acceptance of step i, mu = log(10 h_0) with h_0 the step_size to start from,
    g = 0.05, t0 = 10; the answer is the average of log h_t with weights that forget the start, t^-0.75. `step(key,
    state, step_size)` is `langevin.mala_step`, say, for which 0.574 is optimal in high dimension. For one step size
    common to many chains give a step that is vmapped already: acceptance is averaged over all that the info holds.
    A step that is adapted does not leave the target invariant: draw samples with `run` afterwards.

    `key` is consumed. Raises ValueError unless num_steps >= 1, step_size > 0 and 0 < target_acceptance < 1 where known,
    or if the info of a step has no acceptance.
    Source: Hoffman and Gelman (2014), equation 6; Roberts and Rosenthal (1998) for 0.574.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: at least one step is needed")
    check_step_size(step_size)
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance = {target_acceptance}: it must lie between 0 and 1")
    info = jax.eval_shape(step, key, state, jnp.asarray(step_size))[1]
    if not hasattr(info, "acceptance"):
        raise ValueError(
            f"{type(info).__name__} has no acceptance: warm_up is for steps that accept or refuse, as MALA's"
        )
    dtype = info.acceptance.dtype
    start = jnp.log(jnp.asarray(step_size, dtype))

    def body(carry, i):
        state, errors, log_step, average = carry
        state, info = step(jax.random.fold_in(key, i), state, jnp.exp(log_step))
        acceptance = jnp.mean(info.acceptance).astype(dtype)
        t = (i + 1).astype(dtype)
        errors = errors + target_acceptance - acceptance
        new = start + math.log(10.0) - jnp.sqrt(t) / 0.05 * errors / (t + 10.0)
        weight = t**-0.75
        return (state, errors, new, average + weight * (new - average)), (jnp.exp(log_step), acceptance)

    carry = (state, jnp.zeros((), dtype), start, start)
    (state, _, _, average), (tried, acceptance) = jax.lax.scan(body, carry, jnp.arange(num_steps))
    return WarmUp(state, jnp.exp(average), tried, acceptance)


def check_step_size(step_size: float | Float[Array, "..."]) -> None:
    """Raises ValueError unless step_size, one or many, is positive and finite; a traced value passes unseen."""
    if isinstance(step_size, Tracer):
        return
    steps = np.asarray(step_size)
    if not np.all((steps > 0) & np.isfinite(steps)):
        raise ValueError(f"step_size = {step_size}: it must be positive and finite")

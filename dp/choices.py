"""Who owns which choice: maxima, minima and sums over the actions of a state, and what a policy takes of them.

Action values come in one of two forms. A table `[S, A]`, where every state has A actions: there `choices` is None.
Or, where states have different numbers of actions, a vector `[C]` of all choices, those of state 0 first: there
`choices` says which belong to whom, and nothing is padded to the state that has most.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped

from dp.indexing import at

# Tables of up to FEW actions are reduced slot by slot. Groups of choices too, in one expression up to UNROLLED slots,
# in a loop up to LONG, and beyond along rows.
FEW, UNROLLED, LONG = 16, 4, 64


class Choices(NamedTuple):
    """The choices of every state, state s owning `first[s]`, `first[s] + 1`, ...

    first: [S]. owner: [C], the state of each choice.
    groups: states with about the same number of choices, [slots, states]: the choices of each state in a column,
        filled up with C, which stands for no choice. place: [S], where each state is among the groups' columns.
    """

    first: Int[Array, " S"]
    owner: Int[Array, " C"]
    groups: tuple[Int[Array, "A n"], ...]
    place: Int[Array, " S"]


def make_choices(start: Int[np.ndarray, " S1"]) -> Choices:
    """Return the `Choices` of states that own `start[s]` to `start[s + 1] - 1`, at least one each."""
    counts = np.diff(start)
    groups, place = grouped(counts)
    columns = []
    for slots, states in groups:
        choice = start[states] + np.arange(slots)[:, None]
        columns.append(np.where(choice < start[states + 1], choice, start[-1]).astype(np.int32))
    return Choices(
        first=jnp.asarray(start[:-1], jnp.int32),
        owner=jnp.asarray(np.repeat(np.arange(len(counts), dtype=np.int32), counts)),
        groups=tuple(map(jnp.asarray, columns)),
        place=jnp.asarray(place),
    )


def grouped(counts: Int[np.ndarray, " n"]) -> tuple[list[tuple[int, np.ndarray]], Int[np.ndarray, " n"]]:
    """Group things by size, rounded up to 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most half as much again.

    Returns [(size, which things)], and where each thing is when the groups are laid end to end.
    """
    sizes = [0, 1]
    while sizes[-1] < counts.max(initial=1):
        last = sizes[-1]
        sizes.append(last * 3 // 2 if last > 1 and last & (last - 1) == 0 else 1 << last.bit_length())
    size = np.asarray(sizes)[np.searchsorted(sizes, counts)]
    order = np.argsort(size, kind="stable")
    place = np.empty(len(counts), np.int32)
    place[order] = np.arange(len(counts), dtype=np.int32)
    found, where = np.unique(size[order], return_index=True)
    return list(zip(map(int, found), np.split(order, where[1:]), strict=True)), place


def deterministic(policy: ArrayLike) -> bool:
    """Return whether a policy names actions (integers [S]) or gives probabilities (floats, one for each choice)."""
    return jnp.issubdtype(jnp.result_type(policy), jnp.integer)


def most(x: Shaped[Array, "..."], choices: Choices | None) -> int:
    """Return the largest number of actions of a state."""
    return x.shape[-1] if choices is None else max(group.shape[0] for group in choices.groups)


def number(x: Shaped[Array, "..."], choices: Choices | None) -> Int[Array, "*S"] | int:
    """Return how many actions each state has, forbidden ones included."""
    return x.shape[-1] if choices is None else jnp.diff(jnp.append(choices.first, jnp.int32(x.shape[0]))).astype(int)


def maximum(q: Float[Array, "*rows"], choices: Choices | None) -> Float[Array, "*S"]:
    """`max_a q(s, a)`."""
    return _reduce(q, choices, jnp.maximum, jnp.max, -jnp.inf)


def minimum(q: Float[Array, "*rows"], choices: Choices | None) -> Float[Array, "*S"]:
    """`min_a q(s, a)`."""
    return _reduce(q, choices, jnp.minimum, jnp.min, jnp.inf)


def total(q: Float[Array, "*rows"], choices: Choices | None) -> Float[Array, "*S"]:
    """`Σ_a q(s, a)`."""
    return _reduce(q, choices, jnp.add, jnp.sum, 0)


def anywhere(x: Bool[Array, "*rows"], choices: Choices | None) -> Bool[Array, "*S"]:
    """Return whether x is true of any action of the state."""
    return _reduce(x, choices, jnp.logical_or, jnp.any, False)


def argmax(q: Float[Array, "*rows"], choices: Choices | None) -> Int[Array, "*S"]:
    """`argmax_a q(s, a)`: the number of the action within its state; of equally good ones, the first."""

    def better(found: tuple[Array, Array], slot: Array, k: int | Array) -> tuple[Array, Array]:
        best, which = found
        return jnp.where(slot > best, slot, best), jnp.where(slot > best, k, which)

    def first(slot: Array) -> tuple[Array, Array]:
        return slot, jnp.zeros(slot.shape, int)

    return _by_slots(q, choices, first, better, lambda found: found[1], jnp.argmax, -jnp.inf)


def rows(policy: Int[Array, " S"], choices: Choices | None, actions: int) -> Int[Array, " S"]:
    """Return the flat index of the choice that a deterministic policy takes in every state."""
    return (
        jnp.arange(policy.shape[0]) * actions + policy if choices is None else choices.first + policy.astype(jnp.int32)
    )


def taken(q: Shaped[Array, "*rows"], policy: Int[Array, " S"], choices: Choices | None) -> Shaped[Array, " S"]:
    """`q(s, π(s))`; NaN in a table that has no such action."""
    if choices is not None:
        return at(q, rows(policy, choices, 0))
    if not 0 < q.shape[-1] <= FEW:
        # Negative numbers would count from the end.
        action = jnp.where(policy < 0, q.shape[-1], policy)
        return jnp.take_along_axis(q, action[:, None], axis=1)[:, 0]
    # Slot by slot, like the maximum that it is compared with.
    nothing = jnp.full(policy.shape, jnp.nan if jnp.issubdtype(q.dtype, jnp.floating) else 0, q.dtype)
    return functools.reduce(lambda found, a: jnp.where(policy == a, q[:, a], found), range(q.shape[-1]), nothing)


def of_state(x: Shaped[Array, " S"], choices: Choices | None) -> Shaped[Array, "*rows"]:
    """Return x(s) for every choice: [C], or [S, 1] to be broadcast over actions."""
    return x[:, None] if choices is None else at(x, choices.owner)


def _reduce(x: Array, choices: Choices | None, combine: Callable, along_rows: Callable, nothing: Any) -> Array:
    def same(slot: Array) -> Array:
        return slot

    return _by_slots(x, choices, same, lambda found, slot, k: combine(found, slot), same, along_rows, nothing)


def _by_slots(
    x: Array,
    choices: Choices | None,
    first: Callable[[Array], Any],
    fold: Callable[[Any, Array, Any], Any],
    last: Callable[[Any], Array],
    along_rows: Callable,
    nothing: Any,
) -> Array:
    """Reduce over actions: slot by slot, or along rows where there are many slots; nothing fills up the groups.

    XLA on CPU would fuse a reduction along rows with the sums over successors before it into one loop, five times as
    slow as the two.
    """
    if choices is None:
        A = x.shape[-1]
        if not 0 < A <= FEW:
            return along_rows(x, axis=-1)
        return last(functools.reduce(lambda found, a: fold(found, x[..., a], a), range(1, A), first(x[..., 0])))
    padded = jnp.append(x, jnp.asarray(nothing, x.dtype))

    def reduced(group: Int[Array, "A n"]) -> Array:
        slots = group.shape[0]
        if slots > LONG:
            return along_rows(at(padded, group.T), axis=1)

        def step(k: int | Array, found: Any) -> Any:
            return fold(found, at(padded, group[k]), k)

        # Written out only while it is short: every slot costs time to compile.
        begin = first(at(padded, group[0]))
        if slots <= UNROLLED:
            return last(functools.reduce(lambda found, k: step(k, found), range(1, slots), begin))
        return last(jax.lax.fori_loop(1, slots, step, begin))

    return at(jnp.concatenate([reduced(group) for group in choices.groups]), choices.place)

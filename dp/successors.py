"""Transitions by lists of successors: K of them for every row, or a number that differs from row to row.

Slot-major: the k-th successors of all rows lie side by side. A backup is then K fused passes over long vectors, which
XLA turns into what one would write in C; the same numbers row by row take several times as long.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dp.choices import grouped
from dp.indexing import at

# Up to so many slots a backup is one fused expression; beyond, a loop over slots, and for rows as long as LONG a sum
# along each row. Ragged models have many groups, and each is compiled.
UNROLLED, UNROLLED_GROUP, LONG = 16, 4, 64


class Successors(NamedTuple):
    """`p(s' | row)` as K pairs of a successor and its probability; a pair of probability 0 stands for nothing.

    state: [K, *rows], each in range. prob: [K, *rows]. Successors may repeat: their probabilities add up.
    """

    state: Int[Array, "K *rows"]
    prob: Float[Array, "K *rows"]

    def __matmul__(self, v: Float[Array, " T"]) -> Float[Array, "*rows"]:
        """`[P v](row) = Σ_k prob_k(row) v(state_k(row))`."""
        return self.times(v, UNROLLED)

    def times(self, v: Float[Array, " T"], unrolled: int) -> Float[Array, "*rows"]:
        """`P v`, as one expression for up to so many slots: it is the fastest to run, and takes longest to compile."""
        K, *shape = self.state.shape
        state, prob = self._flat()

        def slot(k: int | Int[Array, ""]) -> Float[Array, " N"]:
            return prob[k] * at(v, state[k])

        summed = jnp.sum(prob.T * at(v, state.T), axis=1) if K > LONG else _summed(slot, prob, unrolled)
        return summed.reshape(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the rows. Successors are not an axis."""
        return self.state.shape[1:]

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the probabilities."""
        return self.prob.dtype

    def mass(self) -> Float[Array, "*rows"]:
        """`Σ_s' p(s' | row)`."""
        _, prob = self._flat()
        # Not jnp.sum, which takes XLA on CPU ten times as long.
        return _summed(lambda k: prob[k], prob, UNROLLED).reshape(self.shape)

    def terms(self) -> Int[Array, ""]:
        """The largest number of products that a row adds up."""
        return jnp.max(jnp.sum(self.prob != 0, axis=0, dtype=jnp.int32), initial=0)

    def take(self, rows: Int[Array, "*n"]) -> "Successors":
        """Return some rows, by their flat index."""
        state, prob = self._flat()
        K, N = state.shape
        if K * N >= 2**31:
            return Successors(at(state, np.s_[:, rows]), at(prob, np.s_[:, rows]))
        # Number by number: a gather of columns is laid out by rows first and then transposed, at twice the time.
        slot = jnp.arange(K, dtype=jnp.int32).reshape(K, *(1 for _ in rows.shape)) * N
        place = slot + rows[None].astype(jnp.int32)
        state, prob = (at(x.reshape(-1), place) for x in (state, prob))
        return Successors(state, prob)

    def tabulated(self) -> "Successors":
        """Return itself."""
        return self

    def _flat(self) -> tuple[Int[Array, "K N"], Float[Array, "K N"]]:
        K, *shape = self.state.shape
        return self.state.reshape(K, math.prod(shape)), self.prob.reshape(K, math.prod(shape))


def _summed(
    slot: Callable[[int | Int[Array, ""]], Float[Array, "*rows"]], prob: Float[Array, "K *rows"], unrolled: int
) -> Float[Array, "*rows"]:
    """`Σ_k slot(k)` over the slots of prob, written out where there are few."""
    K, *shape = prob.shape
    if unrolled < K:
        return jax.lax.fori_loop(1, K, lambda k, summed: summed + slot(k), slot(0))
    return sum((slot(k) for k in range(1, K)), start=slot(0)) if K else jnp.zeros(shape, prob.dtype)


class Ragged(NamedTuple):
    """Rows with different numbers of successors, in groups of about the same number.

    groups: `Successors` with rows [n] each: together all rows, filled up to at most half as many successors again.
    place: [C], where each row is when the groups are laid end to end.
    """

    groups: tuple[Successors, ...]
    place: Int[Array, " C"]

    def __matmul__(self, v: Float[Array, " T"]) -> Float[Array, " C"]:
        """`[P v](row) = Σ_s' p(s' | row) v(s')`."""
        return self._join([group.times(v, UNROLLED_GROUP) for group in self.groups])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the rows: [C]."""
        return self.place.shape

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the probabilities."""
        return self.groups[0].prob.dtype

    @property
    def longest(self) -> int:
        """The largest number of successors there is room for, at least one."""
        return max(1, *(group.state.shape[0] for group in self.groups))

    @property
    def stored(self) -> int:
        """How many successors are stored."""
        return sum(group.state.size for group in self.groups)

    def mass(self) -> Float[Array, " C"]:
        """`Σ_s' p(s' | row)`."""
        return self._join([group.mass() for group in self.groups])

    def terms(self) -> Int[Array, ""]:
        """The largest number of products that a row adds up."""
        return jnp.max(jnp.stack([group.terms() for group in self.groups]))

    def take(self, rows: Int[Array, "*n"]) -> Successors:
        """Return some rows by their index, filled up to the longest row of all: for a few rows at a time."""
        place, K = at(self.place, rows), self.longest
        state, prob = jnp.zeros((K, *rows.shape), jnp.int32), jnp.zeros((K, *rows.shape), self.dtype)
        first = 0
        for group in self.groups:
            size, n = group.state.shape
            here = (place >= first) & (place < first + n)
            found = group.take(jnp.clip(place - first, 0, n - 1))
            state = state.at[:size].set(jnp.where(here, found.state, state[:size]))
            prob = prob.at[:size].set(jnp.where(here, found.prob, prob[:size]))
            first += n
        return Successors(state, prob)

    def tabulated(self) -> Successors:
        """Return all rows filled up to the longest: for models that are small."""
        return self.take(jnp.arange(self.place.shape[0]))

    def _join(self, parts: list[Array]) -> Array:
        return at(jnp.concatenate(parts), self.place)


def make_ragged(
    row: Int[np.ndarray, " N"], state: Int[np.ndarray, " N"], prob: Float[np.ndarray, " N"], rows: int
) -> Ragged:
    """Return the operator with the entries `p(state | row) = prob`, sorted by row, of so many rows."""
    counts = np.bincount(row, minlength=rows)
    begin = np.append(0, np.cumsum(counts))
    parts, place = grouped(counts)
    # One entry more, of probability 0, for rows to be filled up with.
    state, prob = np.append(state, 0).astype(np.int32), np.append(prob, np.zeros(1, prob.dtype))
    groups = []
    for slots, members in parts:
        entry = begin[members] + np.arange(slots)[:, None]
        entry = np.where(entry < begin[members + 1], entry, len(prob) - 1)
        groups.append(Successors(jnp.asarray(state[entry]), jnp.asarray(prob[entry])))
    return Ragged(tuple(groups), jnp.asarray(place))

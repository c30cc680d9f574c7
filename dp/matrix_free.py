"""Transitions that are computed and never stored: a function `step(state, action, event) -> (next_state, reward)`.

A backup calls it for every state, action and event, a block of states at a time, so that memory does not grow with the
number of events.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dp.successors import Successors

# Steps computed at a time: enough to keep the processor busy, few enough for its cache.
BLOCK = 1 << 16


class Steps(NamedTuple):
    """`p(s' | row) = Σ_e p(e | row) [step(s, a, e) leads to s']`; a step to a negative state ends the episode.

    step: (state, action, event) -> (next state, reward), on scalars, a `jax.tree_util.Partial`.
    probability: of events, [E], or a Partial (state, action, event) -> probability.
    state, action: the rows, [S, 1] and [1, A], or [S] and [S] for a chain: they broadcast. event: [E].
    """

    step: jax.tree_util.Partial
    probability: Float[Array, " E"] | jax.tree_util.Partial
    state: Int[Array, "..."]
    action: Int[Array, "..."]
    event: Int[Array, " E"]

    def __matmul__(self, v: Float[Array, " T"]) -> Float[Array, "*rows"]:
        """`[P v](row) = Σ_e p(e | row) v(s')`."""
        return self._expect(lambda there, p: p * v.at[there].get(mode="clip"))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the rows. Successors are not an axis."""
        return jnp.broadcast_shapes(self.state.shape, self.action.shape)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the probabilities."""
        scalar = jax.ShapeDtypeStruct((), self.state.dtype)
        return jax.eval_shape(self.outcome, scalar, scalar, scalar)[1].dtype

    def extremes(self) -> tuple[Array, Array, Array, Array]:
        """Return what the door checks, and R: `min_e p`, `Σ_e p`, `max_e s'` and `Σ_e p r`, each of every row."""

        def one_event(state: Array, action: Array, event: Array) -> tuple[Array, ...]:
            there, p, earned = self.possible(state, action, event)
            return p, p, jnp.where(p == 0, -1, there), earned

        reduced = jnp.min, jnp.sum, jnp.max, jnp.sum
        return self._by_blocks(one_event, lambda x: tuple(f(y, axis=-1) for f, y in zip(reduced, x, strict=True)))

    def mass(self) -> Float[Array, "*rows"]:
        """`Σ_s' p(s' | row)`."""
        return self._expect(lambda there, p: p)

    def terms(self) -> Int[Array, ""]:
        """The largest number of products that a row adds up, or more."""
        return jnp.asarray(self.event.shape[0], jnp.int32)

    def take(self, rows: Int[Array, "*n"]) -> "Steps":
        """Return some rows, by their flat index."""
        state, action = (jnp.broadcast_to(x, self.shape).reshape(-1) for x in (self.state, self.action))
        return self._replace(state=state[rows], action=action[rows])

    def tabulated(self) -> Successors:
        """Store what is computed: E successors for every row."""
        every_event: Callable = jax.vmap(self.outcome, in_axes=(None, None, 0))
        for _ in self.shape:
            every_event = jax.vmap(every_event, in_axes=(0, 0, None), out_axes=1)
        there, p = every_event(*jnp.broadcast_arrays(self.state, self.action), self.event)
        return Successors(there, p)

    def possible(self, state: Int[Array, ""], action: Int[Array, ""], event: Int[Array, ""]) -> tuple[Array, ...]:
        """Return what an event leads to, negative where the episode ends, its probability and its expected reward."""
        there, reward = self.step(state, action, event)
        given: Any = self.probability
        p = jnp.asarray(given(state, action, event) if callable(given) else given[event])
        # An event that cannot happen may earn anything, and lead anywhere.
        # Wider integers must not wrap around.
        there = jnp.clip(there, -1, jnp.iinfo(jnp.int32).max).astype(jnp.int32)
        return there, p, jnp.where(p == 0, 0, p * jnp.asarray(reward, p.dtype))

    def outcome(self, state: Int[Array, ""], action: Int[Array, ""], event: Int[Array, ""]) -> tuple[Array, Array]:
        """Return a next state and the probability to go on there."""
        there, p, _ = self.possible(state, action, event)
        goes_on = (there >= 0) & (p != 0)
        return jnp.where(goes_on, there, 0), jnp.where(goes_on, p, 0)

    def _expect(self, of: Callable[[Array, Array], Array]) -> Float[Array, "*rows"]:
        """Sum `of` (next state, probability) over events."""
        return self._by_blocks(lambda *one: of(*self.outcome(*one)), lambda x: jnp.sum(x, axis=-1))

    def _by_blocks(self, of: Callable, reduce: Callable) -> Any:
        """Reduce `of(state, action, event)` over events, for a block of the first axis of the rows at a time."""

        def every_event(rows: tuple[Array, Array]) -> Any:
            one: Callable = jax.vmap(of, in_axes=(None, None, 0))
            for _ in self.shape[1:]:
                one = jax.vmap(one, in_axes=(0, 0, None))
            return reduce(one(*rows, self.event))

        states, *others = self.shape
        block = BLOCK // max(1, math.prod(others) * self.event.shape[0])
        rows = tuple(jnp.broadcast_arrays(self.state, self.action))
        return jax.lax.map(every_event, rows, batch_size=min(max(block, 1), states))

"""Transitions laid over a device mesh by states: the rows of n = S / D states on each of D devices.

A backup of a row reads values of states that live elsewhere. They come in one of two ways, once for every `P @ v`:

    gather    every device gets the whole of v                             (D - 1) n numbers to each device
    halo      every device gets what its own rows read, in lists           (D - 1) L numbers to each device

L is the length of the longest list that any device reads of any other: at most n, and far less where states that lead
to each other have numbers close to each other, as in a grid. Nothing else of P or v ever moves.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from dp.indexing import at
from dp.layout import Layout
from dp.matrix_free import Steps
from dp.successors import Successors


class Full(NamedTuple):
    """Rows with a probability for every state, `table` [*rows, S']: an array that speaks as the sparse forms do."""

    table: Float[Array, "..."]

    def __matmul__(self, v: Float[Array, " T"]) -> Float[Array, "*rows"]:
        """`[P v](row) = Σ_s' p(s' | row) v(s')`."""
        return jnp.matmul(self.table, v, precision="highest")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the rows. Successors are not an axis."""
        return self.table.shape[:-1]

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the probabilities."""
        return self.table.dtype

    def mass(self) -> Float[Array, "*rows"]:
        """`Σ_s' p(s' | row)`."""
        return jnp.sum(self.table, axis=-1)

    def terms(self) -> Int[Array, ""]:
        """The largest number of products that a row adds up."""
        # State by state: no second array of the size of P.
        return jnp.max(lax.map(nonzeros, self.table))

    def take(self, rows: Int[Array, "*n"]) -> "Full":
        """Return some rows, by their flat index."""
        return Full(at(self.table.reshape(-1, self.table.shape[-1]), rows))

    def tabulated(self) -> Successors:
        """List every state as a successor."""
        prob = jnp.moveaxis(self.table, -1, 0)
        every = jnp.arange(prob.shape[0], dtype=jnp.int32).reshape(-1, *[1] * (prob.ndim - 1))
        return Successors(jnp.broadcast_to(every, prob.shape), prob)


def nonzeros(table: Float[Array, "... T"]) -> Int[Array, ""]:
    """Return the largest number of entries of any row that are not 0."""
    # Not count_nonzero, which takes XLA on CPU six times as long.
    return jnp.max(jnp.sum(table != 0, axis=-1, dtype=jnp.int32))


class Sharded(NamedTuple):
    """`P v` on D devices: rows, values and products of n states on each.

    rows: the transitions of the model or of a chain; each device holds those of its own states.
    layout: which devices. send: None, where all values are gathered. Or, for a halo, [D, D, L]: `send[i, j]` are the
        states, numbered within device i, whose values i sends to j; short lists are filled up. Then the successors
        stored in `rows` are numbers too of what the device has seen: its own n values, and L of each device after them.
    """

    rows: Successors | Steps | Full
    layout: Layout
    send: Int[Array, "D D L"] | None = None

    # Compiled as one: op by op, as outside of jit, devices of several hosts would wait for each other at every step.
    @jax.jit
    def __matmul__(self, v: Float[Array, " T"]) -> Float[Array, "*rows"]:
        """`[P v](row) = Σ_s' p(s' | row) v(s')`: one exchange of values, then every device for itself."""

        def back_up(rows: Any, v: Float[Array, " n"], send: Int[Array, "1 D L"] | None) -> Array:
            return rows @ self._seen(v, send)

        return self._map(back_up, v, self.send)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the rows. Successors are not an axis."""
        return self.rows.shape

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the probabilities."""
        return self.rows.dtype

    @jax.jit
    def mass(self) -> Float[Array, "*rows"]:
        """`Σ_s' p(s' | row)`."""
        return self._map(lambda rows: rows.mass())

    @jax.jit
    def terms(self) -> Int[Array, ""]:
        """The largest number of products that a row adds up."""
        return jnp.max(self._map(lambda rows: rows.terms()[None]))

    @functools.partial(jax.jit, static_argnames="follow")
    def chain(self, follow: Callable[[Any, Array], Any], policy: Int[Array, " S"]) -> "Sharded":
        """Return the chain of a deterministic policy, `follow(rows, policy)` on every device: nothing moves."""
        out = self._specs(chain=True)
        return self._replace(rows=self._map(follow, policy, out=out))

    @jax.jit
    def plain(self) -> Array | Successors | Steps:
        """Return the rows as a form of P that knows of no devices; its arrays stay where they are."""
        if isinstance(self.rows, Full):
            return self.rows.table
        if self.send is None:
            return self.rows

        def renumbered(rows: Successors, send: Int[Array, "1 D L"]) -> Successors:
            own = lax.axis_index(self.layout.axis) * n + jnp.arange(n, dtype=jnp.int32)
            return Successors(at(self._seen(own, send), rows.state), rows.prob)

        n = self.shape[0] // self.layout.devices
        return self._map(renumbered, self.send, out=PartitionSpec(None, self.layout.axis))

    @property
    def state(self) -> Array:
        """The array that says how many axes the rows have: see `dp.transitions.rank`."""
        return self.rows.table if isinstance(self.rows, Full) else self.rows.state

    def shardings(self) -> Any:
        """Return where each array of the rows is to lie."""
        specs = jax.tree.broadcast(self._specs(), self.rows)
        return jax.tree.map(lambda spec: NamedSharding(self.layout.mesh, spec), specs)

    def tabulated(self) -> Successors:
        """Return the rows as lists of successors."""
        return self.rows.tabulated() if isinstance(self.rows, Full) else self.plain().tabulated()

    def _seen(self, own: Array, send: Int[Array, "1 D L"] | None) -> Array:
        """Return what the rows of a device read: everything, or its own n numbers and those of its halo."""
        if send is None:
            return lax.all_gather(own, self.layout.axis, tiled=True)
        received = lax.all_to_all(own[send[0]], self.layout.axis, 0, 0, tiled=True)
        return jnp.concatenate([own, received.reshape(-1)])

    def _map(self, f: Callable, *laid: Any, out: Any = None) -> Any:
        """`f(rows, *laid)` on every device; what is laid has states, or devices, along its first axis."""
        along = PartitionSpec(self.layout.axis)
        given = (self._specs(), *[along] * len(laid))
        return jax.shard_map(f, mesh=self.layout.mesh, in_specs=given, out_specs=along if out is None else out)(
            self.rows, *laid
        )

    def _specs(self, *, chain: bool = False) -> Any:
        """Return which axis of each array of the rows runs over states; those of Steps change when a policy chose."""
        along = PartitionSpec(self.layout.axis)
        if isinstance(self.rows, Successors):
            return PartitionSpec(None, self.layout.axis)
        if isinstance(self.rows, Full):
            return along
        none = PartitionSpec()
        chain = chain or self.rows.state.ndim == 1
        return Steps(none, none, along, along if chain else none, none)  # pyright: ignore[reportArgumentType]

"""Transition probabilities as a linear operator: `[P v](s, a) = Σ_s' p(s' | s, a) v(s')`.

Every algorithm of `dp` reads P through the functions of this file alone. P is one of

    an array [S, A, S']     dense; successors are the last, contiguous axis: a backup streams through P once
    Successors              K pairs of a successor and its probability for every row              (`dp.successors`)
    Ragged                  as many pairs as a row has, for as many actions as a state has        (`dp.successors`)
    Steps                   a function, called when it is needed; nothing is stored               (`dp.matrix_free`)
    Sharded                 one of these, its rows laid over the devices of a mesh                (`dp.sharded`)

and the chain of a policy is one of these, or one of the two at the end of this file. `P @ v` works for all.

Mass may be missing from a row: what is missing is the probability that the episode ends there, with value 0.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dp.choices import Choices, deterministic, of_state, rows, total
from dp.indexing import at
from dp.matrix_free import Steps
from dp.sharded import Full, Sharded, nonzeros
from dp.successors import Ragged, Successors

# So many numbers are few: see `is_small`.
SMALL = 1 << 14


class Chosen(NamedTuple):
    """Some rows of a ragged operator, one for each state: `P v` is worked out for all, and `row` [S] picked."""

    P: Ragged
    row: Int[Array, " S"]

    def __matmul__(self, v: Float[Array, " T"]) -> Float[Array, " S"]:
        """`[P v](row(s))`."""
        return at(self.P @ v, self.row)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the rows: [S]."""
        return self.row.shape

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the probabilities."""
        return self.P.dtype

    def mass(self) -> Float[Array, " S"]:
        """`Σ_s' p(s' | row(s))`."""
        return at(self.P.mass(), self.row)

    def terms(self) -> Int[Array, ""]:
        """The largest number of products that a row adds up."""
        return self.P.terms()

    def tabulated(self) -> Successors:
        """Return the rows filled up to the longest: for models that are small."""
        return self.P.take(self.row)


class Averaged(NamedTuple):
    """The chain of a stochastic policy: `Σ_a π(a | s) [P v](s, a)`, in the order in which it is written."""

    P: Successors | Ragged | Steps | Sharded
    policy: Float[Array, "*rows"]
    choices: Choices | None

    def __matmul__(self, v: Float[Array, " T"]) -> Float[Array, " S"]:
        """`Σ_a π(a | s) [P v](s, a)`."""
        return total(self.policy * (self.P @ v), self.choices)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the rows: [S]."""
        return self.policy.shape[:1] if self.choices is None else self.choices.first.shape

    def mass(self) -> Float[Array, " S"]:
        """`Σ_a π(a | s) Σ_s' p(s' | s, a)`."""
        return total(self.policy * self.P.mass(), self.choices)

    def terms(self) -> Int[Array, ""]:
        """The largest number of products that a row of P adds up; the average adds A more."""
        return self.P.terms()


class Transposed(NamedTuple):
    """`[P' μ](s') = Σ_s p(s' | s) μ(s)` for any operator: the transpose of its program."""

    P: "Sparse"

    def __matmul__(self, x: Float[Array, " S"]) -> Float[Array, " T"]:
        """`P' x`."""
        return jax.linear_transpose(lambda v: self.P @ v, x)(x)[0]


SparseModel = Successors | Ragged | Steps | Sharded
Sparse = SparseModel | Full | Chosen | Averaged | Transposed
# To type checkers anything: what only dense models can do, such as `mdp.P[s, a]`, they cannot tell.
if TYPE_CHECKING:
    Transitions: TypeAlias = Any
else:
    Transitions = Float[Array, "..."] | Sparse


def is_dense(P: Any) -> bool:
    """Return whether P is an array."""
    return not isinstance(P, Sparse)


def apply(P: Transitions, v: Float[Array, " T"]) -> Float[Array, "*rows"]:
    """`[P v](row) = Σ_s' p(s' | row) v(s')`: the expected value of the next state."""
    return jnp.matmul(P, v, precision="highest") if is_dense(P) else P @ v


def mass(P: Transitions) -> Float[Array, "*rows"]:
    """`Σ_s' p(s' | row)`: the probability that the episode goes on."""
    return jnp.sum(P, axis=-1) if is_dense(P) else P.mass()


def terms(P: Transitions) -> Int[Array, ""]:
    """Return the largest number of successors of any row: so many products a backup adds up, and rounds."""
    if not is_dense(P):
        return P.terms()
    return nonzeros(P) if is_small(P) else Full(P).terms()


def is_small(P: Transitions) -> bool:
    """Return whether P holds so few numbers that to compute with it twice costs less than to take care."""
    P = P.rows if isinstance(P, Sharded) else P
    P = P.table if isinstance(P, Full) else P
    numbers = P.prob.size if isinstance(P, Successors) else P.size if is_dense(P) else SMALL + 1
    return numbers <= SMALL


def room(P: Transitions) -> int | None:
    """Return how many successors a row has room for, at least `terms`, where that is known without looking."""
    if is_dense(P):
        return P.shape[-1]
    if isinstance(P, Sharded):
        return room(P.rows.table if isinstance(P.rows, Full) else P.rows)
    if isinstance(P, Successors):
        return P.state.shape[0]
    return P.longest if isinstance(P, Ragged) else None


def rank(P: Transitions) -> int:
    """Return how many axes the arrays of a model's P have: [S, A, S'], [K, S, A], [C], or [S, 1]; see `dp.horizon`."""
    if isinstance(P, Sharded):
        return 2 if isinstance(P.rows, Steps) else 3
    if is_dense(P) or isinstance(P, Successors):
        return 3
    return 1 if isinstance(P, Ragged) else 2


def lay(P: Transitions, x: np.ndarray | Array) -> Array:
    """Return numbers of states, such as values or a policy, as an array that lies where their rows of P do."""
    if isinstance(P, Sharded) and isinstance(x, np.ndarray):
        return P.layout.put(x, P.layout.along(0))
    return jnp.asarray(x)


def at_states(P: Transitions, states: Int[Array, "*n"]) -> Transitions:
    """Return the rows of some states of a model where all have A actions: `apply` backs these alone up."""
    if is_dense(P):
        return P[states]
    if isinstance(P, Sharded):
        return at_states(P.plain(), states)
    if isinstance(P, Successors):
        return Successors(P.state[:, states], P.prob[:, states])
    return P._replace(state=P.state[states])


def transpose(P: Transitions) -> Transitions:
    """Return the operator `[P' μ](s') = Σ_s p(s' | s) μ(s)` of a chain: it moves distributions instead of values."""
    return P.T if is_dense(P) else Transposed(P)


def follow(P: Transitions, policy: Array, choices: Choices | None = None) -> Transitions:
    """`p_π(s' | s) = Σ_a π(a | s) p(s' | s, a)`: the chain that a policy makes.

    For a deterministic policy the rows are gathered by flat index: a sweep over the chain then reads A times less,
    except where few rows are much longer than most.
    """
    if not deterministic(policy):
        dense = is_dense(P)
        return jnp.einsum("sa,sat->st", policy, P, precision="highest") if dense else Averaged(P, policy, choices)
    if isinstance(P, Sharded):
        return P.chain(follow, policy)
    if isinstance(P, Ragged):
        row = rows(policy, choices, 0)
        # Filled up to the longest row, the chain may still be smaller than the model.
        filled = P.longest * row.shape[0]
        return P.take(row) if filled <= P.stored else Chosen(P, row)
    if isinstance(P, Steps):
        return P._replace(state=P.state[:, 0], action=policy.astype(P.action.dtype))
    flat = rows(policy, None, P.shape[1])
    return at(P.reshape(-1, P.shape[2]), flat) if is_dense(P) else P.take(flat)


def dense(P: Transitions) -> Float[Array, "S T"]:
    """Return the probabilities of a chain as an array [S, S]: for models that are small."""
    if is_dense(P):
        return P
    S = P.shape[0]
    if isinstance(P, Sharded):
        return dense(P.plain())
    if isinstance(P, Transposed):
        return dense(P.P).T
    if isinstance(P, Averaged):
        table, weight = P.P.tabulated(), P.policy
        state = jnp.broadcast_to(of_state(jnp.arange(S), P.choices), weight.shape)
    else:
        table, weight, state = P.tabulated(), jnp.ones(S, P.dtype), jnp.arange(S)
    state = jnp.broadcast_to(state, table.state.shape)
    return jnp.zeros((S, S), table.prob.dtype).at[state, table.state].add(weight[None] * table.prob)


def successors(
    P: Transitions, choices: Choices | None, s: Int[Array, ""], a: Int[Array, ""]
) -> tuple[Int[Array, " K"], Float[Array, " K"]]:
    """Return the successors of a state under an action and their probabilities, as many as P has room for."""
    if isinstance(P, Sharded):
        return successors(P.plain(), choices, s, a)
    if is_dense(P):
        return jnp.arange(P.shape[-1]), P[s, a]
    if isinstance(P, Successors):
        return P.state[:, s, a], P.prob[:, s, a]
    table = P.take(choices.first[s] + a if choices is not None else s * P.shape[1] + a).tabulated()
    return table.state, table.prob

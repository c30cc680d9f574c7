"""Transition probabilities as a linear operator: `[P v](s, a) = Σ_s' p(s' | s, a) v(s')`.

Every algorithm of `dp` reads P through the functions of this file alone. Here P is dense: an array `[S, A, S']` of
probabilities, or `[S, S']` for a chain. Successors are the last, contiguous axis: a backup then streams through P
once, at the speed of memory.

Mass may be missing from a row: what is missing is the probability that the episode ends there, with value 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def apply(P: Float[Array, "*rows T"], v: Float[Array, " T"]) -> Float[Array, "*rows"]:
    """`[P v](row) = Σ_s' p(s' | row) v(s')`: the expected value of the next state."""
    return jnp.matmul(P, v, precision="highest")


def mass(P: Float[Array, "*rows T"]) -> Float[Array, "*rows"]:
    """`Σ_s' p(s' | row)`: the probability that the episode goes on."""
    return jnp.sum(P, axis=-1)


def terms(P: Float[Array, "*rows T"]) -> Int[Array, ""]:
    """Return the largest number of successors of any row: so many products a backup adds up, and rounds."""
    # Not count_nonzero, which takes XLA on CPU six times as long.
    return jnp.max(jnp.sum(P != 0, axis=-1, dtype=jnp.int32))


def rows(P: Float[Array, "S A T"], states: Int[Array, "*n"]) -> Float[Array, "*n A T"]:
    """Return the rows of some states: `apply` backs these alone up."""
    return P[states]


def transpose(P: Float[Array, "S T"]) -> Float[Array, "T S"]:
    """Return the operator `[P' μ](s') = Σ_s p(s' | s) μ(s)` of a chain: it moves distributions instead of values."""
    return P.T


def predecessors(P: Float[Array, "S A T"], mask: Bool[Array, "S A"] | None = None) -> Float[Array, "T S"]:
    """`max_a p(s' | s, a)` over the allowed actions, row s': how much of a change in s' the values of s can feel."""
    allowed = True if mask is None else mask[:, :, None]
    return jnp.max(P, axis=1, initial=0.0, where=allowed).T


def follow(P: Float[Array, "S A T"], policy: Int[Array, " S"] | Float[Array, "S A"]) -> Float[Array, "S T"]:
    """`p_π(s' | s) = Σ_a π(a | s) p(s' | s, a)`: the chain that a policy makes.

    For a deterministic policy the rows are gathered by flat index: a sweep over the chain then reads A times less.
    """
    S, A, T = P.shape
    if policy.ndim == 1:
        return P.reshape(S * A, T)[jnp.arange(S) * A + policy]
    return jnp.einsum("sa,sat->st", policy, P, precision="highest")

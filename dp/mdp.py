"""Finite Markov decision processes, and the Markov reward process that a policy makes of one.

How an episode ends: by missing probability mass. A terminal state has an all-zero row and reward 0, hence value 0.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dp import choices, transitions
from dp.choices import Choices
from dp.transitions import Transitions

Scalar = float | Float[Array, ""]
Count = int | Int[Array, ""]
# Deterministic, integers [S], or probabilities in the form of the rewards: the dtype says which.
Policy = Int[Array, " S"] | Float[Array, "*rows"]


class MDP(NamedTuple):
    """A finite Markov decision process.

    P: transitions, `P[s, a, s'] = p(s' | s, a)`: an array [S, A, S'] or one of the other forms of `dp.transitions`.
    R: expected rewards `R[s, a] = E[R_{t+1} | S_t = s, A_t = a]`, shape [S, A].
    gamma: discount rate, a scalar in [0, 1].
    mask: [S, A], True where the action is allowed; None allows all.
    choices: None; but where states have different numbers of actions, who owns which: then R is [C], one number for
        every choice, action values and stochastic policies likewise, and there is no mask.
    """

    P: Transitions
    R: Float[Array, "*rows"]
    gamma: Float[Array, ""]
    mask: Bool[Array, "S A"] | None = None
    choices: Choices | None = None

    @property
    def size(self) -> int:
        """The number of states."""
        return self.R.shape[0] if self.choices is None else self.choices.first.shape[0]


class MRP(NamedTuple):
    """A Markov reward process: what is left of an MDP when a policy has chosen.

    P: `P[s, s'] = p_π(s' | s)`, [S, S']. r: `r[s] = E_π[R_{t+1} | S_t = s]`, shape [S]. gamma: discount rate.
    """

    P: Transitions
    r: Float[Array, " S"]
    gamma: Float[Array, ""]


def require_mdp(mdp: object) -> None:
    """Raise ValueError where something else was given, such as a model that only holds an MDP."""
    if not isinstance(mdp, MDP):
        hint = ": pass its .mdp" if hasattr(mdp, "mdp") else ""
        raise ValueError(f"a dp.MDP is needed, got {type(mdp).__name__}{hint}")


def induce(mdp: MDP, policy: Policy) -> MRP:
    """Return the chain of π: `p_π(s'|s) = Σ_a π(a|s) p(s'|s,a)`, `r_π(s) = E_π[R_{t+1}|s] = Σ_a π(a|s) R(s,a)`.

    A sweep over it reads A times less than one over the MDP. A forbidden action that π takes is worth -inf.
    """
    if choices.deterministic(policy):
        r = choices.taken(allowed(mdp, mdp.R), policy, mdp.choices)
    else:
        r = choices.total(policy * mdp.R, mdp.choices)
        if mdp.mask is not None:
            r = jnp.where(jnp.any(~mdp.mask & (policy != 0), axis=1), -jnp.inf, r)
    return MRP(transitions.follow(mdp.P, policy, mdp.choices), r, mdp.gamma)


def allowed(mdp: MDP, q: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Return rewards or action values, and -inf where the mask forbids the action."""
    return q if mdp.mask is None else jnp.where(mdp.mask, q, -jnp.inf)


def at_states(mdp: MDP, states: Int[Array, " n"]) -> MDP:
    """Return the rows of some states: P [n, A, S'], R and mask [n, A]. A backup of it is the backup of these states.

    Where states have different numbers of actions, A is the largest of them, and the mask says which are there.
    """
    if mdp.choices is None:
        mask = None if mdp.mask is None else mdp.mask[states]
        return MDP(transitions.at_states(mdp.P, states), mdp.R[states], mdp.gamma, mask)
    C = mdp.R.shape[0]
    first = jnp.append(mdp.choices.first, C)
    row = first[states][:, None] + jnp.arange(choices.most(mdp.R, mdp.choices), dtype=first.dtype)[None]
    mask = row < first[states + 1][:, None]
    row = jnp.minimum(row, C - 1)
    return MDP(mdp.P.take(row), mdp.R[row], mdp.gamma, mask)

"""The Bellman equations, one function each.

    expected reward       E_π[R_{t+1} | s] = Σ_a π(a|s) R(s, a)
    action values         q(s, a)  = R(s, a) + γ Σ_s' p(s'|s, a) v(s')            = Σ_{s',r} p(s',r|s,a) [r + γ v(s')]
    state values          v(s)     = Σ_a π(a|s) q(s, a)
    expectation           T_π v(s) = Σ_a π(a|s) Σ_{s',r} p(s', r|s, a) [r + γ v(s')]
    optimality            T v(s)   = max_a Σ_{s',r} p(s', r|s, a) [r + γ v(s')]
    greedy policy         π'(s)    = argmax_a Σ_{s',r} p(s', r|s, a) [r + γ v(s')]

v_π is the fixed point of T_π and v_* that of T. Both operators are monotone, and contract by γ in the sup norm.
A forbidden action is worth -inf. Source: Sutton and Barto (2018), chapters 3 and 4.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dp import transitions
from dp.choices import Choices, argmax, deterministic, maximum, taken, total
from dp.fusion import apart
from dp.mdp import MDP, MRP, Policy, allowed, induce
from dp.successors import Successors

# A table of fewer columns is written as a vector.
COLUMNS = 8


def expected_reward(mdp: MDP, policy: Policy) -> Float[Array, " S"]:
    """`E_π[R_{t+1} | S_t = s] = Σ_a π(a|s) Σ_{s',r} r p(s', r|s, a)`, shape [S]."""
    return induce(mdp, policy).r


def action_values(mdp: MDP, v: Float[Array, " T"]) -> Float[Array, "*rows"]:
    """`q(s, a) = R(s, a) + γ Σ_s' p(s'|s, a) v(s')`, in the shape of R; -inf where the mask forbids the action."""
    small = transitions.is_small(mdp.P)
    if small:
        q = _action_values(mdp, v)
    else:
        # Of few columns as one long vector: the loop over such a table takes up to twice as long.
        flat = isinstance(mdp.P, Successors) and mdp.R.shape[-1] < COLUMNS
        q = apart(mdp.gamma, _flat if flat else _action_values, mdp, v).reshape(mdp.R.shape)
    return allowed(mdp, q)


def _action_values(mdp: MDP, v: Float[Array, " T"]) -> Float[Array, "*rows"]:
    return mdp.R + mdp.gamma * transitions.apply(mdp.P, v)


def _flat(mdp: MDP, v: Float[Array, " T"]) -> Float[Array, " N"]:
    return _action_values(mdp, v).reshape(-1)


def state_values(q: Float[Array, "*rows"], policy: Policy, choices: Choices | None = None) -> Float[Array, " S"]:
    """`v(s) = Σ_a π(a|s) q(s, a)`, shape [S]. An action of probability 0 counts nothing, forbidden or not.

    choices: those of the MDP, where its states have different numbers of actions.
    """
    if deterministic(policy):
        return taken(q, policy, choices)
    never = (policy == 0) & jnp.isneginf(q)
    return total(policy * jnp.where(never, 0.0, q), choices)


def expectation(mdp: MDP, policy: Policy, v: Float[Array, " S"]) -> Float[Array, " S"]:
    """`T_π v(s) = Σ_a π(a|s) Σ_{s',r} p(s', r|s, a) [r + γ v(s')]`: the Bellman expectation operator, shape [S]."""
    return state_values(action_values(mdp, v), policy, mdp.choices)


def optimality(mdp: MDP, v: Float[Array, " T"]) -> Float[Array, "*S"]:
    """`T v(s) = max_a Σ_{s',r} p(s', r|s, a) [r + γ v(s')]`: the Bellman optimality operator, shape [S]."""
    return maximum(action_values(mdp, v), mdp.choices)


def greedy(mdp: MDP, v: Float[Array, " S"]) -> Int[Array, " S"]:
    """`π(s) = argmax_a Σ_{s',r} p(s', r|s, a) [r + γ v(s')]`, shape [S]; of equally good actions, the first."""
    return argmax(action_values(mdp, v), mdp.choices)


def improve(q: Float[Array, "*rows"], policy: Int[Array, " S"], choices: Choices | None = None) -> Int[Array, " S"]:
    """`π'(s) = argmax_a q(s, a)`, but π(s) where it attains the maximum: a policy cannot cycle among exact ties."""
    return jnp.where(taken(q, policy, choices) == maximum(q, choices), policy, argmax(q, choices))


def sweep(mrp: MRP, v: Float[Array, " S"]) -> Float[Array, " S"]:
    """`T_π v(s) = r_π(s) + γ Σ_s' p_π(s'|s) v(s')`: the expectation operator on the chain of π, shape [S]."""
    return mrp.r + mrp.gamma * transitions.apply(mrp.P, v)

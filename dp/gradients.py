"""Derivatives of v_*, v_π and the soft values by the implicit function theorem.

Let v solve `v = T(θ, v)`, where θ holds R, P, γ (the policy's probabilities, the temperature). Then

    dv = ∂T/∂θ dθ + ∂T/∂v dv,      ∂T/∂v = γ P_π,      so      dv = (I - γ P_π)^{-1} ∂T/∂θ dθ

with π the policy that attains T: one linear solve, whatever the number of iterations was; in reverse mode one with the
transpose. The rule is written in differentiable terms, so that it differentiates again.

v_* is smooth wherever one policy is optimal in a neighbourhood. At a tie it has a kink, and the derivative is that of
v_π for the policy π which the solver returned: the one-sided derivative in every direction in which π stays optimal.

Average reward: `g + h = T_π h` with h(0) = 0 is one linear system for dg and dh together.
Source: envelope theorem; for the linear system, Sutton and Barto (2018), equation 4.3.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dp import bellman, linear, transitions
from dp.choices import deterministic, of_state, total
from dp.mdp import MDP, MRP, Policy, induce


class Operator(NamedTuple):
    """`T(θ, v)`, and the chain of its linearisation at v: an MRP whose `γ P` is ∂T/∂v (its r does not matter)."""

    apply: Callable[[tuple, Float[Array, " S"]], Float[Array, " S"]]
    chain: Callable[[tuple, Float[Array, " S"]], MRP]


# T_π, with θ = (mdp, policy). At π = π_* its derivatives are those of T (envelope theorem).
EXPECTATION = Operator(
    apply=lambda theta, v: bellman.sweep(induce(*theta), v),
    chain=lambda theta, v: induce(*theta),
)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def fixed_point(operator: Operator, theta: tuple, v: Float[Array, " S"]) -> Float[Array, " S"]:
    """Return v, which must solve `v = T(θ, v)`, with the derivatives of that solution in θ. Shape [S].

    An error in v enters the derivatives multiplied by at most about `|P| / (1 - γ)`; solve to a small tolerance.
    """
    return v


@fixed_point.defjvp
def _(operator: Operator, primals: tuple, tangents: tuple) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    (theta, v), (theta_dot, _) = primals, tangents
    v = fixed_point(operator, theta, v)
    _, Tv_dot = jax.jvp(lambda theta: operator.apply(theta, v), (theta,), (theta_dot,))
    return v, linear.solve(operator.chain(theta, v)._replace(r=Tv_dot))


@jax.custom_jvp
def action_values(mdp: MDP, v: Float[Array, " S"], q: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Return q, which must be `R + γ P v`, with the derivatives of that: for where q is known already."""
    return q


@action_values.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    (mdp, v, q), (mdp_dot, v_dot, _) = primals, tangents
    return action_values(mdp, v, q), jax.jvp(bellman.action_values, (mdp, v), (mdp_dot, v_dot))[1]


@jax.custom_jvp
def gain_and_bias(
    mdp: MDP, policy: Policy, gain: Float[Array, ""], bias: Float[Array, " S"]
) -> tuple[Float[Array, ""], Float[Array, " S"]]:
    """Return g and h, which must solve `g + h = r_π + P_π h`, h(0) = 0, with their derivatives in R, P and π.

    Rows, of P and of π, count as divided by their sums, so that only what they share out can change. γ does not matter.
    """
    return gain, bias


@gain_and_bias.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    (mdp, policy, gain, bias), (mdp_dot, policy_dot, _, _) = primals, tangents
    gain, bias = gain_and_bias(mdp, policy, gain, bias)

    def chain_of(mdp: MDP, policy: Policy) -> MRP:
        if not deterministic(policy):
            policy = policy / of_state(total(policy, mdp.choices), mdp.choices)
        chain = induce(mdp, policy)
        P = transitions.dense(chain.P)
        return MRP(P / transitions.mass(P)[:, None], chain.r, jnp.ones_like(mdp.gamma))

    _, Th_dot = jax.jvp(lambda *theta: bellman.sweep(chain_of(*theta), bias), (mdp, policy), (mdp_dot, policy_dot))
    # h(0) stays 0 and needs no column: g takes its place.
    dots = linear.general(linear.matrix(chain_of(mdp, policy)).at[:, 0].set(1), Th_dot)
    return (gain, bias), (dots[0], dots.at[0].set(0))

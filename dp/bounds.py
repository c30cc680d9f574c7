"""The certificate: from one backup of any v, bounds on v_* (or v_π) that hold for the exact numbers of the MDP.

The theorem (MacQueen 1966, Porteus 1971; here with missing mass). Let `ρ⁺(s)` and `ρ⁻(s)` be the largest and
smallest `γ Σ_s' p(s'|s,a)` over the allowed actions, `ρ⁺ = max_s ρ⁺(s) < 1`, `ρ⁻ = min_s ρ⁻(s)`. T is monotone, and
`T (v + c) <= T v + ρ⁺ c` for a constant c >= 0, `<= T v + ρ⁻ c` for c <= 0. So `T v - v <= d` gives, by a geometric
series, `v_* <= v + D` with `D = d / (1 - ρ⁺)` (ρ⁻ if d <= 0), and one more application of T gives

    v_*(s) <= T v(s) + ρ⁺(s) D⁺,          d⁺ = max_s (T v - v)(s),      ρ⁻(s) if D⁺ <= 0
    v_*(s) >= v_π(s) >= T_π v(s) + ρ⁺(s) D⁻,    d⁻ = min_s (T_π v - v)(s),    ρ⁻(s) if D⁻ >= 0,   for every policy π.

A terminal state has ρ⁺(s) = 0: its value is enclosed at once.

Rounding. A backup in IEEE floats with unit roundoff u, of rows with n nonzero successors summed in any order, is off
by at most `e = γ_{n+4} (ρ⁺ max|v| + max|R|)`, with `γ_k = k u / (1 - k u)` (Higham 2002, section 3.1: n products and
n - 1 sums, one product with γ, one sum with R; the rest is slack for e itself). d⁺ and d⁻ move outwards by e, the
bounds by e and by the rounding of their own arithmetic. ρ⁺ and ρ⁻ are sums of n terms too and move outwards likewise.
So a residual of exactly 0 still leaves an honest gap of about `2 e / (1 - ρ⁺)`, the floor under what a dtype can
certify.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dp import bellman, transitions
from dp.mdp import MDP, MRP, Policy, induce


class Bounds(NamedTuple):
    """`lower <= v_* <= upper` in every state, and `lower <= v_π` for the policy of the backup.

    lower, mid, upper: [S]; mid is halfway between the other two. gap: `max_s (upper - lower)(s)`.
    floor: what rounding alone adds to the gap at any v near v_*: no sweep can bring the gap below it. It is an
        underestimate, and tight once the bounds are.
    Where nothing can be said (ρ⁺ >= 1, γ < 0, or a number that is not finite) the bounds are infinite.
    """

    lower: Float[Array, " S"]
    mid: Float[Array, " S"]
    upper: Float[Array, " S"]
    gap: Float[Array, ""]
    floor: Float[Array, ""]


class Modulus(NamedTuple):
    """How a backup contracts and how it rounds; constant during a solve, so computed once.

    most, least: ρ⁺(s) and ρ⁻(s), [S], rounded outwards. rounding: γ_{n+4}. rewards: max|R|.
    """

    most: Float[Array, " S"]
    least: Float[Array, " S"]
    rounding: Float[Array, ""]
    rewards: Float[Array, ""]


def modulus(
    P: Float[Array, "*rows T"],
    R: Float[Array, "*rows"],
    gamma: Float[Array, ""],
    mask: Bool[Array, "*rows"] | None = None,
    *,
    more_terms: int = 0,
) -> Modulus:
    """Return the `Modulus` of an MDP or a chain; `more_terms` counts roundings made before its numbers were stored."""
    unit = jnp.finfo(R.dtype).eps / 2
    rounding = (transitions.terms(P) + (4 + more_terms)).astype(R.dtype) * unit
    rounding = jnp.where(rounding < 0.5, rounding / (1 - rounding), jnp.inf)
    mass = transitions.mass(P).reshape(R.shape[0], -1)
    where = jnp.ones(mass.shape, bool) if mask is None else mask
    return Modulus(
        most=gamma * jnp.max(mass, axis=1, initial=0.0, where=where) * (1 + 2 * rounding),
        least=gamma * jnp.min(mass, axis=1, initial=jnp.inf, where=where) * (1 - 2 * rounding),
        rounding=rounding,
        rewards=jnp.max(jnp.abs(R), initial=0.0, where=mask),
    )


def enclose(v: Float[Array, " S"], Tv: Float[Array, " S"], modulus: Modulus) -> Bounds:
    """Turn v and its backup T v (or T_π v) into bounds on the fixed point of T (of T_π)."""
    eps, tiny = jnp.finfo(v.dtype).eps, jnp.finfo(v.dtype).tiny
    most, least, rounding, rewards = modulus
    contracts = jnp.max(most) < 1

    def total(d: Float[Array, ""], rho: Float[Array, ""]) -> Float[Array, ""]:
        """`Σ_k ρ^k d`: all that this sweep and those to come can add."""
        return jnp.where(contracts, d / jnp.where(contracts, 1 - rho, 1.0), jnp.inf)

    def backup_error(scale: Float[Array, ""]) -> Float[Array, ""]:
        """Bound the rounding of a backup of values up to `scale`."""
        # The last term: processors may take numbers below `tiny` for zero, as factors and as products.
        return (1 + 8 * eps) * rounding * (jnp.max(most) * scale + rewards) + tiny / eps * (1 + scale)

    e = backup_error(jnp.max(jnp.abs(v)))
    rise, fall = jnp.max(Tv - v), jnp.min(Tv - v)
    rise, fall = rise + 2 * eps * jnp.abs(rise) + e, fall - 2 * eps * jnp.abs(fall) - e
    rise = jnp.where(rise >= 0, most * total(rise, jnp.max(most)), least * total(rise, jnp.min(least)))
    fall = jnp.where(fall <= 0, most * total(fall, jnp.max(most)), least * total(fall, jnp.min(least)))

    reach = jnp.max(jnp.abs(Tv))
    up = rise + e + 8 * eps * (reach + jnp.abs(rise) + e)
    down = fall - e - 8 * eps * (reach + jnp.abs(fall) + e)
    lower, upper = Tv + down, Tv + up
    gap = jnp.max(upper - lower) * (1 + 2 * eps)
    known = contracts & (jnp.min(least) >= 0) & jnp.isfinite(gap)
    # max|v_*| is at least this, however far v may be: a loop must not give up because of the size of a bad start.
    smallest = jnp.maximum(0, jnp.max(jnp.maximum(lower, -upper)))
    return Bounds(
        lower=jnp.where(known, lower, -jnp.inf),
        # Not (lower + upper) / 2: where the shifts cancel, mid is the backup itself, to the last bit.
        mid=jnp.where(known, Tv + (up + down) / 2, Tv),
        upper=jnp.where(known, upper, jnp.inf),
        gap=jnp.where(known, gap, jnp.inf),
        floor=2 * (total(backup_error(smallest), jnp.max(most)) + 8 * eps * smallest),
    )


def bounds(mdp: MDP, v: Float[Array, " S"], policy: Policy | None = None) -> Bounds:
    """Enclose v_* by one backup of any v; with a policy, enclose its v_π instead.

    Without one, `lower` bounds the value of the policy greedy in v as well. Shapes [S]. The bounds hold for the MDP
    whose numbers are the stored floats, rounding included. Source: the theorem at the head of this file.
    """
    if policy is None:
        return enclose(v, bellman.optimality(mdp, v), modulus(*mdp))
    chain = induce(mdp, policy)
    return enclose(v, bellman.sweep(chain, v), modulus_of_chain(mdp, policy, chain))


def modulus_of_chain(mdp: MDP, policy: Policy, chain: MRP) -> Modulus:
    """Return the `Modulus` of T_π for `chain = induce(mdp, policy)`; averaging over A actions has rounded A times."""
    if policy.ndim == 1:
        return modulus(chain.P, chain.r, chain.gamma)
    averaged = modulus(chain.P, chain.r, chain.gamma, more_terms=mdp.R.shape[1])
    # |r_π| may be small because rewards cancelled; their rounding did not.
    return averaged._replace(rewards=jnp.max(jnp.abs(mdp.R)) * jnp.max(jnp.sum(policy, axis=1)))

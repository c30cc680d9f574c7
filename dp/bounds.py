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

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from dp import bellman, transitions
from dp.choices import Choices, deterministic, maximum, minimum, most, total
from dp.fusion import apart
from dp.mdp import MDP, MRP, Policy, induce
from dp.transitions import Transitions

# Relative to the values, what rounding may cost before the successors of each row are counted.
NEGLIGIBLE = 1e-9


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

    most, least: ρ⁺(s) and ρ⁻(s), [S], rounded outwards. largest, smallest: ρ⁺ and ρ⁻.
    rounding: γ_{n+4}. rewards: max|R|.
    mass: `Σ_s' p(s'|s, a)` of every row, as it was summed.
    extra: what an operator that does more than back up and take a maximum rounds beyond that.
    """

    most: Float[Array, " S"]
    least: Float[Array, " S"]
    largest: Float[Array, ""]
    smallest: Float[Array, ""]
    rounding: Float[Array, ""]
    rewards: Float[Array, ""]
    mass: Float[Array, "*rows"]
    extra: Float[Array, ""] | float = 0.0


def modulus(
    P: Transitions,
    R: Float[Array, "*rows"],
    gamma: Float[Array, ""],
    mask: Bool[Array, "*rows"] | None = None,
    choices: Choices | None = None,
    *,
    more_terms: int = 0,
) -> Modulus:
    """Return the `Modulus` of an MDP or a chain; `more_terms` counts roundings made before its numbers were stored."""
    alone = not (transitions.is_small(P) or transitions.is_dense(P))
    # As one long vector, like all that is made of a few passes over such vectors.
    mass = apart(gamma, lambda P: transitions.mass(P).reshape(-1), P) if alone else transitions.mass(P)
    mass = mass.reshape(R.shape)
    rounding = _rounding(P, gamma, 4 + more_terms, R.dtype)
    if R.ndim == 1 and choices is None:
        high = low = mass
    else:
        high = jnp.maximum(maximum(mass if mask is None else jnp.where(mask, mass, 0), choices), 0)
        low = minimum(mass if mask is None else jnp.where(mask, mass, jnp.inf), choices)
    most = gamma * high * (1 + 2 * rounding)
    least = gamma * low * (1 - 2 * rounding)
    return Modulus(
        most=most,
        least=least,
        largest=jnp.max(most),
        smallest=jnp.min(least),
        rounding=rounding,
        rewards=jnp.max(jnp.abs(R), initial=0.0, where=mask),
        mass=mass,
    )


def _rounding(P: Transitions, gamma: Float[Array, ""], more_terms: int, dtype: jnp.dtype) -> Float[Array, ""]:
    """γ_{n + more_terms}, for at least as many terms n as rows have."""

    def of(terms: ArrayLike) -> Float[Array, ""]:
        rounded = (jnp.asarray(terms) + more_terms).astype(dtype) * (jnp.finfo(dtype).eps / 2)
        return jnp.where(rounded < 0.5, rounded / (1 - rounded), jnp.inf)

    room = transitions.room(P)
    if room is None or transitions.is_small(P):
        return of(transitions.terms(P))
    # To count the successors is one more pass over P: not where room for them is already next to nothing.
    return jax.lax.cond(of(room) < NEGLIGIBLE * (1 - gamma), lambda P: of(room), lambda P: of(transitions.terms(P)), P)


def backup_error(modulus: Modulus, scale: Float[Array, ""]) -> Float[Array, ""]:
    """Bound the rounding error of one backup of values up to `scale`: the e of the head of this file."""
    eps, tiny = jnp.finfo(scale.dtype).eps, jnp.finfo(scale.dtype).tiny
    products = modulus.rounding * (modulus.largest * scale + modulus.rewards)
    # The last term: processors may take numbers below `tiny` for zero, as factors and as products.
    e = (1 + 8 * eps) * (products + modulus.extra) + tiny / eps * (1 + scale)
    # Where a sum may overflow on the way, a maximum over actions can hide it.
    return jnp.where(jnp.isfinite(4 * (scale + modulus.rewards)), e, jnp.inf)


class Spread(NamedTuple):
    """What one backup says of v_* - T v, in scalars: `D⁺` and `D⁻` of the head of this file, and the rounding.

    Between `ρ(s) D⁻ - rounding` and `ρ(s) D⁺ + rounding` lies v_* - T v. gap: at least `max_s (upper - lower)(s)`.
    floor: as in Bounds. Where nothing can be said, gap is infinite.
    """

    up: Float[Array, ""]
    down: Float[Array, ""]
    rounding: Float[Array, ""]
    gap: Float[Array, ""]
    floor: Float[Array, ""]


def spread(v: Float[Array, " S"], Tv: Float[Array, " S"], modulus: Modulus) -> Spread:
    """Return the `Spread` of v and its backup: all that a loop needs to know, by four passes over the states."""
    eps = jnp.finfo(v.dtype).eps
    largest, smallest = modulus.largest, modulus.smallest
    contracts = largest < 1

    def total(d: Float[Array, ""], rho: Float[Array, ""]) -> Float[Array, ""]:
        """`Σ_k ρ^k d`: all that this sweep and those to come can add."""
        return jnp.where(contracts, d / jnp.where(contracts, 1 - rho, 1.0), jnp.inf)

    high, low = jnp.max(v), jnp.min(v)
    scale = jnp.maximum(jnp.abs(high), jnp.abs(low))
    e = backup_error(modulus, scale)
    rise, fall = jnp.max(Tv - v), jnp.min(Tv - v)
    reach = scale + jnp.maximum(jnp.abs(rise), jnp.abs(fall))  # at least max|T v|
    rise, fall = rise + 2 * eps * jnp.abs(rise) + e, fall - 2 * eps * jnp.abs(fall) - e
    up = total(rise, jnp.where(rise >= 0, largest, smallest))
    down = total(fall, jnp.where(fall <= 0, largest, smallest))

    rounding = e + 8 * eps * (reach + jnp.abs(up) + jnp.abs(down) + e)
    highest = jnp.where(up >= 0, largest, smallest) * up + rounding
    lowest = jnp.where(down <= 0, largest, smallest) * down - rounding
    # What is printed, T v plus a shift, rounds with the size of both.
    gap = (highest - lowest) * (1 + 4 * eps) + 4 * eps * (reach + jnp.abs(highest) + jnp.abs(lowest))
    known = contracts & (smallest >= 0) & jnp.isfinite(gap)
    # max|v_*| is at least this, however far v may be: a loop must not give up because of the size of a bad start.
    # Where v is largest, T v is at least v + d⁻, and v_* at least that and the lowest shift.
    least = jnp.maximum(0, jnp.maximum(high + fall + lowest, -(low + rise + highest)))
    return Spread(
        up=up,
        down=down,
        rounding=rounding,
        gap=jnp.where(known, gap, jnp.inf),
        floor=2 * (total(backup_error(modulus, least), largest) + 8 * eps * least),
    )


def enclose(v: Float[Array, " S"], Tv: Float[Array, " S"], modulus: Modulus) -> Bounds:
    """Turn v and its backup T v (or T_π v) into bounds on the fixed point of T (of T_π)."""
    return around(Tv, spread(v, Tv, modulus), modulus)


def around(Tv: Float[Array, " S"], found: Spread, modulus: Modulus) -> Bounds:
    """Return the bounds that follow from a backup and its `Spread`."""
    up = jnp.where(found.up >= 0, modulus.most, modulus.least) * found.up + found.rounding
    down = jnp.where(found.down <= 0, modulus.most, modulus.least) * found.down - found.rounding
    # Not (lower + upper) / 2: where the shifts cancel, mid is the backup itself, to the last bit.
    return _bounds(Tv + down, Tv + (up + down) / 2, Tv + up, Tv, jnp.isfinite(found.gap), found.floor)


def _bounds(lower, mid, upper, Tv, known, floor) -> Bounds:
    gap = jnp.max(upper - lower) * (1 + 2 * jnp.finfo(mid.dtype).eps)
    known = known & jnp.isfinite(gap)
    return Bounds(
        lower=jnp.where(known, lower, -jnp.inf),
        mid=jnp.where(known, mid, Tv),
        upper=jnp.where(known, upper, jnp.inf),
        gap=jnp.where(known, gap, jnp.inf),
        floor=floor,
    )


def enclose_transient(
    v: Float[Array, " S"], Tv: Float[Array, " S"], w: Float[Array, " S"], chain: MRP, modulus: Modulus
) -> Bounds:
    """Enclose v_π of a chain that ends, γ = 1 allowed, from T_π v and any w close to the expected steps to the end.

    Let `w >= 0` and `w - γ P w >= δ > 0`. Then `(I - γ P)^{-1} = Σ_k (γ P)^k` exists, is not negative, and takes δ to
    at most w. So `v_π - v = (I - γ P)^{-1} (T_π v - v) <= w d⁺ / δ` with d⁺ = max(T_π v - v, 0); one more backup gives

        v_π <= T_π v + γ P w d⁺ / δ,        v_π >= T_π v + γ P w d⁻ / δ,        d⁻ = min(T_π v - v, 0).

    Infinite where w proves nothing: where the chain does not end, w = (I - γ P)^{-1} 1 does not exist. Rounding is
    included as at the head of this file. Source: Bertsekas and Tsitsiklis (1991), weighted sup norms.
    """
    eps = jnp.finfo(v.dtype).eps
    Pw = chain.gamma * transitions.apply(chain.P, w)
    longest = jnp.max(jnp.abs(w))
    e_w = backup_error(modulus._replace(rewards=jnp.zeros_like(longest)), longest) + 2 * eps * longest
    slack = jnp.min(w - Pw) - e_w
    known = (slack > 0) & (jnp.min(w) >= 0)

    def total(d: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(known, d / jnp.where(known, slack, 1.0), jnp.inf) * (1 + 4 * eps)

    e = backup_error(modulus, jnp.max(jnp.abs(v)))
    rise = total(jnp.maximum(jnp.max(Tv - v) * (1 + 2 * eps) + e, 0))
    fall = total(jnp.maximum(jnp.max(v - Tv) * (1 + 2 * eps) + e, 0))
    reach = e + 8 * eps * jnp.max(jnp.abs(Tv))
    up = (Pw + e_w) * rise * (1 + 8 * eps) + reach
    down = (Pw + e_w) * fall * (1 + 8 * eps) + reach
    # The last subtraction and addition round too.
    lower, upper = Tv - down - 2 * eps * down, Tv + up + 2 * eps * up
    least = jnp.maximum(0, jnp.max(jnp.maximum(lower, -upper)))
    floor = 2 * jnp.max(Pw) * total(backup_error(modulus, least))
    return _bounds(lower, Tv + (up - down) / 2, upper, Tv, known, floor)


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
    if deterministic(policy):
        return modulus(chain.P, chain.r, chain.gamma)
    averaged = modulus(chain.P, chain.r, chain.gamma, more_terms=most(mdp.R, mdp.choices))
    # |r_π| may be small because rewards cancelled; their rounding did not.
    return averaged._replace(rewards=jnp.max(jnp.abs(mdp.R)) * jnp.max(total(policy, mdp.choices)))

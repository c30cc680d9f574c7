"""What every solver returns, and how the last backup of a loop becomes it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dp import bellman, gradients, transitions
from dp.bounds import Bounds, Modulus, Spread, around, backup_error, spread
from dp.choices import argmax, maximum
from dp.fusion import apart
from dp.gradients import EXPECTATION, Operator, fixed_point
from dp.mdp import MDP, Policy, Scalar, allowed


class Backup(NamedTuple):
    """Values v, their backup T v (or T_π v), the policy that attains it, and what follows: a gap and its floor.

    gap, floor: as in `dp.bounds.Bounds`; the bounds themselves are made of v and T v when the loop is over.
    q: [S, A], in the form of R, the action values `R + γ P v` that T v is the maximum of, where they are kept.
    changed: the share of states where the policy is not the one that v comes from, where there was one.
    shifts: D⁺, D⁻ and the rounding of `dp.bounds.Spread`, where they are kept.
    """

    v: Float[Array, " S"]
    Tv: Float[Array, " S"]
    policy: Policy
    gap: Float[Array, ""]
    floor: Float[Array, ""]
    q: Float[Array, "*rows"] | None = None
    changed: Float[Array, ""] | None = None
    shifts: tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]] | None = None


def back_up(mdp: MDP, contraction: Modulus, v: Float[Array, " S"], policy: Int[Array, " S"] | None = None) -> Backup:
    """Return T v, the policy greedy in v, and what the two say of v_*.

    policy: where its actions are as good as any, they stay.
    """
    q = bellman.action_values(mdp, v)

    def reduced(
        q: Float[Array, "*rows"], policy: Int[Array, " S"] | None
    ) -> tuple[Float[Array, " S"], Int[Array, " S"]]:
        Tv = maximum(q, mdp.choices)
        best = argmax(q, mdp.choices) if policy is None else bellman.improve(q, policy, mdp.choices)
        return Tv, best

    # Apart, or the maximum is taken anew for everything that is made of it.
    small = transitions.is_small(mdp.P)
    Tv, improved = reduced(q, policy) if small else apart(mdp.gamma, reduced, q, policy)
    known = spread(v, Tv, contraction)
    changed = None if policy is None else jnp.mean(improved != policy, dtype=v.dtype)
    return Backup(v, Tv, improved, known.gap, known.floor, q, changed, known[:3])


class Solution(NamedTuple):
    """What every solver returns.

    v: [S], halfway between the bounds; without a discount somewhere between them.
    q: [S, A], in the form of R, `R + γ P v`, to within the residual.
    policy: [S], the policy that the certificate is about; its own value lies above `lower` too. (Soft: [S, A].) It says
        which of its actions a state takes, from 0 on.
    lower, upper: [S], `lower <= v_* <= upper`, rounding included (v_π instead of v_* after `evaluate`).
    iterations: how often the whole model was backed up (in policy iteration: how many policies were evaluated, and how
        many sweeps followed where that stood still).
    residual: `max |T v - v|` (T_π after `evaluate`), or, where that saves a pass over P, a little more than it.
        It can be far smaller than the error: trust the bounds.
    converged: the certificate met the tolerance, `max (upper - lower) <= tol`; |v - v_*| is at most half of it.
        False where max_iters ran out, where a number was not finite, or, long before max_iters, where the dtype cannot
        certify tol: float32 with γ near 1 needs a larger tol, or JAX's 64-bit mode (`jax.enable_x64`).
    q is computed from v, policy from the backup that was certified: they agree up to ties within the tolerance.

    v and q are differentiable in the numbers of the MDP, forward and reverse (see `dp.gradients`): through one linear
    solve, not through the iterations. The other fields have no derivative, nor does the start of a solver.
    A Solution can start another solver, on this MDP or on one like it.
    """

    v: Float[Array, " S"]
    q: Float[Array, "*rows"]
    policy: Policy
    lower: Float[Array, " S"]
    upper: Float[Array, " S"]
    iterations: Int[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]


def certified(mdp: MDP, last: Backup, contraction: Modulus, iterations: Int[Array, ""], tol: Scalar) -> Solution:
    """Turn the last backup of a loop into a Solution: mostly without another pass over P.

    Let c be the middle of the shifts that the bounds allow. `T (v' + c)` is known from `q = R + γ P v'` and the mass of
    each row. Where the answer v is so close to `v' + c` that q differs from `R + γ P v` by no more than (1 - γ) tol,
    as it is where rows sum to one and the tolerance was met, it is returned, and the difference added to the residual.
    """
    fixed, contraction, last = jax.lax.stop_gradient((mdp, contraction, last))
    kept = last.q
    assert kept is not None and last.shifts is not None
    known = Spread(*last.shifts, last.gap, last.floor)
    bounds = around(last.Tv, known, contraction)
    c = (known.up + known.down) / 2
    # What was rounded, was rounded at the size of the last iterate, which may be much larger than the answer.
    rounded = 2 * backup_error(contraction, jnp.max(jnp.abs(last.v)) + jnp.abs(c))
    off = contraction.largest * jnp.max(jnp.abs(bounds.mid - (last.v + c))) + rounded

    def again(fixed: MDP, v: Float[Array, " S"]) -> tuple[Float[Array, "*rows"], Float[Array, " S"]]:
        q = bellman.action_values(fixed, v)
        return q, maximum(q, fixed.choices)

    def shifted(fixed: MDP, v: Float[Array, " S"]) -> tuple[Float[Array, "*rows"], Float[Array, " S"]]:
        q = allowed(fixed, kept + fixed.gamma * contraction.mass * c)
        return q, maximum(q, fixed.choices)

    near = (bounds.gap <= tol) & (off <= (1 - mdp.gamma) * tol)
    if transitions.is_small(mdp.P):
        (q, Tv), off = again(fixed, bounds.mid), 0.0
    else:
        q, Tv = jax.lax.cond(near, shifted, again, fixed, bounds.mid)
        off = jnp.where(near, off, 0)
    residual = off + jnp.max(jnp.abs(Tv - bounds.mid))
    v = fixed_point(EXPECTATION, (mdp, last.policy), bounds.mid)
    return _solution(gradients.action_values(mdp, v, q), v, bounds, last.policy, iterations, residual, tol)


def conclude(
    mdp: MDP,
    bounds: Bounds,
    policy: Policy,
    iterations: Int[Array, ""],
    tol: Scalar,
    *,
    backed_up: Callable[[Float[Array, "*rows"]], Float[Array, " S"]] | None = None,
    operator: Operator = EXPECTATION,
    theta: tuple | None = None,
) -> Solution:
    """Turn the bounds of the last backup into a Solution; one more backup gives q and the residual at the midpoint.

    backed_up: T v as a function of q, for the operator that was iterated; by default the maximum over actions.
    operator, theta: the fixed-point equation whose derivatives v takes; by default that of the policy, θ = (mdp, π).
    """
    v = fixed_point(operator, (mdp, policy) if theta is None else theta, bounds.mid)
    q = bellman.action_values(mdp, v)
    Tv = maximum(q, mdp.choices) if backed_up is None else backed_up(q)
    return _solution(q, v, bounds, policy, iterations, jnp.max(jnp.abs(Tv - v)), tol)


def _solution(q, v, bounds: Bounds, policy: Policy, iterations, residual, tol: Scalar) -> Solution:
    lower, _, upper, gap, _ = bounds
    return Solution(
        v=v,
        q=q,
        policy=policy,
        lower=lower,
        upper=upper,
        iterations=iterations,
        residual=jax.lax.stop_gradient(residual),
        converged=jnp.isfinite(gap) & (gap <= tol),
    )

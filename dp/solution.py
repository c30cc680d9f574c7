"""What every solver returns, and how the last backup of a loop becomes it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dp import bellman
from dp.bounds import Bounds
from dp.choices import maximum
from dp.gradients import EXPECTATION, Operator, fixed_point
from dp.mdp import MDP, Policy, Scalar


class Backup(NamedTuple):
    """Values v, their backup T v (or T_π v), the policy that attains it, and what follows: a gap and its floor.

    gap, floor: as in `dp.bounds.Bounds`; the bounds themselves are made of v and T v when the loop is over.
    """

    v: Float[Array, " S"]
    Tv: Float[Array, " S"]
    policy: Policy
    gap: Float[Array, ""]
    floor: Float[Array, ""]


class Solution(NamedTuple):
    """What every solver returns.

    v: [S], halfway between the bounds; without a discount somewhere between them.
    q: [S, A], in the form of R, `R + γ P v`.
    policy: [S], the policy that the certificate is about; its own value lies above `lower` too. (Soft: [S, A].) It says
        which of its actions a state takes, from 0 on.
    lower, upper: [S], `lower <= v_* <= upper`, rounding included (v_π instead of v_* after `evaluate`).
    iterations: how often the whole model was backed up (in policy iteration: how many policies were evaluated, and how
        many sweeps followed where that stood still).
    residual: `max |T v - v|` (T_π after `evaluate`). It can be far smaller than the error: trust the bounds.
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
    lower, v, upper, gap, _ = bounds
    v = fixed_point(operator, (mdp, policy) if theta is None else theta, v)
    q = bellman.action_values(mdp, v)
    Tv = maximum(q, mdp.choices) if backed_up is None else backed_up(q)
    return Solution(
        v=v,
        q=q,
        policy=policy,
        lower=lower,
        upper=upper,
        iterations=iterations,
        residual=jax.lax.stop_gradient(jnp.max(jnp.abs(Tv - v))),
        converged=jnp.isfinite(gap) & (gap <= tol),
    )

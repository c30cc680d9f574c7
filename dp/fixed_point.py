"""The loops: sweep until the certificate meets the tolerance, or keep the history of a number of sweeps.

A solver is one function `advance(k, backup) -> v`: from values, their backup and the policy it suggests, the next
values. All the rest is here, once: certify, stop, conclude.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from dp import bellman
from dp.bounds import Bounds
from dp.mdp import MDP, Policy

# A limit cycle of rounding can keep the gap just above tol for ever: so many passes without a new best end it.
PATIENCE = 1000

State = TypeVar("State", bound=tuple)


class Backup(NamedTuple):
    """Values v, their backup T v (or T_π v), the policy that attains it, and the bounds that follow."""

    v: Float[Array, " S"]
    Tv: Float[Array, " S"]
    policy: Policy
    bounds: Bounds


class Solution(NamedTuple):
    """What every solver returns.

    v: [S], halfway between the bounds. q: [S, A], `R + γ P v`.
    policy: [S], the policy that the certificate is about; its own value lies above `lower` too.
    lower, upper: [S], `lower <= v_* <= upper`, rounding included (v_π instead of v_* after `evaluate`).
    iterations: how often the whole model was backed up (in policy iteration: how many policies were evaluated).
    residual: `max |T v - v|` (T_π after `evaluate`). It can be far smaller than the error: trust the bounds.
    converged: the certificate met the tolerance, `max (upper - lower) <= tol`; |v - v_*| is at most half of it.
        False where max_iters ran out, where a number was not finite, or, long before max_iters, where the dtype cannot
        certify tol: float32 with γ near 1 needs a larger tol, or JAX's 64-bit mode (`jax.enable_x64`).
    q is computed from v, policy from the backup that was certified: they agree up to ties within the tolerance.
    """

    v: Float[Array, " S"]
    q: Float[Array, "S A"]
    policy: Policy
    lower: Float[Array, " S"]
    upper: Float[Array, " S"]
    iterations: Int[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]


class History(NamedTuple):
    """Iterations 0 to num, one after the other.

    v: [num + 1, S], `v[0] = v0`. q: [num + 1, S, A], the action values of each v. policy: [num + 1, S], greedy in q;
    in policy iteration `policy[0] = policy0`, and `v[k + 1]` evaluates `policy[k]` from `v[k]`.
    """

    v: Float[Array, "K S"]
    q: Float[Array, "K S A"]
    policy: Int[Array, "K S"]


class Loop(NamedTuple):
    """What `until_certified` carries: the backup, how many so far, the best gap and the steps since, settled or not."""

    backup: Backup
    iterations: Int[Array, ""]
    best: Float[Array, ""]
    since: Int[Array, ""]
    settled: Bool[Array, ""]


def until_certified(
    advance: Callable[[Int[Array, ""], Backup], Float[Array, " S"]],
    back_up: Callable[[Float[Array, " S"], Policy], Backup],
    start: Backup,
    *,
    tol: Float[Array, ""] | float,
    max_iters: Int[Array, ""] | int,
    patience: int = PATIENCE,
    settled: Callable[[Backup, Backup], Bool[Array, ""]] = lambda old, new: jnp.asarray(False),
) -> tuple[Backup, Int[Array, ""]]:
    """Repeat `v <- advance(k, backup); backup <- back_up(v, policy)` until `gap <= tol`, and no longer than it helps.

    It also ends when the gap is within twice the floor of rounding and that floor is above tol, when the gap is not
    finite, when `settled(old, new)` says so, after `patience` steps without a smaller gap, or after max_iters backups.
    """

    def unfinished(loop: Loop) -> Bool[Array, ""]:
        gap, floor = loop.backup.bounds.gap, loop.backup.bounds.floor
        target = jnp.where(floor < tol, tol, 2 * floor)
        promising = jnp.isfinite(gap) & (loop.since < patience) & ~loop.settled
        return (gap > target) & promising & (loop.iterations < max_iters)

    def step(loop: Loop) -> Loop:
        old = loop.backup
        new = back_up(advance(loop.iterations, old), old.policy)
        better = new.bounds.gap < loop.best
        return Loop(
            backup=new,
            iterations=loop.iterations + 1,
            best=jnp.where(better, new.bounds.gap, loop.best),
            since=jnp.where(better, 0, loop.since + 1),
            settled=settled(old, new),
        )

    begin = Loop(start, jnp.asarray(1), start.bounds.gap, jnp.asarray(0), jnp.asarray(False))
    end = jax.lax.while_loop(unfinished, step, begin)
    return end.backup, end.iterations


def conclude(
    mdp: MDP,
    backup: Backup,
    iterations: Int[Array, ""],
    tol: Float[Array, ""] | float,
    *,
    backed_up: Callable[[Float[Array, "S A"]], Float[Array, " S"]] = lambda q: jnp.max(q, axis=1),
) -> Solution:
    """Turn the last backup into a Solution; one more backup gives q and the residual at the midpoint.

    backed_up: T v as a function of q, for the operator that was iterated.
    """
    lower, v, upper, gap, _ = backup.bounds
    q = bellman.action_values(mdp, v)
    return Solution(
        v=v,
        q=q,
        policy=backup.policy,
        lower=lower,
        upper=upper,
        iterations=iterations,
        residual=jnp.max(jnp.abs(backed_up(q) - v)),
        converged=jnp.isfinite(gap) & (gap <= tol),
    )


def history(step: Callable[[Int[Array, ""], State], State], start: State, num: int) -> State:
    """Stack `start, step(0, start), step(1, ...), ...`: a leading axis of num + 1 on every array of the state."""

    def body(state: State, k: Int[Array, ""]) -> tuple[State, State]:
        state = step(k, state)
        return state, state

    _, states = jax.lax.scan(body, start, jnp.arange(num))
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)


def tolerance(tol: float | Float[Array, ""] | None, dtype: jnp.dtype) -> float | Float[Array, ""]:
    """Return tol, or where it is None what the dtype can usually certify: 1e-6 in float64, 1e-3 in float32."""
    if tol is None:
        return 1e-6 if dtype == jnp.float64 else 1e-3
    if not isinstance(tol, Tracer) and not 0 < float(tol) < float("inf"):
        raise ValueError(f"tol must be positive and finite, got {tol}")
    return tol


def require_iterations(max_iters: int | Int[Array, ""]) -> None:
    """Raise ValueError for a concrete max_iters below 1: a solver backs the model up at least once."""
    if not isinstance(max_iters, Tracer) and int(max_iters) < 1:
        raise ValueError(f"max_iters must be at least 1, got {max_iters}")

"""The loops: sweep until the certificate meets the tolerance, or keep the history of a number of sweeps.

A solver is one function `advance(k, backup, memory) -> (v, memory)`: from values, their backup and the policy it
suggests, the next values. When to stop is here, once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dp.bounds import Modulus, enclose
from dp.mdp import Count, Policy, Scalar
from dp.solution import Backup

# A limit cycle of rounding can keep the gap just above tol for ever: so many passes without a new best end it.
PATIENCE = 1000

# Updates in place start from the middle of the bounds in step k only if the last time is k / PAUSE steps ago.
PAUSE = 4

State = TypeVar("State", bound=tuple)


class History(NamedTuple):
    """Iterations 0 to num, one after the other.

    v: [num + 1, S], `v[0] = v0`. q: [num + 1, S, A], the action values of each v. policy: [num + 1, S], greedy in q;
    in policy iteration `policy[0] = policy0`, and `v[k + 1]` evaluates `policy[k]` from `v[k]`.
    """

    v: Float[Array, "K S"]
    q: Float[Array, "K S A"]
    policy: Int[Array, "K S"]


class Loop(NamedTuple):
    """What `until_certified` carries: the backup, how many so far, the best gap and the steps since.

    memory: what the solver itself carries from step to step.
    """

    backup: Backup
    iterations: Int[Array, ""]
    best: Float[Array, ""]
    since: Int[Array, ""]
    memory: Any


def until_certified(
    advance: Callable[[Int[Array, ""], Backup, Any], tuple[Float[Array, " S"], Any]],
    back_up: Callable[[Float[Array, " S"], Policy], Backup],
    start: Backup,
    *,
    tol: Scalar,
    max_iters: Count,
    patience: Count = PATIENCE,
    progress: Scalar = 1.0,
    iterations: Count = 1,
    memory: Any = (),
) -> tuple[Backup, Int[Array, ""]]:
    """Repeat `v, memory <- advance(k, backup, memory); backup <- back_up(v, policy)` until `gap <= tol`.

    It also ends when the gap is within twice the floor of rounding and that floor is above tol, when the gap is not
    finite, after `patience` steps without a gap of less than `progress` times the best, or after max_iters backups.
    iterations: how many backups there were before the loop.
    Under vmap, lanes that have ended keep their answer while others go on.
    """

    def unfinished(loop: Loop) -> Bool[Array, ""]:
        gap, floor = loop.backup.gap, loop.backup.floor
        target = jnp.where(floor < tol, tol, 2 * floor)
        promising = jnp.isfinite(gap) & (loop.since < patience)
        return (gap > target) & promising & (loop.iterations < max_iters)

    def step(loop: Loop) -> Loop:
        old = loop.backup
        v, memory = advance(loop.iterations, old, loop.memory)
        new = back_up(v, old.policy)
        better = new.gap < progress * loop.best
        return Loop(
            backup=new,
            iterations=loop.iterations + 1,
            best=jnp.where(better, new.gap, loop.best),
            since=jnp.where(better, 0, loop.since + 1),
            memory=memory,
        )

    begin = Loop(start, jnp.asarray(iterations), start.gap, jnp.asarray(0), memory)
    end = jax.lax.while_loop(unfinished, step, begin)
    return end.backup, end.iterations


def sweep(k: Int[Array, ""], backup: Backup, memory: Any) -> tuple[Float[Array, " S"], Any]:
    """Advance by the backup itself: `v <- T v`."""
    return backup.Tv, memory


def history(step: Callable[[Int[Array, ""], State], State], start: State, num: int) -> State:
    """Stack `start, step(0, start), step(1, ...), ...`: a leading axis of num + 1 on every array of the state."""

    def body(state: State, k: Int[Array, ""]) -> tuple[State, State]:
        state = step(k, state)
        return state, state

    _, states = jax.lax.scan(body, start, jnp.arange(num))
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)


def recentred(
    update: Callable[[Int[Array, ""], Float[Array, " S"]], Float[Array, " S"]],
    modulus: Modulus,
) -> tuple[Callable[[Int[Array, ""], Backup, Any], tuple[Float[Array, " S"], Any]], tuple[Array, Array]]:
    """Return `advance` and its memory for an update in place that now and then starts from the middle of the bounds.

    What all values have in common decays only by γ a sweep. The bounds of a synchronous backup know it; an update in
    place does not, unless it starts from `mid`. Always to do so may harm, where values still have far to travel, or go
    round in circles. So it happens in pauses that grow in proportion to k, and only where the gap is smaller than it
    was the last time: the sweeps between, which converge by themselves, see to that.
    """

    def advance(k: Int[Array, ""], backup: Backup, memory: tuple) -> tuple[Float[Array, " S"], tuple]:
        again, last = memory
        now = (k >= again) & (backup.gap < last)
        v = jnp.where(now, enclose(backup.v, backup.Tv, modulus).mid, backup.v)
        return update(k, v), (jnp.where(now, k + 1 + k // PAUSE, again), jnp.where(now, backup.gap, last))

    return advance, (jnp.asarray(2), jnp.full_like(modulus.largest, jnp.inf))

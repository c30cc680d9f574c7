"""Value iteration in place along the flow of value: level by level, in windows that overlap.

A pass goes through the levels of `dp.levels` from the sources of value outwards. It takes a window of 16 levels, backs
them up in order three times, and moves on by 8: so a value travels through the whole model in one pass, and what an
action sends back against the flow is settled where it happens. Within a level states are backed up together:

    v(s) <- max_a (R(s, a) + γ Σ_{s' ≠ s} p(s'|s, a) v(s')) / (1 - γ p(s|s, a))

the solution of `v(s) = max_a q(s, a)` for v(s), all others given, so that a state that stays where it is costs no
sweeps. A pass G contracts like T or better and has the same fixed point. What it contracts slowly (a policy that goes
round in a circle for ever) are few directions: Anderson's mixture of the last passes takes them out.
Certified, like all solvers, by a synchronous backup after each pass.

Source: Bertsekas (2012), section 2.6 (in place); Dai and Goldsmith (2007), and Wingate and Seppi (2005) for orders that
follow values; the windows are a multiplicative Schwarz method (Saad 2003, section 14.3).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from dp import anderson
from dp.bounds import modulus
from dp.checks import require_at_least, require_model, start_values, tolerance
from dp.choices import maximum
from dp.fixed_point import PATIENCE, until_certified
from dp.levels import Levels, levels
from dp.mdp import MDP, Count, Scalar, allowed, at_states
from dp.solution import Backup, Solution, back_up, certified
from dp.successors import Successors

# A window is so many levels; it is passed so often, and then moves on by so many.
WINDOW, ROUNDS, STEP = 16, 3, 8

# So many passes are mixed.
MEMORY = 5

# The usual reward is the median of about so many states.
SAMPLE = 1000


class Track(NamedTuple):
    """The states as a pass visits them, in blocks of equal size, none of which holds states of two levels.

    order: [N], a state for each place; a block is filled up with its own last state. place: [S], one place of each.
    visits: [V], the blocks that a pass backs up, one after the other.
    """

    order: Int[Array, " N"]
    place: Int[Array, " S"]
    visits: Int[Array, " V"]


def wavefront_iteration(
    mdp: MDP,
    start: ArrayLike | Solution | None = None,
    *,
    along: Levels | None = None,
    tol: Scalar | None = None,
    max_iters: Count = 1_000_000,
) -> Solution:
    """Pass along the flow of value, in place, until the certificate says that `max(upper - lower) <= tol`.

    For sparse models whose states are many steps apart: one pass does what takes others as many sweeps as the model is
    long, and costs six. In a garnet, where all states are near, it has nothing to offer.
    start: values [S] or a Solution; default: what `max_a R(s, a)` is worth for ever in the usual state, at most 0.
    along: the levels, None for `dp.levels.levels(mdp)`.
    tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32. max_iters: passes at most.
    Returns a Solution; `iterations` counts passes. Raises ValueError for gamma = 1, tol <= 0, a model without levels,
    and inside jit, where levels cannot be found out: there, give them.
    """
    require_model(mdp, "wavefront_iteration")
    require_at_least(1, max_iters, "max_iters")
    v0, tol = None if start is None else start_values(mdp, start), tolerance(tol, mdp.R.dtype)
    along = levels(mdp) if along is None else along
    if along is None:
        raise ValueError(
            "values do not flow through this model in levels: it is dense, matrix-free, sharded, or its states are "
            "near each other (use dp.solve), or it is traced (find along=dp.levels.levels(mdp) outside of jit)"
        )
    if not isinstance(along, Levels):
        raise ValueError(f"along must be dp.levels.Levels, got {type(along).__name__}")
    S = mdp.size
    if len(along.order) != S or not np.array_equal(np.sort(along.order), np.arange(S)):
        raise ValueError(f"along.order must name each of the states 0 to {S - 1} once")
    if along.start[0] != 0 or along.start[-1] != S or (np.diff(along.start) <= 0).any():
        raise ValueError(f"along.start must rise from 0 to {S}, got {along.start}")
    return travel_along(mdp, along, v0, tol, max_iters, PATIENCE, 1.0)


def travel_along(mdp: MDP, along: Levels, v0, tol, max_iters, patience, progress) -> Solution:
    """Iterate along known levels; patience, progress: as in `dp.fixed_point.until_certified`."""
    size, track = _track(along)
    return _wavefront(mdp, track, v0, tol, max_iters, patience, progress, block=size)


def _track(along: Levels) -> tuple[int, Track]:
    """Cut the levels into blocks of about the size of a level, and write down the order of a pass."""
    start, width = along.start, np.diff(along.start)
    size = 1 << int(np.log2(max(1, len(along.order) / len(width))))
    blocks = -(-width // size)
    level = np.repeat(np.arange(len(width)), blocks)
    first = np.append(0, np.cumsum(blocks))
    at = start[level][:, None] + (np.arange(len(level)) - first[level])[:, None] * size + np.arange(size)
    order = along.order[np.minimum(at, start[level + 1][:, None] - 1)].ravel()
    place = np.empty(len(along.order), np.int32)
    place[order[::-1]] = np.arange(len(order), dtype=np.int32)[::-1]
    windows = [np.arange(first[a], first[min(a + WINDOW, len(width))]) for a in range(0, len(width), STEP)]
    visits = np.concatenate([np.tile(window, ROUNDS) for window in windows])
    return size, Track(*(jnp.asarray(x, jnp.int32) for x in (order, place, visits)))


@functools.partial(jax.jit, static_argnames="block")
def _wavefront(mdp: MDP, track: Track, v0, tol, max_iters, patience, progress, *, block: int) -> Solution:
    fixed, v0 = jax.lax.stop_gradient((mdp, v0))
    contraction = modulus(*fixed)
    blocks = _laid_out(fixed, track, block)
    v0 = _for_ever(fixed) if v0 is None else v0

    def travel(v: Float[Array, " S"]) -> Float[Array, " S"]:
        def visit(v: Float[Array, " N"], i: Int[Array, ""]) -> tuple[Float[Array, " N"], None]:
            state, weight, r = (x[i] for x in blocks)
            best = maximum((r + Successors(state, weight) @ v).T, None)
            return jax.lax.dynamic_update_slice(v, best, (i * block,)), None

        return jax.lax.scan(visit, v[track.order], track.visits)[0][track.place]

    def advance(k, backup: Backup, memory: tuple) -> tuple[Float[Array, " S"], tuple]:
        before, mixed = memory
        v, mixed = anderson.mix(mixed, before, backup.v, contraction.largest)
        return travel(v), (v, mixed)

    end, iterations = until_certified(
        advance,
        lambda v, policy: back_up(fixed, contraction, v),
        back_up(fixed, contraction, travel(v0)),
        tol=tol,
        max_iters=max_iters,
        patience=patience,
        progress=progress,
        memory=(v0, anderson.empty(MEMORY, v0)),
    )
    return certified(mdp, end, contraction, iterations, tol)


def _for_ever(mdp: MDP) -> Float[Array, " S"]:
    """Return what the usual `max_a R(s, a)` is worth if it comes for ever, at most 0, for every state."""
    # Where steps cost something 0 is too much: steps that lead nowhere then look best, and a room without a way out
    # comes down from 0 by γ a sweep. Not the least reward: one bad state would put all the others out of reach.
    best = maximum(allowed(mdp, mdp.R), mdp.choices)
    usual = jnp.median(best[:: max(1, mdp.size // SAMPLE)])
    return jnp.full(mdp.size, jnp.minimum(usual, 0) / (1 - mdp.gamma))


def _laid_out(
    mdp: MDP, track: Track, block: int
) -> tuple[Int[Array, "M K A B"], Float[Array, "M K A B"], Float[Array, "M A B"]]:
    """Return what a block needs: places of successors, `γ p / (1 - γ p(s|s, a))` without s itself, and rewards."""
    rows = at_states(mdp, track.order)
    state, prob = rows.P
    _, N, A = state.shape
    if rows.mask is not None:
        # What a forbidden row holds does not count, whatever it is.
        prob = jnp.where(rows.mask[None], prob, 0)
    itself = state == track.order[None, :, None]
    stay = jnp.sum(jnp.where(itself, prob, 0), axis=0)
    scale = 1 / (1 - mdp.gamma * stay)
    weight = jnp.where(itself, 0, prob) * (mdp.gamma * scale)[None]
    r = allowed(rows, rows.R * scale)

    def by_block(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(-1, N // block, block, A), (1, 3), (0, 2))

    return by_block(track.place[state]), by_block(weight), by_block(r)[:, 0]

"""In what order values flow: the states in levels, by how many steps they are from where the value comes from.

Values travel against the transitions, one step a sweep. In place and level by level, one sweep carries them through the
whole model. That pays where there are many levels: in mazes, queues, machines that wear. In a random graph all states
are a few steps apart, and no order is better than another; this is found out by looking at a few hundred states.
All of this only chooses an order. No answer depends on it, and it runs on the host.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
import scipy
from jax.core import Tracer
from jaxtyping import Int

from dp.choices import most
from dp.mdp import MDP
from dp.successors import Ragged, Successors
from dp.table import entries

# A glance from one state ends after so many; where they are fewer steps away than this, all states are.
GLANCE, NEAR = 1000, 7

# So many levels there must be, for each doubling of the number of states.
LEVELS_PER_DOUBLING = 4


class Levels(NamedTuple):
    """The states by level: level l holds `order[start[l]:start[l + 1]]`."""

    order: Int[np.ndarray, " S"]
    start: Int[np.ndarray, " L1"]


def levels(mdp: MDP) -> Levels | None:
    """Return the states of a sparse model by their distance to the states where most of the value comes from.

    None where an order would not help, or cannot be seen: dense and matrix-free models, few levels, traced numbers.
    """
    # γ plays no part: it may be traced.
    if not isinstance(mdp.P, Successors | Ragged) or any(
        isinstance(x, Tracer) for x in jax.tree.leaves(mdp._replace(gamma=None))
    ):
        return None
    # Passes need rows of one length, and states with as many actions each.
    if isinstance(mdp.P, Ragged) and mdp.size * most(mdp.R, mdp.choices) * mdp.P.longest > 2 * mdp.P.stored:
        return None
    if not all(_far(mdp, s) for s in {mdp.size // 3, (2 * mdp.size) // 3}):
        return None
    found = _by_distance(mdp, _sources(mdp))
    return found if len(found.start) > LEVELS_PER_DOUBLING * math.log2(mdp.size) else None


def _far(mdp: MDP, s: int) -> bool:
    """Return whether the states that can be reached from s in a few steps are few."""
    seen, front = {s}, [s]
    for _ in range(NEAR):
        front = sorted(set(_successors(mdp, np.asarray(front)).tolist()) - seen)
        seen.update(front)
        if not front:
            # A corner from which little can be reached says nothing.
            return True
        if len(seen) > GLANCE:
            return False
    return True


def _successors(mdp: MDP, states: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Return the states that some action leads to from any of these."""
    if isinstance(mdp.P, Successors):
        state, prob = np.asarray(mdp.P.state), np.asarray(mdp.P.prob)
        return state[:, states][prob[:, states] != 0]
    assert mdp.choices is not None
    mine = np.isin(np.asarray(mdp.choices.owner), states)
    place = np.asarray(mdp.P.place)[mine]
    found, begin = [], 0
    for group in mdp.P.groups:
        size = group.state.shape[1]
        column = place[(place >= begin) & (place < begin + size)] - begin
        found.append(np.asarray(group.state)[:, column][np.asarray(group.prob)[:, column] != 0])
        begin += size
    return np.concatenate(found)


def _sources(mdp: MDP) -> Int[np.ndarray, " n"]:
    """Return the states whose best reward is the largest, or, where that is true of most, the others."""
    R = np.asarray(mdp.R)
    if mdp.choices is not None:
        best = np.maximum.reduceat(R, np.asarray(mdp.choices.first))
    else:
        best = (R if mdp.mask is None else np.where(np.asarray(mdp.mask), R, -np.inf)).max(1)
    if not np.isfinite(best).all():
        return np.arange(mdp.size)
    top = best >= best.max() - 1e-3 * (best.max() - best.min())
    return np.flatnonzero(top if 2 * top.sum() <= len(top) or top.all() else ~top)


def _by_distance(mdp: MDP, sources: Int[np.ndarray, " n"]) -> Levels:
    """Go back from the sources, breadth first; states that do not lead there come last."""
    S = mdp.size
    row, successor, _ = entries(mdp)
    owner = row // mdp.R.shape[1] if mdp.choices is None else np.asarray(mdp.choices.owner)[row]
    # One more state, from which a step back leads to every source.
    start = np.append(successor, np.full(len(sources), S))
    end = np.append(owner, sources)
    back = scipy.sparse.csr_array((np.ones(len(start), np.int8), (start, end)), shape=(S + 1, S + 1))
    order, before = scipy.sparse.csgraph.breadth_first_order(back, S)
    position = np.empty(S + 1, np.int64)
    position[order] = np.arange(len(order))
    # In this order parents come in order too: a level ends where the parents of the next begin.
    parent = position[before[order[1:]]]
    bounds = [0, 1]
    while bounds[-1] < len(order):
        bounds.append(1 + int(np.searchsorted(parent, bounds[-1])))
    lost = np.setdiff1d(np.arange(S), order)
    return Levels(np.append(order[1:], lost), np.append(np.asarray(bounds[1:]) - 1, S if len(lost) else []).astype(int))

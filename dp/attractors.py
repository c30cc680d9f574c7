"""Who can be made to reach what: the graph of a model without a discount, worked out on the host.

Of a target, a set of states, four questions have answers that depend on the graph alone, not on the numbers:

    possible        some policy reaches it with positive probability        P_max > 0
    almost sure     some policy reaches it with probability one             P_max = 1
    unavoidable     every policy reaches it with positive probability       P_min > 0
    certain         every policy reaches it with probability one            P_min = 1

An end component is a set of states, with some choices for each, that those choices never leave and within which they
lead from every state to every other: where a policy may stay for ever. Whatever the policy, with probability one the
states and choices that come back for ever form an end component (de Alfaro 1997, theorem 3.2).

What `make_mdp` takes for the rounding of a row, 1e-8 or 100 eps if that is more, is no end of an episode.
Source: de Alfaro (1997), chapter 3; Baier and Katoen (2008), section 10.6.
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Bool, Int

from dp.table import Table
from dp.validation import rounding_slack


class Arena(NamedTuple):
    """The graph of a table: choice `row[e]` may lead to `successor[e]`. Successor S is the end of the episode.

    owner: [C], the state of each choice. row, successor: [E]. end: S. Sets of states are Booleans [S + 1], the end
    being one of them, sets of choices Booleans [C].
    """

    owner: Int[np.ndarray, " C"]
    row: Int[np.ndarray, " E"]
    successor: Int[np.ndarray, " E"]
    end: int


def arena(table: Table) -> Arena:
    """Return the graph of a table."""
    S, row = len(table.choices) - 1, table.row
    ends = np.flatnonzero(table.mass < 1 - rounding_slack(table.data.dtype))
    seen = table.data > 0
    return Arena(table.owner, np.append(row[seen], ends), np.append(table.indices[seen], np.full(len(ends), S)), S)


def possible(
    arena: Arena, target: Bool[np.ndarray, " S1"], rows: Bool[np.ndarray, " C"]
) -> tuple[Bool[np.ndarray, " S1"], Int[np.ndarray, " S1"]]:
    """Return the states from which some policy may reach the target by the choices in `rows`, and how.

    how: for every such state outside the target a choice that may lead one step closer to it; -1 for all others.
    """
    nodes, C = arena.end + 1, len(arena.owner)
    start, kept, chosen = nodes + C, rows[arena.row], np.flatnonzero(rows)
    goals = np.flatnonzero(target)
    # Backwards, from states to choices to their owners, all targets at once.
    tail = np.concatenate([arena.successor[kept], nodes + chosen, np.full(len(goals), start)])
    head = np.concatenate([nodes + arena.row[kept], arena.owner[chosen], goals])
    edges = scipy.sparse.csr_array((np.ones(len(tail)), (tail, head)), shape=(start + 1, start + 1))
    found, before = scipy.sparse.csgraph.breadth_first_order(edges, start)
    reached = np.zeros(start + 1, bool)
    reached[found] = True
    reached, before = reached[:nodes], before[:nodes]
    return reached, np.where(reached & ~target, before - nodes, -1)


def almost_sure(
    arena: Arena, target: Bool[np.ndarray, " S1"], rows: Bool[np.ndarray, " C"]
) -> tuple[Bool[np.ndarray, " S1"], Int[np.ndarray, " S1"], Bool[np.ndarray, " C"]]:
    """Return the states from which some policy reaches the target with probability one, how, and by which choices.

    The last are the choices that never leave these states, the only ones such a policy can take.
    """
    inside = np.ones(arena.end + 1, bool)
    while True:
        safe = rows.copy()
        safe[arena.row[~inside[arena.successor]]] = False
        reached, how = possible(arena, target, safe)
        if (reached == inside).all():
            return inside, how, safe & inside[arena.owner]
        inside = reached


def unavoidable(arena: Arena, target: Bool[np.ndarray, " S1"], rows: Bool[np.ndarray, " C"]) -> Bool[np.ndarray, " S1"]:
    """Return the states from which every policy may reach the target: each of their choices can lead closer."""
    left = np.bincount(arena.owner[rows], minlength=arena.end + 1)
    order = np.argsort(arena.successor, kind="stable")
    into, start = arena.row[order], np.append(0, np.cumsum(np.bincount(arena.successor, minlength=arena.end + 1)))
    inside, open_ = target.copy(), rows.copy()
    front = np.flatnonzero(target)
    while len(front):
        choices = into[_ranges(start[front], start[front + 1])]
        choices = np.unique(choices[open_[choices]])
        open_[choices] = False
        states, hits = np.unique(arena.owner[choices], return_counts=True)
        left[states] -= hits
        front = states[(left[states] == 0) & ~inside[states]]
        inside[front] = True
    return inside


def certain(
    arena: Arena, target: Bool[np.ndarray, " S1"], rows: Bool[np.ndarray, " C"]
) -> tuple[Bool[np.ndarray, " S1"], Bool[np.ndarray, " S1"], Int[np.ndarray, " S1"]]:
    """Return the states from which every policy reaches the target with probability one, and how the others avoid it.

    The second set can avoid the target for sure; the last says by which choice other states may come closer to it.
    The target must own no choice in `rows`.
    """
    avoided = ~unavoidable(arena, target, rows)
    escape, how = possible(arena, avoided, rows)
    return ~escape, avoided, how


def end_components(arena: Arena, rows: Bool[np.ndarray, " C"]) -> tuple[Int[np.ndarray, " S1"], Bool[np.ndarray, " C"]]:
    """Return the number of the maximal end component of each state, -1 for none, and the choices that stay in it.

    They are numbered in the order of their first states. Drop the choices that may leave their strongly connected
    class, and repeat: O(edges) a pass, mostly a few. Source: de Alfaro (1997), chapter 3.
    """
    stays, kept = rows.copy(), rows[arena.row]
    row, successor = arena.row[kept], arena.successor[kept]
    while True:
        edges = scipy.sparse.csr_array((np.ones(len(row)), (arena.owner[row], successor)), shape=(arena.end + 1,) * 2)
        _, label = scipy.sparse.csgraph.connected_components(edges, connection="strong")
        leaves = label[arena.owner[row]] != label[successor]
        if not leaves.any():
            break
        stays[row[leaves]] = False
        row, successor = row[stays[row]], successor[stays[row]]
    inside = np.unique(arena.owner[stays])
    number = np.full(arena.end + 1, -1)
    _, first, which = np.unique(label[inside], return_index=True, return_inverse=True)
    number[inside] = np.argsort(np.argsort(first))[which]
    return number, stays


def own(arena: Arena, states: Bool[np.ndarray, " S1"]) -> Bool[np.ndarray, " C"]:
    """Return the choices that these states own."""
    return states[arena.owner]


def inner(arena: Arena, states: Bool[np.ndarray, " S1"]) -> Bool[np.ndarray, " C"]:
    """Return the choices that these states own and that never leave them."""
    stays = own(arena, states)
    stays[arena.row[~states[arena.successor]]] = False
    return stays


def first_choices(arena: Arena, rows: Bool[np.ndarray, " C"]) -> Int[np.ndarray, " S1"]:
    """Return, for every state, the first of its choices in `rows`; -1 where there is none."""
    first = np.full(arena.end + 1, -1)
    chosen = np.flatnonzero(rows)[::-1]
    first[arena.owner[chosen]] = chosen
    return first


def _ranges(start: Int[np.ndarray, " n"], stop: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Return `start[0], ..., stop[0] - 1, start[1], ...`."""
    length = stop - start
    return np.repeat(start - np.append(0, np.cumsum(length)[:-1]), length) + np.arange(length.sum())

"""Which states can reach which: the graph of an MDP, worked out on the host.

An end component is a set of states, with some actions for each, that those actions never leave and within which they
lead from every state to every other. Whatever the policy, the states and actions that come back for ever form an end
component, with probability one (de Alfaro 1997, chapter 3). So an MDP with exactly one maximal end component is
*weakly communicating*: that component is closed, one can go from each of its states to every other, and all other
states are left for good under every policy (Puterman 1994, section 8.3.1). Its optimal gain is then the same in every
state. Every unichain MDP is one of them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from dp import attractors
from dp.attractors import Arena, arena
from dp.mdp import MDP
from dp.table import Table, merged, tabulate


class Graph(NamedTuple):
    """The support of the choices of an MDP, one entry per edge. Choices are counted as in `dp.table`.

    row, successor: [E], no edge twice. Successor S stands for the end of the episode, where mass is missing from a row.
    owner, action: [C], the state of each choice, and its number as an action of the MDP.
    mass: [C], `Σ_s' p(s'|s, a)`; 1 for choices that are left out. states: S.
    """

    row: Int[np.ndarray, " E"]
    successor: Int[np.ndarray, " E"]
    owner: Int[np.ndarray, " C"]
    action: Int[np.ndarray, " C"]
    mass: Float[np.ndarray, " C"]
    states: int


class EndComponents(NamedTuple):
    """The maximal end components of an MDP.

    label: [S], components are numbered from 0 in the order of their first states; -1 for a state in none.
    stays: [C], True where the choice belongs to the component of its state.
    """

    label: Int[np.ndarray, " S"]
    stays: Bool[np.ndarray, " C"]


def graph(mdp: MDP) -> Graph:
    """Return the graph of an MDP whose numbers are concrete."""
    # Rewards are no part of it: they may be traced.
    return graph_of(merged(tabulate(mdp._replace(R=np.zeros(mdp.R.shape)))))


def graph_of(table: Table) -> Graph:
    """Return the graph of an MDP on the host."""
    owner, row, successor, S = arena(table)
    return Graph(row, successor, owner, table.actions, table.mass, S)


def follow(graph: Graph, policy: ArrayLike) -> Graph:
    """Return the graph of the actions that a policy, integers or probabilities, takes with any probability."""
    pi = np.asarray(policy)
    if pi.dtype.kind in "iu":
        takes = graph.action == pi[graph.owner]
    else:
        takes = (pi if pi.ndim == 1 else pi[graph.owner, graph.action]) > 0
    taken = takes[graph.row]
    return graph._replace(row=graph.row[taken], successor=graph.successor[taken], mass=np.where(takes, graph.mass, 1.0))


def chain(graph: Graph) -> Graph:
    """Return the graph of the chain that takes every action now and then: one row, the union, for every state."""
    S = graph.states
    row, successor = np.divmod(np.unique(graph.owner[graph.row] * (S + 1) + graph.successor), S + 1)
    mass = np.full(S, 1.0)
    np.minimum.at(mass, graph.owner, graph.mass)
    return Graph(row, successor, np.arange(S), np.zeros(S, int), mass, S)


def end_components(graph: Graph) -> EndComponents:
    """Find the maximal end components; those of a chain are its recurrent classes."""
    leads_on = np.zeros(len(graph.owner), bool)
    leads_on[graph.row] = True
    label, stays = attractors.end_components(Arena(graph.owner, graph.row, graph.successor, graph.states), leads_on)
    return EndComponents(label[:-1], stays)


def separate_classes(graph: Graph) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the states of two end components between which no policy can be sure to go back and forth.

    None where there is only one component: then the MDP is weakly communicating.
    """
    rows = np.count_nonzero(np.bincount(graph.row))
    # A state that every action may lead to comes back for ever, and belongs to every end component: no need to search.
    if np.bincount(graph.successor, minlength=graph.states).max() == rows:
        return None
    label = end_components(graph).label
    return (np.flatnonzero(label == 0), np.flatnonzero(label == 1)) if label.max() > 0 else None


def require_endless(graph: Graph) -> None:
    """Raise ValueError, naming the place, where an episode can end."""
    ends = graph.row[graph.successor == graph.states]
    if len(ends):
        s, a, mass = graph.owner[ends[0]], graph.action[ends[0]], graph.mass[ends[0]]
        what = (
            f"state {s} ends the episode"
            if mass == 0
            else f"P[{s}, {a}] sums to {mass:.10g}, the rest ends the episode"
        )
        raise ValueError(f"{what}: the average reward is about chains that never end")


def require_weakly_communicating(graph: Graph) -> None:
    """Raise ValueError where the best average reward can depend on the state, naming two classes of states."""
    classes = separate_classes(graph)
    if classes is not None:
        one, other = map(_name, classes)
        raise ValueError(
            f"the MDP is multichain: no policy goes back and forth for sure between states {one} and states {other}, "
            "so that the best average reward can depend on where one starts"
        )


def require_unichain(graph: Graph) -> None:
    """Raise ValueError where the average reward of a policy can depend on the state, naming two recurrent classes.

    graph: that of the actions the policy takes.
    """
    classes = separate_classes(chain(graph))
    if classes is not None:
        one, other = map(_name, classes)
        raise ValueError(
            f"the policy is multichain: it never leaves states {one}, nor states {other}, "
            "so that its average reward can depend on where one starts"
        )


def _name(states: np.ndarray) -> str:
    some = ", ".join(map(str, states[:5]))
    return f"[{some}]" if len(states) <= 5 else f"[{some}, ...] ({len(states)} of them)"

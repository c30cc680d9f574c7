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
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dp.mdp import MDP


class Graph(NamedTuple):
    """The support of the allowed rows of P, one entry per edge; row s * A + a belongs to action a in state s.

    row, successor: [E], no edge twice. Successor S stands for the end of the episode, where mass is missing from a row.
    mass: [S, A], `Σ_s' p(s'|s, a)`; 1 for rows that are left out.
    """

    row: Int[np.ndarray, " E"]
    successor: Int[np.ndarray, " E"]
    mass: Float[np.ndarray, "S A"]


class EndComponents(NamedTuple):
    """The maximal end components of an MDP.

    label: [S], components are numbered from 0 in the order of their first states; -1 for a state in none.
    stays: [S, A], True where the action belongs to the component of its state.
    """

    label: Int[np.ndarray, " S"]
    stays: Bool[np.ndarray, "S A"]


def graph(mdp: MDP) -> Graph:
    """Return the graph of an MDP whose numbers are concrete."""
    P = np.asarray(mdp.P)
    S, A, T = P.shape
    allowed = np.ones((S, A), bool) if mdp.mask is None else np.asarray(mdp.mask)
    mass = np.where(allowed, P.sum(-1, dtype=np.float64), 1.0)
    # What make_mdp takes for the rounding of a row is no end of an episode.
    ends = np.flatnonzero(mass < 1 - max(1e-8, 100 * float(np.finfo(P.dtype).eps)))
    row, successor = np.nonzero(P.reshape(S * A, T))
    known = allowed.ravel()[row]
    return Graph(np.append(row[known], ends), np.append(successor[known], np.full(len(ends), S)), mass)


def follow(graph: Graph, policy: ArrayLike) -> Graph:
    """Return the graph of the actions that a policy, int [S] or float [S, A], takes with any probability."""
    pi = np.asarray(policy)
    takes = np.eye(graph.mass.shape[1], dtype=bool)[pi] if pi.ndim == 1 else pi > 0
    taken = takes.ravel()[graph.row]
    return Graph(graph.row[taken], graph.successor[taken], np.where(takes, graph.mass, 1.0))


def chain(graph: Graph) -> Graph:
    """Return the graph of the chain that takes every action now and then: one row, the union, for every state."""
    S, A = graph.mass.shape
    row, successor = np.divmod(np.unique(graph.row // A * (S + 1) + graph.successor), S + 1)
    return Graph(row, successor, graph.mass.min(1, keepdims=True))


def end_components(graph: Graph) -> EndComponents:
    """Find the maximal end components: drop the actions that may leave their strongly connected class, and repeat.

    Those of a chain are its recurrent classes. Source: de Alfaro (1997), chapter 3. O(edges) a pass, mostly a few.
    """
    S, A = graph.mass.shape
    row, successor = graph.row, graph.successor
    stays = np.zeros(S * A, bool)
    stays[row] = True
    while True:
        state = row // A
        # Booleans: edges that several actions share are joined, not counted.
        edges = csr_array((np.ones(len(row), bool), (state, successor)), shape=(S + 1, S + 1))
        _, label = connected_components(edges, connection="strong")
        leaves = label[state] != label[successor]
        if not leaves.any():
            break
        stays[row[leaves]] = False
        row, successor = row[stays[row]], successor[stays[row]]
    stays = stays.reshape(S, A)
    inside = np.flatnonzero(stays.any(1))
    _, first, which = np.unique(label[inside], return_index=True, return_inverse=True)
    numbered = np.full(S, -1)
    numbered[inside] = np.argsort(np.argsort(first))[which]
    return EndComponents(numbered, stays)


def separate_classes(graph: Graph) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the states of two end components between which no policy can be sure to go back and forth.

    None where there is only one component: then the MDP is weakly communicating.
    """
    S, _ = graph.mass.shape
    rows = np.count_nonzero(np.bincount(graph.row))
    # A state that every action may lead to comes back for ever, and belongs to every end component: no need to search.
    if np.bincount(graph.successor, minlength=S).max() == rows:
        return None
    label = end_components(graph).label
    return (np.flatnonzero(label == 0), np.flatnonzero(label == 1)) if label.max() > 0 else None


def require_endless(graph: Graph) -> None:
    """Raise ValueError, naming the place, where an episode can end."""
    S, A = graph.mass.shape
    ends = graph.row[graph.successor == S]
    if len(ends):
        s, a = divmod(int(ends[0]), A)
        mass = graph.mass[s, a]
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

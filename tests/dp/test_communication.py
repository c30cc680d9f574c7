"""End components against an exponential oracle, and what is refused, by name."""

import re
from itertools import chain, combinations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import dp
from dp import communication
from dp.communication import end_components, graph, separate_classes


def support(*successors: list[list[int]], **sets) -> dp.MDP:
    """Build an MDP from lists: `successors[s][a]` are the states that action a of state s may lead to, equally."""
    S, A = len(successors), max(map(len, successors))
    P, mask = np.zeros((S, A, S)), np.zeros((S, A), bool)
    for s, actions in enumerate(successors):
        for a, states in enumerate(actions):
            mask[s, a] = True
            P[s, a, states] = 1 / len(states) if states else 0
    return dp.make_mdp(P, np.zeros(S), 0.9, mask=mask, **sets)


def random_support(seed: int, S: int = 4, A: int = 2) -> dp.MDP:
    """Few successors, a forbidden action here and there, and in some a row that loses mass."""
    rng = np.random.default_rng(seed)
    P = (rng.random((S, A, S)) < rng.choice([0.15, 0.3, 0.5])).astype(float)
    empty = P.sum(-1) == 0
    P[empty] = np.eye(S)[rng.integers(S, size=empty.sum())]
    P /= P.sum(-1, keepdims=True)
    if seed % 4 == 0:
        P[rng.integers(S), rng.integers(A)] *= 0.5
    mask = rng.random((S, A)) < 0.9
    mask[:, 0] |= ~mask.any(1)
    return dp.make_mdp(P, np.zeros(S), 0.9, mask=mask, substochastic=True)


def strongly_connected(edges: np.ndarray) -> bool:
    reach = np.linalg.matrix_power(np.eye(len(edges)) + edges, len(edges)) > 0
    return bool(reach.all())


def naive(mdp: dp.MDP) -> tuple[np.ndarray, np.ndarray]:
    """All sets of states, one by one: keep those that are end components, and of these the maximal ones."""
    P = np.asarray(mdp.P)
    S, A, _ = P.shape
    allowed = np.ones((S, A), bool) if mdp.mask is None else np.asarray(mdp.mask)
    found = []
    for states in chain.from_iterable(combinations(range(S), n) for n in range(1, S + 1)):
        inside = np.isin(np.arange(S), states)
        stays = allowed & inside[:, None] & (P[:, :, ~inside].sum(-1) == 0) & (P.sum(-1) > 1 - 1e-9)
        edges = np.einsum("sat,sa->st", P, stays)[np.ix_(inside, inside)] > 0
        if stays[inside].any(1).all() and strongly_connected(edges):
            found.append((set(states), stays))
    label, actions = np.full(S, -1), np.zeros((S, A), bool)
    maximal = [(c, stays) for c, stays in found if not any(c < other for other, _ in found)]
    for i, (c, stays) in enumerate(sorted(maximal, key=lambda found: min(found[0]))):
        label[sorted(c)] = i
        actions |= stays
    return label, actions


def test_end_components_are_those_found_one_by_one():
    seen = set()
    for seed in range(300):
        mdp = random_support(seed)
        label, stays = naive(mdp)
        edges = graph(mdp)
        found = end_components(edges)
        assert_array_equal(found.label, label)
        assert_array_equal(found.stays, stays[edges.owner, edges.action])
        one_class = separate_classes(graph(mdp)) is None
        assert one_class == (label.max() < 1)
        seen.add((label.max(), (label < 0).any()))
    # None at all, one with and without other states, several: all kinds came up.
    assert seen >= {(-1, True), (0, True), (0, False), (1, True), (1, False), (2, False)}


def test_an_action_that_may_leave_is_no_part():
    # From 1 one may fall from the ring of 0 and 1 into 2, for good; ring and pit are two components.
    found = end_components(graph(support([[1]], [[0], [0, 2]], [[2]])))
    assert_array_equal(found.label, [0, 0, 1])
    assert_array_equal(found.stays, [True, True, False, True])


def test_what_falls_apart_when_an_action_is_dropped():
    # 1 must risk the pit to get back to 0, and then 0 and 1 are no ring any more: pass by pass nothing is left.
    found = end_components(graph(support([[1]], [[2]], [[3]], [[0, 4]], [[4]])))
    assert_array_equal(found.label, [-1, -1, -1, -1, 0])


def test_components_are_numbered_by_their_first_states():
    found = end_components(graph(support([[3]], [[1]], [[2]], [[0]], [[1]])))
    assert_array_equal(found.label, [0, 1, 2, 0, -1])


def test_where_mass_is_missing_nothing_stays():
    mdp = support([[1]], [[]], terminal=np.array([False, True]))
    assert_array_equal(end_components(graph(mdp)).label, [-1, -1])


def test_rounding_is_not_missing_mass():
    P = np.full((3, 1, 3), np.float32(1) / 3, np.float32)
    P[:, :, 0] -= np.float32(4e-6)
    assert graph(dp.make_mdp(P, np.zeros(3, np.float32), 0.9)).successor.max() == 2


def test_forbidden_actions_are_no_edges():
    mdp = support([[0], [1]], [[1], [0]])
    assert separate_classes(graph(mdp)) is None
    mask = np.array([[True, False], [True, True]])
    one, other = separate_classes(graph(mdp._replace(mask=mask))) or (None, None)
    assert_array_equal(one, [0])
    assert_array_equal(other, [1])


def test_edges_that_256_actions_share():
    # A count of them in 8 bits would be 0.
    mdp = support([[1]] * 256, [[0]] * 256)
    assert_array_equal(end_components(graph(mdp)).label, [0, 0])


def test_a_thousand_states_in_a_row():
    S = 1000
    s = np.arange(S)
    P = np.zeros((S, 2, S), np.float32)
    P[s, 0, np.maximum(s - 1, 0)] = P[s, 1, np.minimum(s + 1, S - 1)] = 1
    there_and_back = dp.MDP(P, np.zeros((S, 2)), np.ones(()))  # type: ignore
    assert separate_classes(graph(there_and_back)) is None
    one_way = there_and_back._replace(mask=np.stack([s < 500, s >= 0], 1))  # type: ignore
    one, other = separate_classes(graph(one_way)) or ([], [])
    assert_array_equal(one, s[:500])
    assert_array_equal(other, s[-1:])
    with pytest.raises(
        ValueError, match=re.escape("between states [0, 1, 2, 3, 4, ...] (500 of them) and states [999]")
    ):
        communication.require_weakly_communicating(graph(one_way))


def test_recurrent_classes_of_a_policy():
    mdp = support([[0], [1]], [[0], [1, 2]], [[1], [2]])
    ring = graph(mdp)
    communication.require_weakly_communicating(ring)
    stay = communication.follow(ring, np.array([0, 1, 1]))
    assert_array_equal(end_components(communication.chain(stay)).label, [0, -1, 1])
    # A state that takes both actions now and then is left in the end, by one of them.
    both = communication.follow(ring, np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]]))
    assert_array_equal(end_components(communication.chain(both)).label, [-1, -1, 0])
    communication.require_unichain(both)
    with pytest.raises(ValueError, match=re.escape("it never leaves states [0], nor states [2]")):
        communication.require_unichain(stay)


def test_actions_that_share_successors_are_not_counted_twice():
    # Both actions of 0 lead to 0, and 1 stays: two edges into 0, two states, and yet two classes.
    mdp = support([[0], [0]], [[1]])
    follow = communication.follow(graph(mdp), np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert separate_classes(communication.chain(follow)) is not None


@pytest.mark.parametrize(
    ("message", "mdp"),
    [
        (
            "state 1 ends the episode: the average reward is about chains that never end",
            support([[1]], [[]], terminal=np.array([False, True])),
        ),
        (
            "P[0, 1] sums to 0.75, the rest ends the episode: the average reward",
            dp.make_mdp(np.array([[[1.0], [0.75]]]), np.zeros(1), 0.9, substochastic=True),
        ),
    ],
)
def test_episodes_that_end_are_named(message, mdp):
    with pytest.raises(ValueError, match=re.escape(message)):
        communication.require_endless(graph(mdp))
    # The action that ends it need not be taken.
    if mdp.R.shape[1] == 2 and mdp.mask is None:
        communication.require_endless(communication.follow(graph(mdp), np.array([0])))

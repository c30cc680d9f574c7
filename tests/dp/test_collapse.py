"""The graph of a model, and what is left when its components are collapsed, against plain Python."""

import itertools

import numpy as np
import pytest

from dp.attractors import almost_sure, arena, certain, end_components, inner, possible, unavoidable
from dp.collapse import collapse, proper, unfold
from dp.table import Table


def table(rows, owners, rewards=None):
    """A table of rows {successor: probability}, owned by these states."""
    S = max(owners) + 1
    return Table(
        data=np.array([p for row in rows for p in row.values()], float),
        indices=np.array([s for row in rows for s in row], int),
        indptr=np.append(0, np.cumsum([len(row) for row in rows])),
        choices=np.append(0, np.cumsum(np.bincount(owners, minlength=S))),
        rewards=np.zeros(len(rows)) if rewards is None else np.array(rewards, float),
        actions=np.zeros(len(rows), int),
    )


def random_table(seed, S=6):
    rng = np.random.default_rng(seed)
    owners = np.sort(np.append(np.arange(S), rng.integers(0, S, 5)))
    rows = []
    for _ in owners:
        support = rng.choice(S, size=rng.integers(1, 4), replace=False)
        total = len(support) + (rng.random() < 0.2)
        rows.append({int(s): 1 / total for s in support})
    return table(rows, list(owners)), rng.random(S) < 0.3


def successors(graph):
    found = [set() for _ in graph.owner]
    for c, s in zip(graph.row, graph.successor, strict=True):
        found[c].add(int(s))
    return found


def closure(edges, nodes):
    reach = {s: {s} for s in nodes}
    for _ in nodes:
        for s in nodes:
            for t in edges[s]:
                reach[s] |= reach[t]
    return reach


def chains(graph):
    """Yield the edges of every deterministic policy."""
    after = successors(graph)
    own = [[c for c, o in enumerate(graph.owner) if o == s] for s in range(graph.end)]
    for choice in itertools.product(*own):
        yield {s: after[c] for s, c in enumerate(choice)} | {graph.end: set()}


@pytest.mark.parametrize("seed", range(10))
def test_the_four_questions_are_answered_as_by_all_policies(seed):
    model, goal = random_table(seed)
    graph = arena(model)
    target = np.append(goal, False)
    nodes = range(graph.end + 1)
    some, sure, always, every = (np.zeros(graph.end + 1, bool) for _ in range(4))
    always[:] = every[:] = True
    for edges in chains(graph):
        edges = {s: set() if target[s] else after for s, after in edges.items()}
        reach = closure(edges, nodes)
        may = np.array([any(target[t] for t in reach[s]) for s in nodes])
        must = np.array([all(any(target[u] for u in reach[t]) for t in reach[s]) for s in nodes])
        some, sure, always, every = some | may, sure | must, always & may, every & must
    rows = ~target[graph.owner]
    np.testing.assert_array_equal(possible(graph, target, rows)[0], some)
    np.testing.assert_array_equal(almost_sure(graph, target, rows)[0], sure)
    np.testing.assert_array_equal(unavoidable(graph, target, rows), always)
    np.testing.assert_array_equal(certain(graph, target, rows)[0], every)


@pytest.mark.parametrize("seed", range(10))
def test_end_components_are_where_policies_can_stay(seed):
    model, _ = random_table(seed)
    graph = arena(model)
    label, stays = end_components(graph, np.ones(len(graph.owner), bool))
    together = np.zeros((graph.end, graph.end), bool)
    for edges in chains(graph):
        reach = closure(edges, range(graph.end + 1))
        for s in range(graph.end):
            if all(s in reach[t] for t in reach[s]) and edges[s]:
                together[np.ix_(sorted(reach[s]), sorted(reach[s]))] = True
    # Every recurrent class of a policy lies in one component, and each state of a component is in one.
    np.testing.assert_array_equal(label[:-1] >= 0, together.any(1))
    assert (label[:-1, None] == label[None, :-1])[together].all()
    for c in np.flatnonzero(stays):
        assert {int(label[s]) for s in successors(graph)[c]} == {int(label[graph.owner[c]])}


def test_a_component_becomes_one_state_that_owns_its_exits():
    # 0 and 1 go to each other; 0 may leave for 2, 1 for 3 or the end.
    rows = [{1: 1.0}, {2: 0.5, 0: 0.5}, {0: 1.0}, {3: 0.25, 1: 0.5}, {2: 1.0}, {3: 1.0}]
    model = table(rows, [0, 0, 1, 1, 2, 3], rewards=[0, 5, 0, 7, 0, 0])
    graph = arena(model)
    inside = np.array([True, True, False, False, False])
    component, staying = end_components(graph, inner(graph, inside))
    np.testing.assert_array_equal(component, [0, 0, -1, -1, -1])
    leaving = inside[graph.owner] & ~staying
    worth = np.array([0, 0, 10.0, 100.0, 0])
    quotient = collapse(model, model.rewards, inside, leaving, component, worth=worth)
    np.testing.assert_array_equal(quotient.P.toarray(), [[0.5], [0.5]])
    np.testing.assert_array_equal(quotient.r, [10, 32])
    np.testing.assert_array_equal(quotient.row, [1, 3])
    # The second exit belongs to state 1: state 0 goes there.
    np.testing.assert_array_equal(unfold(graph, quotient, np.array([1]), staying), [0, 3, -1, -1, -1])
    np.testing.assert_array_equal(unfold(graph, quotient, np.array([0]), staying), [1, 2, -1, -1, -1])


def test_where_staying_is_worth_something_a_component_can_stop():
    rows = [{1: 1.0}, {0: 1.0}, {2: 1.0}, {0: 0.5, 2: 0.5}]
    model = table(rows, [0, 1, 1, 2], rewards=[0, 0, -1, -3])
    graph = arena(model)
    inside = np.array([True, True, True, False])
    component, staying = end_components(graph, model.rewards == 0)
    quotient = collapse(model, model.rewards, inside, inside[graph.owner] & ~staying, component, stops=True)
    order = np.argsort(quotient.row)
    np.testing.assert_array_equal(quotient.row[order], [-1, 2, 3])
    np.testing.assert_array_equal(quotient.P.toarray().sum(1)[order], [0, 1, 1])
    np.testing.assert_array_equal(quotient.r[order], [0, -1, -3])
    # The only way out is to stop: from state 2 by way of the component.
    np.testing.assert_array_equal(quotient.row[proper(graph, quotient)][quotient.block[:3]], [-1, -1, 3])
    np.testing.assert_array_equal(unfold(graph, quotient, proper(graph, quotient), staying), [0, 1, 3, -1])


def test_the_rounding_of_a_row_is_no_end_of_an_episode():
    third = table([{0: 1 / 3, 1: 1 / 3, 2: 1 / 3 - 1e-16}, {1: 1.0}, {2: 1 - 1e-7}], [0, 1, 2])
    np.testing.assert_array_equal(arena(third).row[arena(third).successor == 3], [2])

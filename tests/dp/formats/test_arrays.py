"""Tables of Gymnasium and arrays of quantecon and pymdptoolbox."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import dp
from dp import formats
from dp.table import tabulate

KNOWN = [
    ("FrozenLake-v1", {"map_name": "4x4"}, 0.5420259320),
    ("FrozenLake-v1", {"map_name": "8x8"}, 0.4146403618),
    ("Taxi-v4", {}, 6.3274643),
    ("CliffWalking-v1", {}, -12.2478977),
]


def values(mdp: dp.MDP) -> np.ndarray:
    """Return v_* by policy iteration in NumPy."""
    table = tabulate(mdp)
    S, C = len(table.choices) - 1, len(table.rewards)
    P = np.zeros((C, S))
    P[np.repeat(np.arange(C), np.diff(table.indptr)), table.indices] = table.data
    gamma, rows, v = float(mdp.gamma), table.choices[:-1], np.zeros(S)
    for _ in range(100):
        v = np.linalg.solve(np.eye(S) - gamma * P[rows], table.rewards[rows])
        q = table.rewards + gamma * P @ v
        best = np.maximum.reduceat(q, table.choices[:-1])
        if (best <= v + 1e-10).all():
            return v
        own = np.repeat(np.arange(S), np.diff(table.choices))
        rows = np.array([np.flatnonzero((own == s) & (q == best[s]))[0] for s in range(S)])
    raise AssertionError


@pytest.mark.parametrize(("name", "sets", "value"), KNOWN)
def test_gymnasium_has_the_known_values(name: str, sets: dict, value: float):
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make(name, **sets)
    v = values(formats.from_gymnasium(env, 0.99))
    assert abs(formats.initial_distribution(env) @ v - value) < 1e-7


@pytest.mark.parametrize(("size", "wins"), [("4x4", 14 / 17), ("8x8", 1.0)])
def test_the_last_state_can_be_entered_and_be_a_goal(size: str, wins: float):
    env = pytest.importorskip("gymnasium").make("FrozenLake-v1", map_name=size)
    mdp = formats.from_gymnasium(env, 1.0, enter_last=True)
    goal = (env.unwrapped.desc == b"G").ravel()
    assert abs(dp.reachability(mdp, goal).v[0] - wins) < 1e-9
    np.testing.assert_allclose(values(mdp._replace(gamma=0.99)), values(formats.from_gymnasium(env, 0.99)), atol=1e-12)


def test_a_state_that_is_also_passed_through_cannot_be_the_last():
    table = {0: {0: [(1.0, 1, 0.0, True)]}, 1: {0: [(1.0, 2, 0.0, False)]}, 2: {0: [(1.0, 1, 0.0, False)]}}
    with pytest.raises(ValueError, match=r"P\[2\]\[0\] enters state 1 and goes on"):
        formats.from_gymnasium(environment(table), 0.5, enter_last=True)


def environment(table: Any, **sets) -> SimpleNamespace:
    return SimpleNamespace(unwrapped=SimpleNamespace(P=table, **sets))


def test_what_comes_after_the_end_is_worth_nothing():
    # State 1 ends the episode, but its own row goes on and earns.
    table = {
        0: {0: [(0.5, 1, 4.0, True), (0.25, 0, 2.0, False), (0.25, 0, 2.0, False)]},
        1: {0: [(1.0, 1, 100.0, False)]},
    }
    mdp = formats.from_gymnasium(environment(table), 0.5)
    np.testing.assert_array_equal(mdp.R, [[3.0], [100.0]])
    np.testing.assert_allclose(values(mdp), [4, 200], rtol=1e-14)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (None, "this environment has none"),
        ({}, "this environment has none"),
        ({1: {0: [(1.0, 1, 0.0, False)]}}, "the keys of P must be the states 0 to 0"),
        ({0: {1: [(1.0, 0, 0.0, False)]}}, r"P\[0\] must be a table of the actions 0, 1, ..."),
        ({0: {0: [(0.9, 0, 0.0, False)]}}, r"P\[0\]\[0\]: the probabilities sum to 0.9, not to 1"),
        ({0: {0: []}}, r"P\[0\]\[0\]: the probabilities sum to 0, not to 1"),
        ({0: {0: [(-0.5, 0, 0.0, False), (1.5, 0, 0.0, False)]}}, r"P\[0\]\[0\]: probability -0.5"),
        ({0: {0: [(float("nan"), 0, 0.0, False)]}}, r"P\[0\]\[0\]: probability nan"),
        ({0: {0: [(1.0, 0, float("inf"), False)]}}, r"P\[0\]\[0\]: probability 1, reward inf"),
        ({0: {0: [(1.0, 1, 0.0, False)]}}, r"P\[0\]\[0\] leads to state 1: there are 1"),
        ({0: {0: [(1.0, 0.5, 0.0, False)]}}, r"P\[0\]\[0\] leads to state 0.5: there are 1"),
        ({0: {0: [(1.0, 0, False)]}}, r"P\[0\]\[0\] must hold \(p, s', r, terminated\)"),
        (
            {0: {0: [(1.0, 0, 0, False)]}, 1: {0: [(1.0, 0, 0, False)], 1: [(1.0, 0, 0, False)]}},
            r"P\[1\] has 2 actions and P\[0\] has 1",
        ),
    ],
)
def test_tables_that_are_none_are_refused(table: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        formats.from_gymnasium(environment(table), 0.9)


def test_first_states_must_be_a_distribution():
    table = {0: {0: [(1.0, 0, 0.0, False)]}}
    assert formats.initial_distribution(environment(table, initial_state_distrib=np.array([1]))).tolist() == [1.0]
    for wrong in (None, np.array([0.5]), np.array([0.5, 0.5])):
        with pytest.raises(ValueError, match="must be a distribution over 1 states"):
            formats.initial_distribution(environment(table, initial_state_distrib=wrong))


# quantecon's own example: state 0 has two actions, state 1 has one.
R, Q, BETA = np.array([5.0, 10.0, -1.0]), np.array([[0.5, 0.5], [0, 1], [0, 1]]), 0.95
PAIRS = np.array([0, 0, 1]), np.array([0, 1, 0])


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.coo_array])
def test_pairs_and_products_of_quantecon_are_the_same_model(form: Any):
    product = formats.from_quantecon(
        np.array([[5, 10], [-1, -np.inf]]), np.array([[[0.5, 0.5], [0, 1]], [[0, 1], [0.5, 0.5]]]), BETA
    )
    shuffled = np.array([2, 0, 1])
    s, a = (x[shuffled] for x in PAIRS)
    pairs = formats.from_quantecon(R[shuffled], form(Q[shuffled]), BETA, s, a)
    for x, y in zip(tabulate(product), tabulate(pairs), strict=True):
        np.testing.assert_array_equal(x, y)
    # Puterman (1994), section 3.1: v(1) = -20, and v(0) = -60/7 by its first action.
    np.testing.assert_allclose(values(pairs), [-60 / 7, -20], rtol=1e-12)


def test_pairs_that_cannot_be_taken_are_left_out():
    pairs = formats.from_quantecon(
        np.append(R, -np.inf), np.vstack([Q, [0, 0]]), BETA, np.append(PAIRS[0], 1), np.append(PAIRS[1], 1)
    )
    assert pairs.R.shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((R, Q, BETA), r"without s_indices and a_indices R must have shape \[S, A\], got \[3\]"),
        ((R, Q, BETA, PAIRS[0]), "s_indices and a_indices belong together"),
        ((R, Q, BETA, PAIRS[0][:2], PAIRS[1]), r"got \[\[3\], \[3, 2\], \[2\], \[3\]\]"),
        ((R, Q, BETA, np.array([0, 0, 2]), PAIRS[1]), "pair 2 is state 2, action 0: Q has 2 states"),
        ((R, Q, BETA, np.array([0, 0, 0]), PAIRS[1]), "state 0, action 0 comes twice"),
        ((R, Q, BETA, np.array([0, 0, 0]), np.array([0, 1, 2])), "state 1 has no action in s_indices"),
        ((R, Q, BETA, np.array([0.0, 0, 1]), PAIRS[1]), "s_indices must be integers"),
        ((R, Q * 2, BETA, *PAIRS), "sums to 2, not to 1"),
        ((R, np.array([Q[0]] * 3)[:, None], BETA, *PAIRS), "must have shapes"),
    ],
)
def test_arguments_of_quantecon_that_do_not_fit_are_refused(arguments: tuple, reason: str):
    with pytest.raises(ValueError, match=reason):
        formats.from_quantecon(*arguments)


FOREST = np.array([[[0.1, 0.9, 0], [0.1, 0, 0.9], [0.1, 0, 0.9]], [[1.0, 0, 0], [1, 0, 0], [1, 0, 0]]])
EARNED = np.array([[0.0, 0], [0, 1], [4, 2]])


def every_form() -> list[tuple[Any, Any]]:
    """Return the forest of pymdptoolbox in every form that it takes."""
    spread = np.broadcast_to(EARNED.T[:, :, None], (2, 3, 3))
    objects = np.empty(2, object)
    objects[:] = [sp.csr_matrix(P) for P in FOREST]
    return [
        (FOREST, EARNED),
        (list(FOREST), EARNED),
        (FOREST, spread),
        (FOREST, list(spread)),
        (FOREST, [sp.csr_matrix(r) for r in spread]),
        (tuple(map(sp.csr_matrix, FOREST)), EARNED),
        ([sp.csc_array(P) for P in FOREST], spread),
        (objects, tuple(sp.coo_matrix(r) for r in spread)),
    ]


def test_every_form_of_pymdptoolbox_is_the_same_model():
    tables = [tabulate(formats.from_mdptoolbox(P, R, 0.9)) for P, R in every_form()]
    for table in tables:
        for x, y in zip(tables[0], table, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-15)
    np.testing.assert_array_equal(tables[0].rewards, EARNED.ravel())


def test_rewards_of_states_are_for_all_actions():
    for r in (np.arange(3.0), [0, 1, 2]):
        mdp = formats.from_mdptoolbox(FOREST, r, 0.9)
        np.testing.assert_array_equal(mdp.R, [[0, 0], [1, 1], [2, 2]])


@pytest.mark.parametrize(
    ("P", "R", "reason"),
    [
        ([], EARNED, "P must hold a matrix for every action"),
        (FOREST[:, :2], EARNED, r"P\[0\] must have shape \[2, 2\], got \[2, 3\]"),
        (np.float64(1), EARNED, r"P\[0\] must have shape"),
        (FOREST, EARNED.T, "R must be an array"),
        (FOREST, [EARNED, EARNED], "R must be an array"),
        (FOREST, [np.zeros((3, 3))], "R must be an array"),
        (FOREST, np.float64(3), "R must be an array"),
        (FOREST, np.full((2, 3, 3), np.inf), r"R\[0\] has a number that is not finite"),
        (2 * FOREST, EARNED, "sums to 2, not to 1"),
        ([sp.csr_array(P) for P in FOREST * 2], EARNED, "sums to 2, not to 1"),
    ],
)
def test_arguments_of_pymdptoolbox_that_do_not_fit_are_refused(P: Any, R: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        formats.from_mdptoolbox(P, R, 0.9)


def test_what_pymdptoolbox_cannot_say_is_not_written():
    mdp = formats.from_mdptoolbox(FOREST, EARNED, 0.9)
    with pytest.raises(ValueError, match="state 1 has 1 of 2"):
        formats.to_mdptoolbox(mdp._replace(mask=np.array([[True, True], [True, False], [True, True]])))
    with pytest.raises(ValueError, match=r"P\[0, 0\] sums to 0.5"):
        formats.to_mdptoolbox(jax.tree.map(lambda x: x / 2, mdp))


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("case", range(8))
def test_pymdptoolbox_itself_takes_what_is_written(case: int):
    toolbox = pytest.importorskip("mdptoolbox.mdp")
    P, R = every_form()[case]
    mdp = formats.from_mdptoolbox(P, R, 0.9)
    solved = toolbox.PolicyIteration(*formats.to_mdptoolbox(mdp), 0.9)
    solved.run()
    np.testing.assert_allclose(solved.V, values(mdp), rtol=1e-10)


def test_quantecon_itself_takes_what_is_written():
    quantecon = pytest.importorskip("quantecon")
    for mdp in formats.from_mdptoolbox(FOREST, EARNED, 0.9), formats.from_quantecon(R, Q, BETA, *PAIRS):
        found = quantecon.markov.DiscreteDP(*formats.to_quantecon(mdp)).solve(method="policy_iteration")
        np.testing.assert_allclose(found.v, values(mdp), rtol=1e-10)

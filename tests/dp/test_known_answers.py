"""Problems of the literature: the numbers that their books print, and closed forms."""

import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.horizon import evaluate_horizon, finite_horizon
from dp.problems import forest, gridworld, gridworld_3_5, gridworld_4_1

SOLVERS = {"value iteration": dp.value_iteration, "policy iteration": dp.policy_iteration}

WAIT, CUT = 0, 1
UP, DOWN, LEFT, RIGHT = range(4)


def equiprobable(mdp: dp.MDP) -> jax.Array:
    return jnp.full_like(mdp.R, 1 / mdp.R.shape[1])


def assert_prints_as(v: jax.Array, printed: list) -> None:
    """To the one decimal that the book prints, a half being rounded either way."""
    assert np.abs(np.asarray(v) - np.ravel(printed)).max() <= 0.05 + 1e-12


# Forest management


def test_the_forest_by_hand():
    mdp = forest()
    assert_allclose(mdp.P[:, WAIT], [[0.1, 0.9, 0], [0.1, 0, 0.9], [0.1, 0, 0.9]], rtol=1e-15)
    assert_array_equal(mdp.P[:, CUT], [[1, 0, 0]] * 3)
    assert_array_equal(mdp.R, [[0, 0], [0, 1], [4, 2]])
    assert mdp.gamma == 0.9
    assert_array_equal(forest(4, wait_reward=7.0, cut_reward=3.0).R, [[0, 0], [0, 1], [0, 1], [7, 3]])


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_forest_is_left_to_grow(solver):
    solution = SOLVERS[solver](forest())
    assert solution.converged
    assert_array_equal(solution.policy, [WAIT] * 3)
    v = [26.244, 29.484, 33.484]
    assert_allclose(solution.v, v, atol=0.5e-6)
    assert (solution.lower <= np.array(v) + 1e-13).all() and (solution.upper >= np.array(v) - 1e-13).all()


def test_a_forest_that_always_burns_is_cut_before_it_is_old():
    solution = dp.policy_iteration(forest(fire=1.0))
    assert_allclose(solution.v, [0, 1, 4], atol=1e-12)
    assert_array_equal(solution.policy[1:], [CUT, WAIT])


@pytest.mark.parametrize(("p", "gamma", "w"), [(0.1, 0.9, 4.0), (0.3, 0.5, 10.0), (0.0, 0.9, 1.0), (1.0, 0.9, 1.0)])
def test_the_worth_of_waiting_in_closed_form(p, gamma, w):
    S, c = 5, gamma * (1 - p)
    v0 = w * c ** (S - 1) / (1 - gamma)
    v = [(w * c ** (S - 1 - s) + gamma * p * v0) / (1 - c) for s in range(S)]
    assert_allclose(dp.evaluate(forest(S, gamma=gamma, wait_reward=w, fire=p), np.zeros(S, int)).v, v, atol=1e-12)


@pytest.mark.parametrize(("states", "fire"), [(1, 0.1), (0, 0.1), (3, -0.1), (3, 1.5), (3, float("nan"))])
def test_forests_that_are_none(states, fire):
    with pytest.raises(ValueError, match=re.escape(f"need states >= 2 and 0 <= fire <= 1, got {states} and {fire}")):
        forest(states, fire=fire)


# Gridworlds: Sutton and Barto (2018)


def test_example_3_5_the_equiprobable_policy():
    mdp = gridworld_3_5()
    printed = [
        [3.3, 8.8, 4.4, 5.3, 1.5],
        [1.5, 3.0, 2.3, 1.9, 0.5],
        [0.1, 0.7, 0.7, 0.4, -0.4],
        [-1.0, -0.4, -0.4, -0.6, -1.2],
        [-1.9, -1.3, -1.2, -1.4, -2.0],
    ]
    assert_prints_as(dp.evaluate(mdp, equiprobable(mdp)).v, printed)


@pytest.mark.parametrize("solver", SOLVERS)
def test_example_3_8_the_best_policies(solver):
    solution = SOLVERS[solver](gridworld_3_5())
    printed = [
        [22.0, 24.4, 22.0, 19.4, 17.5],
        [19.8, 22.0, 19.8, 17.8, 16.0],
        [17.8, 19.8, 17.8, 16.0, 14.4],
        [16.0, 17.8, 16.0, 14.4, 13.0],
        [14.4, 16.0, 14.4, 13.0, 11.7],
    ]
    assert_prints_as(solution.v, printed)
    v = np.asarray(solution.v).reshape(5, 5)
    A, B = 10 / (1 - 0.9**5), 5 + 0.9 * 0.9**4 * 10 / (1 - 0.9**5)  # from B' it is four steps to A
    assert_allclose([v[0, 1], v[4, 1], v[0, 3], v[0, 4]], [A, 0.9**4 * A, B, 0.9 * B], atol=1e-6)
    # All the arrows of Figure 3.5; from A and B every action is one of the best.
    best = np.isclose(solution.q, solution.v[:, None], atol=1e-5).reshape(5, 5, 4)
    all_four, up, left = {UP, DOWN, LEFT, RIGHT}, {UP}, {LEFT}
    arrows = [
        [{RIGHT}, all_four, left, all_four, left],
        [{UP, RIGHT}, up, {UP, LEFT}, left, left],
        *[[{UP, RIGHT}, up, {UP, LEFT}, {UP, LEFT}, {UP, LEFT}]] * 3,
    ]
    assert [[set(np.flatnonzero(cell)) for cell in row] for row in best] == arrows


def test_example_4_1_sweep_by_sweep():
    mdp = gridworld_4_1()
    assert mdp.gamma == 1
    v = evaluate_horizon(mdp, equiprobable(mdp), 10).v[::-1]
    figure_4_1 = {
        0: np.zeros((4, 4)),
        1: [[0, -1, -1, -1], [-1, -1, -1, -1], [-1, -1, -1, -1], [-1, -1, -1, 0]],
        2: [[0, -1.7, -2, -2], [-1.7, -2, -2, -2], [-2, -2, -2, -1.7], [-2, -2, -1.7, 0]],
        3: [[0, -2.4, -2.9, -3], [-2.4, -2.9, -3, -2.9], [-2.9, -3, -2.9, -2.4], [-3, -2.9, -2.4, 0]],
        10: [[0, -6.1, -8.4, -9], [-6.1, -7.7, -8.4, -8.4], [-8.4, -8.4, -7.7, -6.1], [-9, -8.4, -6.1, 0]],
    }
    for k, printed in figure_4_1.items():
        assert_prints_as(v[k], printed)


@pytest.mark.parametrize("method", ["direct", "sweeps"])
def test_example_4_1_in_the_limit(method):
    # No discount, but the walk ends: v_π is certified through the expected number of steps, which here is -v_π.
    mdp = gridworld_4_1()
    solution = dp.evaluate(mdp, equiprobable(mdp), method=method)
    v = [0, -14, -20, -22, -14, -18, -20, -20, -20, -20, -18, -14, -22, -20, -14, 0]
    assert solution.converged
    assert (np.asarray(solution.lower) <= v).all() and (v <= np.asarray(solution.upper)).all()
    assert_allclose(solution.v, v, atol=1e-6)


def test_example_4_1_the_shortest_way_out():
    row, column = np.divmod(np.arange(16), 4)
    steps = np.minimum(row + column, 6 - row - column)
    # Within H steps, nothing is worse than -H.
    for horizon in (2, 3, 9):
        assert_array_equal(finite_horizon(gridworld_4_1(), horizon).v[0], -np.minimum(steps, horizon))


def test_a_small_gridworld_by_hand():
    mdp = gridworld(2, 2, gamma=0.5, step_reward=-0.5, wall_reward=-2.0, slip=0.2, terminals=[(1, 1)])
    # Upwards from the upper left: against the wall with 0.8, and slipping to the left with 0.1; else to the right.
    assert_allclose(mdp.P[0], [[0.9, 0.1, 0, 0], [0.1, 0.1, 0.8, 0], [0.9, 0, 0.1, 0], [0.1, 0.8, 0.1, 0]], rtol=1e-15)
    assert_allclose(mdp.R[0], [-2.3, -0.7, -2.3, -0.7], rtol=1e-15)
    assert_allclose(mdp.P[1, DOWN], [0.1, 0.1, 0, 0.8], rtol=1e-15)
    assert_array_equal(mdp.P[3], np.zeros((4, 4)))
    assert_array_equal(mdp.R[3], np.zeros(4))


def test_a_grid_without_slipping_is_deterministic():
    mdp = gridworld(2, 3, gamma=1, jumps={(0, 2): ((1, 0), 0.25)})
    successor = np.asarray(mdp.P).argmax(-1)
    assert_array_equal(successor[[0, 1, 2, 4]], [[0, 3, 0, 1], [1, 4, 0, 2], [3, 3, 3, 3], [1, 4, 3, 5]])
    assert_array_equal(mdp.P.max(-1), np.ones((6, 4)))
    assert_array_equal(mdp.R, np.where(np.arange(6)[:, None] == 2, 0.25, np.zeros((6, 4))))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("cell (4, 0) is not on the grid of 4 x 5", {"terminals": [(4, 0)]}),
        ("cell (0, -1) is not on the grid of 4 x 5", {"jumps": {(0, -1): ((0, 0), 1.0)}}),
        ("cell (0, 5) is not on the grid of 4 x 5", {"jumps": {(0, 0): ((0, 5), 1.0)}}),
        ("0 <= slip <= 1, got 4, 5 and 1.5", {"slip": 1.5}),
        ("need height, width >= 1 and 0 <= slip <= 1, got 0, 5 and 0.0", {"height": 0}),
    ],
)
def test_grids_that_are_none(message, arguments):
    with pytest.raises(ValueError, match=re.escape(message)):
        gridworld(**{"height": 4, "width": 5, "gamma": 0.9} | arguments)


# The secretary problem: one problem that changes from stage to stage


def secretaries(N: int) -> dp.MDP:
    """Stage t shows candidate t + 1, who is the best so far (state 1) or not (0); actions: go on (0), choose (1).

    The best so far of k is the best of all N with probability k / N, and the next one will be the best so far with
    probability 1 / (k + 1). Choosing ends the episode.
    """
    k = np.arange(1, N + 1)
    P, R = np.zeros((N, 2, 2, 2)), np.zeros((N, 2, 2))
    P[:, :, 0, 1] = (1 / (k + 1))[:, None]
    P[:, :, 0, 0] = (k / (k + 1))[:, None]
    R[:, 1, 1] = k / N
    return dp.MDP(jnp.asarray(P), jnp.asarray(R), jnp.asarray(1.0))


def test_the_secretary_problem():
    N = 100
    solution = finite_horizon(secretaries(N), N)
    # Let r - 1 candidates pass, and choose the first who is better than all before; r = 38 is best.
    success = {r: Fraction(r - 1, N) * sum(Fraction(1, k - 1) for k in range(r, N + 1)) for r in range(2, N + 1)}
    best = max(success, key=success.__getitem__)
    assert best == 38
    assert_allclose(solution.v[0, 1], float(success[best]), rtol=1e-14)
    assert_array_equal(solution.policy[:, 1], np.arange(1, N + 1) >= best)
    assert solution.converged

"""Problems of Sutton and Barto (2018): the answers that they print, closed forms, and enumerations by hand."""

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.problems import cliff, gambler, gridworld, jacks_car_rental, recycling_robot, windy_gridworld
from dp.problems.cliff import GOAL, START
from dp.reachability import reachability
from dp.table import tabulate
from dp.total_reward import total_reward

UP, DOWN, LEFT, RIGHT = range(4)


# Example 3.3: the recycling robot


def by_enumeration(gamma, alpha, beta, r_search, r_wait, rescue) -> tuple[Fraction, Fraction]:
    """The best of the six policies, each solved by Cramer's rule in rational numbers."""
    high = {"search": (alpha, 1 - alpha, r_search), "wait": (1, 0, r_wait)}
    low = {
        "search": (1 - beta, beta, beta * r_search + (1 - beta) * rescue),
        "wait": (0, 1, r_wait),
        "recharge": (1, 0, Fraction(0)),
    }
    values = []
    for (hh, hl, r), (lh, ll, q) in itertools.product(high.values(), low.values()):
        a, b, c, d = 1 - gamma * hh, -gamma * hl, -gamma * lh, 1 - gamma * ll
        values.append(((r * d - b * q) / (a * d - b * c), (a * q - c * r) / (a * d - b * c)))
    return max(v for v, _ in values), max(v for _, v in values)


@pytest.mark.parametrize(
    ("numbers", "best"),
    [
        ((9, 8, 6, 20, 10, -30), [0, 2]),
        ((5, 9, 9, 20, 1, -1), [0, 0]),
        ((9, 1, 0, 11, 10, -30), [0, 1]),
        ((9, 10, 0, 12, 10, -10), [0, 2]),
    ],
)
def test_the_robot_does_the_best_of_its_six_policies(numbers, best):
    tenths = [Fraction(x, 10) for x in numbers]
    gamma, alpha, beta, r_search, r_wait, rescue = map(float, tenths)
    mdp = recycling_robot(gamma, alpha=alpha, beta=beta, r_search=r_search, r_wait=r_wait, rescue=rescue)
    solution = dp.policy_iteration(mdp)
    assert_allclose(solution.v, [float(v) for v in by_enumeration(*tenths)], rtol=1e-13)
    assert_array_equal(solution.policy, best)


def test_the_robot_by_hand():
    mdp = recycling_robot()
    assert_array_equal(mdp.mask, [[True, True, False], [True, True, True]])
    assert_allclose(mdp.P, [[[0.8, 0.2], [1, 0], [0, 0]], [[0.4, 0.6], [0, 1], [1, 0]]], rtol=1e-15)
    assert_allclose(mdp.R, [[2, 1, 0], [0, 1, 0]], atol=1e-15)
    v = 2 / (1 - 0.9 * (0.8 + 0.9 * 0.2))
    assert_allclose(dp.policy_iteration(mdp).v, [v, 0.9 * v], rtol=1e-14)
    with pytest.raises(ValueError, match=re.escape("need 0 <= alpha, beta <= 1, got 1.2 and 0.6")):
        recycling_robot(alpha=1.2)


# Example 4.2: Jack's car rental


def car_rental_by_hand(gamma: float, *, free: int = 0, parking_cost: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Value iteration; requests and returns are enumerated up to 60, where nothing but rounding is left."""

    def pmf(mean: float) -> np.ndarray:
        return np.array([math.exp(-mean) * mean**k / math.factorial(k) for k in range(60)])

    def lot(requests: float, returns: float) -> tuple[np.ndarray, np.ndarray]:
        P, income = np.zeros((21, 21)), np.zeros(21)
        for n in range(21):
            for x, px in enumerate(pmf(requests)):
                rented = min(n, x)
                income[n] += 10 * rented * px
                for y, py in enumerate(pmf(returns)):
                    P[n, min(n - rented + y, 20)] += px * py
        return P, income

    (P1, income1), (P2, income2) = lot(3, 3), lot(4, 2)
    v, policy = np.zeros((21, 21)), np.zeros((21, 21), int)
    i, j = np.indices((21, 21))
    for _ in range(400):
        morning = income1[:, None] + income2 + gamma * P1 @ v @ P2.T
        q = []
        for a in range(-5, 6):
            m, n = np.clip(i - a, 0, 20), np.clip(j + a, 0, 20)
            paid = max(a - free, 0) if a > 0 else -a
            worth = morning[m, n] - 2 * paid - parking_cost * ((m > 10).astype(int) + (n > 10))
            q.append(np.where((a <= i) & (-a <= j), worth, -np.inf))
        new, policy = np.max(q, axis=0), np.argmax(q, axis=0) - 5
        if np.abs(new - v).max() < 1e-9:
            break
        v = new
    return v, policy


@pytest.mark.parametrize("changes", [pytest.param({}, marks=pytest.mark.slow), {"free_moves": 1, "parking_cost": 4.0}])
def test_jack_moves_his_cars(changes):
    mdp = jacks_car_rental(**changes)
    assert_allclose(mdp.P.sum(-1)[np.asarray(mdp.mask)], 1, atol=1e-14)
    solution = dp.policy_iteration(mdp)
    v, policy = car_rental_by_hand(0.9, free=changes.get("free_moves", 0), parking_cost=changes.get("parking_cost", 0))
    assert_allclose(solution.v.reshape(21, 21), v, atol=1e-6)
    assert_array_equal(np.asarray(solution.policy).reshape(21, 21) - 5, policy)


def test_jack_in_the_figure():
    # Figure 4.2, π_4: up to five cars from a full first lot to an empty second one, four at most the other way.
    policy = np.asarray(dp.policy_iteration(jacks_car_rental()).policy).reshape(21, 21) - 5
    assert (policy[20, 0], policy[0, 20], policy.max(), policy.min()) == (5, -4, 5, -4)
    assert (np.diff(policy, axis=0) >= 0).all() and (np.diff(policy, axis=1) <= 0).all()
    with pytest.raises(ValueError, match="need free_moves >= 0, got -1"):
        jacks_car_rental(free_moves=-1)


# Example 4.3: the gambler


def test_the_gambler_by_hand():
    table = tabulate(gambler(0.25, goal=5))
    assert_array_equal(table.choices, [0, 1, 2, 4, 6, 7, 8])
    assert_array_equal(table.indptr, [0, 0, 2, 4, 6, 8, 10, 12, 12])
    assert_array_equal(table.indices, [0, 2, 1, 3, 0, 4, 2, 4, 1, 5, 3, 5])
    assert_array_equal(table.data, [0.75, 0.25] * 6)
    assert_array_equal(table.rewards, [0, 0, 0, 0, 0, 0.25, 0.25, 0])


def test_the_gambler_is_bold():
    solution = total_reward(gambler(0.4))
    assert solution.converged
    capital = np.array([0, 25, 50, 75, 100])
    assert_allclose(solution.v[capital], [0, 4 / 25, 2 / 5, 16 / 25, 0], atol=1e-9)
    won = reachability(gambler(0.4), np.arange(101) == 100)
    assert_allclose(won.v[capital], [0, 4 / 25, 2 / 5, 16 / 25, 1], atol=1e-9)
    assert_array_equal(np.asarray(solution.policy)[[25, 50, 75]] + 1, [25, 50, 25])


def test_the_gambler_with_good_odds_is_timid():
    x, s = (1 - 0.55) / 0.55, np.arange(100)
    solution = total_reward(gambler(0.55))
    assert_allclose(solution.v[:100], (1 - x**s) / (1 - x**100), atol=1e-6)
    assert_array_equal(solution.policy[1:30], 0)


@pytest.mark.parametrize(("p", "goal"), [(-0.1, 100), (1.5, 100), (0.5, 1), (float("nan"), 100)])
def test_gamblers_that_are_none(p, goal):
    with pytest.raises(ValueError, match=re.escape(f"need 0 <= p <= 1 and goal >= 2, got {p} and {goal}")):
        gambler(p, goal=goal)


# Example 6.5: the windy gridworld


def moved(cell: tuple[int, int], action: int, wind: int) -> tuple[int, int]:
    row, column = cell
    row = min(max(row + (action == DOWN) - (action == UP), 0), 6)
    column = min(max(column + (action == RIGHT) - (action == LEFT), 0), 9)
    return min(max(row - wind, 0), 6), column


def windy_by_hand(gust: float) -> np.ndarray:
    P, wind = np.zeros((70, 4, 70)), (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)
    for row, column, a in itertools.product(range(7), range(10), range(4)):
        if (row, column) != (3, 7):
            outcomes = {0: 1 - 2 * gust, 1: gust, -1: gust} if wind[column] else {0: 1.0}
            for extra, p in outcomes.items():
                to = moved((row, column), a, wind[column] + extra)
                P[10 * row + column, a, 10 * to[0] + to[1]] += p
    return P


@pytest.mark.parametrize("gust", [0.0, 1 / 3])
def test_the_wind_by_hand(gust):
    mdp = windy_gridworld(gust=gust)
    assert_allclose(mdp.P, windy_by_hand(gust), atol=1e-15)
    assert_array_equal(mdp.R, np.where(np.arange(70)[:, None] == 37, 0, np.full((70, 4), -1.0)))


def distances(mdp: dp.MDP) -> np.ndarray:
    """The least number of steps to a terminal state, where there is no chance: Bellman and Ford."""
    P = np.asarray(mdp.P)
    to, over = P.argmax(-1), ~P.any((1, 2))
    steps = np.where(over, 0.0, np.inf)
    for _ in range(len(P)):
        steps = np.where(over, 0.0, 1 + steps[to].min(1))
    return steps


def test_against_the_wind_it_takes_fifteen_steps():
    assert distances(windy_gridworld())[30] == 15


# Example 6.6: the cliff


def test_along_the_cliff_it_takes_thirteen_steps():
    gamma = 0.99
    mdp = cliff(gamma)
    assert_allclose(mdp.P.sum(-1), np.where(np.arange(48)[:, None] > START, 0, np.ones((48, 4))), atol=1e-15)
    assert_allclose(dp.policy_iteration(mdp).v[START], -(1 - gamma**13) / (1 - gamma), rtol=1e-13)
    # A step to the right from the start falls, and begins again.
    assert (mdp.P[START, RIGHT, START], mdp.R[START, RIGHT]) == (1, -100)
    assert GOAL == 47 and not np.asarray(mdp.P)[GOAL].any()


def test_on_ice_it_is_worth_a_detour():
    # One cell above the cliff a step to the right slips into it with probability 0.1.
    mdp = cliff(0.99, slip=0.2)
    assert_allclose(np.asarray(mdp.P)[25, RIGHT, [13, 26, START]], [0.1, 0.8, 0.1], rtol=1e-14)
    assert_allclose(mdp.R[25], [-1, -80.2, -10.9, -10.9], rtol=1e-14)
    assert_array_equal(dp.policy_iteration(mdp).policy[25:35], [UP] * 10)
    with pytest.raises(ValueError, match=re.escape("need 0 <= slip <= 1, got 1.5")):
        cliff(slip=1.5)


# Gridworlds with walls


def test_a_wall_is_an_edge():
    # . # .    From (0, 0) there is no way but down; with slip, half of it stays.
    # . . .
    mdp = gridworld(2, 3, gamma=0.9, walls=[(0, 1)], slip=0.5, wall_reward=-1.0, step_reward=-0.25, terminals=[(0, 2)])
    assert_allclose(mdp.P[0, RIGHT], [0.75, 0, 0, 0.25, 0, 0], rtol=1e-15)
    assert_allclose(mdp.P[4, UP], [0, 0, 0, 0.25, 0.5, 0.25], rtol=1e-15)
    assert_allclose(np.asarray(mdp.R)[[0, 4]], [[-1.25, -0.75, -1.0, -1.0], [-0.75, -0.75, -0.75, -0.75]], rtol=1e-15)
    assert not np.asarray(mdp.P)[[1, 2]].any() and not np.asarray(mdp.R)[[1, 2]].any()
    assert not np.asarray(mdp.P)[:, :, 1].any()


def test_wind_stops_at_a_wall_and_gusts_blow_back():
    # . . .
    # . # .
    # . . .    the wind in the middle column: 2, sometimes 1 or 3
    mdp = gridworld(3, 3, gamma=0.9, walls=[(1, 1)], wind=(0, 2, -1), gust=0.25)
    assert_allclose(mdp.P[7, LEFT], np.eye(9)[[0, 3]].T @ [0.75, 0.25], rtol=1e-15)
    assert_allclose(mdp.P[7, UP], np.eye(9)[7], rtol=1e-15)
    # In the last column it blows downwards by one, sometimes two or none.
    assert_allclose(mdp.P[2, LEFT], np.eye(9)[1], rtol=1e-15)
    assert_allclose(mdp.P[2, RIGHT], np.eye(9)[[2, 5, 8]].T @ [0.25, 0.5, 0.25], rtol=1e-15)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("cell (0, 9) is not on the grid of 4 x 5", {"walls": [(0, 9)]}),
        ("a map of cells must have shape [4, 5], got [5, 4]", {"walls": np.zeros((5, 4), bool)}),
        (
            "the jump from (0, 0) to (1, 1) begins or ends in a wall",
            {"walls": [(1, 1)], "jumps": {(0, 0): ((1, 1), 1.0)}},
        ),
        ("wind must be 5 integers, one a column, got int64 with [4]", {"wind": np.array([1, 2, 3, 4])}),
        ("need 0 <= gust <= 1/2, got 0.6", {"wind": [1] * 5, "gust": 0.6}),
    ],
)
def test_grids_that_are_none(message, arguments):
    with pytest.raises(ValueError, match=re.escape(message)):
        gridworld(**{"height": 4, "width": 5, "gamma": 0.9} | arguments)

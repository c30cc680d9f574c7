import math

import jax.numpy as jnp
import numpy as np
import pytest

import dp
from dp.simulator import from_step
from dp.sparse import from_choices
from dp.total_reward import total_reward


def path(*rows, rewards, choices=None):
    """A ragged model from rows {successor: probability}, by default one choice for every state."""
    return from_choices(
        np.array([p for row in rows for p in row.values()], float),
        np.array([s for row in rows for s in row], int),
        np.append(0, np.cumsum([len(row) for row in rows])),
        np.arange(len(rows) + 1) if choices is None else np.array(choices),
        np.array(rewards, float),
        substochastic=True,
    )


# State 0 may go round for nothing, or to state 1, from which one step that costs 1 leads to the goal, state 2.
tiny = path({0: 1}, {1: 1}, {2: 1}, {2: 1}, rewards=[0, 0, 1, 0], choices=[0, 2, 3, 4])
GOAL = np.array([False, False, True])


def test_a_loop_that_costs_nothing_is_no_way_around_the_cost():
    # Iteration from 0 would stay there: v(0) = min(v(0), v(1)) is 0 for ever.
    solution = total_reward(tiny, GOAL, maximise=False)
    assert solution.converged
    np.testing.assert_allclose(solution.v, [1, 1, 0], rtol=0, atol=1e-14)
    assert int(solution.policy[0]) == 1


def test_who_may_never_reach_the_goal_may_pay_for_ever():
    solution = total_reward(tiny, GOAL)
    np.testing.assert_array_equal(solution.lower, [np.inf, solution.lower[1], 0])
    np.testing.assert_allclose(solution.v[1:], [1, 0], rtol=0, atol=1e-14)
    assert int(solution.policy[0]) == 0 and solution.converged and float(solution.residual) < 1e-14


def test_what_endless_runs_count_is_a_convention():
    def start(endless, maximise):
        solution = total_reward(tiny, GOAL, maximise=maximise, endless=endless)
        assert solution.converged
        return float(solution.v[0])

    assert [start(math.inf, False), start(math.inf, True)] == pytest.approx([1, math.inf], abs=1e-14)
    assert [start(-math.inf, False), start(-math.inf, True)] == pytest.approx([-math.inf, 1], abs=1e-14)
    assert [start("earned", False), start("earned", True)] == pytest.approx([0, 1], abs=1e-14)


def test_without_a_goal_gains_that_never_end_are_infinite():
    # State 0 earns 1 for ever, or leaves; state 1 reaches it with probability 1/2; state 2 cannot.
    model = path({0: 1}, {2: 1}, {0: 0.5, 2: 0.5}, {}, rewards=[1, 0, 0, 3], choices=[0, 2, 3, 4])
    solution = total_reward(model)
    np.testing.assert_array_equal(solution.lower[:2], np.inf)
    np.testing.assert_allclose(solution.v[2], 3, rtol=0, atol=1e-14)
    assert int(solution.policy[0]) == 0 and solution.converged
    smallest = total_reward(model, maximise=False)
    np.testing.assert_allclose(smallest.v, [3, 3, 3], rtol=0, atol=1e-13)


def test_losses_that_nothing_can_end_are_infinite():
    model = path({0: 1}, {0: 0.5}, {}, rewards=[-1, 0, -2])
    solution = total_reward(model)
    np.testing.assert_array_equal(solution.upper[:2], -np.inf)
    np.testing.assert_array_equal(solution.v[:2], -np.inf)
    assert solution.converged


def test_gains_one_may_put_off_the_goal_for():
    # Round and round for 1 each, or to the goal: no policy is best, but every one is beaten.
    model = path({0: 1}, {1: 1}, {}, rewards=[1, 0, 0], choices=[0, 2, 3])
    solution = total_reward(model, np.array([False, True]), endless=-math.inf)
    np.testing.assert_array_equal(solution.v, [np.inf, 0])
    smallest = total_reward(model, np.array([False, True]), maximise=False)
    np.testing.assert_allclose(smallest.v, [0, 0], rtol=0, atol=1e-14)


def test_a_walk_of_a_hundred_thousand_steps():
    # A fair walk on 0, ..., n - 1, held at 0: from s, n(n - 1) - s(s + 1) steps on average until n.
    n = 400
    rows = [{max(s - 1, 0): 0.5, s + 1: 0.5} for s in range(n - 1)] + [{n - 2: 0.5}]
    solution = total_reward(path(*rows, rewards=np.ones(n)), tol=1e-2)
    s = np.arange(n)
    exact = n * (n + 1) - s * (s + 1)
    assert solution.converged
    assert (np.asarray(solution.lower) <= exact).all() and (exact <= np.asarray(solution.upper)).all()
    np.testing.assert_allclose(solution.v, exact, rtol=1e-9)


def test_a_shortest_path_with_slips_and_costs():
    # Every step costs 1, and slips back to the start with probability 1 - p: (1/p^n - 1) / (1 - p) steps.
    n, p = 10, 0.8
    rows = [{s + 1: p, 0: 1 - p} if s else {1: p, 0: 1 - p} for s in range(n)] + [{}]
    # A second choice everywhere waits, at the same cost: a policy may never arrive.
    model = path(
        *(row for s in range(n + 1) for row in (rows[s], {s: 1})),
        rewards=[-1.0 if s < n else 0.0 for s in range(n + 1) for _ in range(2)],
        choices=2 * np.arange(n + 2),
    )
    solution = total_reward(model, np.arange(n + 1) == n)
    assert solution.converged and (np.asarray(solution.policy)[:n] == 0).all()
    np.testing.assert_allclose(solution.v[0], -(p**-n - 1) / (1 - p), rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_answer_is_rounded_outwards_to_the_dtype_of_the_model(dtype):
    # One third each: two states, and the end. v = 3/2 for a reward of 1 a step in a chain that leaves at rate 2/3.
    model = dp.make_mdp(np.full((1, 1, 1), 1 / 3, dtype), np.ones((1, 1), dtype), 1.0, substochastic=True)
    solution = total_reward(model)
    assert solution.v.dtype == dtype and solution.converged
    stored = 1 / (1 - float(dtype(1 / 3)))
    assert float(solution.lower[0]) <= stored <= float(solution.upper[0])
    assert float(solution.upper[0] - solution.lower[0]) < 1e-13 or dtype == np.float32


def test_components_that_cost_nothing_are_left_by_their_best_exit():
    # 0 and 1 lead to each other for nothing. From 0 the exit costs 3, from 1 it costs 2: 0 goes by 1.
    model = path({1: 1}, {2: 1}, {0: 1}, {2: 1}, {}, rewards=[0, -3, 0, -2, 0], choices=[0, 2, 4, 5])
    solution = total_reward(model, np.array([False, False, True]))
    np.testing.assert_allclose(solution.v, [-2, -2, 0], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(solution.policy[:2], [0, 1])
    # Without a goal nothing has to be left.
    stays = total_reward(model)
    np.testing.assert_allclose(stays.v, [0, 0, 0], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(stays.policy[:2], [0, 0])


def test_gains_and_losses_that_cancel_for_ever_prove_nothing():
    model = path({1: 1}, {0: 1}, rewards=[1, -1])
    solution = total_reward(model)
    assert not solution.converged
    np.testing.assert_array_equal(solution.upper, np.inf)


def test_within_a_horizon_nothing_is_infinite():
    most = total_reward(tiny, GOAL, horizon=3)
    np.testing.assert_array_equal(most.v, np.array([[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]]))
    least = total_reward(tiny, GOAL, maximise=False, horizon=3)
    np.testing.assert_array_equal(least.v[0], [0, 1, 0])
    assert (np.asarray(least.lower) <= np.asarray(least.v)).all()


def test_q_is_one_backup_of_v_and_ends_at_the_goal():
    solution = total_reward(tiny, GOAL, maximise=False)
    np.testing.assert_allclose(solution.q, [1, 1, 1, 0], rtol=0, atol=1e-14)
    # What is earned in the goal is not read.
    loud = tiny._replace(R=tiny.R.at[3].set(100.0))
    np.testing.assert_array_equal(total_reward(loud, GOAL, maximise=False).v, solution.v)


def test_the_door_names_what_is_wrong(unchecked):
    with pytest.raises(ValueError, match=r'endless must be math.inf, -math.inf, "earned" or None, got 0'):
        total_reward(tiny, GOAL, endless=0)
    with pytest.raises(ValueError, match=r"total_reward has no discount, got gamma = 0.5"):
        total_reward(tiny._replace(gamma=np.float64(0.5)), GOAL)
    with pytest.raises(ValueError, match="max_iters must be at least 1"):
        total_reward(tiny, GOAL, max_iters=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("FrozenLake-v1", 14 / 17), ("FrozenLake8x8-v1", 1), ("CliffWalking-v1", -13), ("Taxi-v4", 7.93)],
)
def test_gymnasium_without_a_discount(name, value):
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make(name).unwrapped
    S, A = env.observation_space.n, env.action_space.n
    P, R = np.zeros((S, A, S)), np.zeros((S, A))
    for s, a in np.ndindex(S, A):
        for p, successor, reward, ends in env.P[s][a]:
            R[s, a] += p * reward
            P[s, a, successor] += 0 if ends else p
    solution = total_reward(dp.make_mdp(P, R, 1.0, substochastic=True))
    assert solution.converged
    np.testing.assert_allclose(np.dot(env.initial_state_distrib, solution.v), value, rtol=0, atol=1e-11)


def test_a_model_that_is_only_a_function():
    def step(state, action, event):
        # Forward by the event, or wait; 4 is the last state but one before the end.
        after = jnp.where(action == 0, state + event, state)
        return jnp.where(after > 4, -1, after), 1.0

    mdp = from_step(step, np.array([0.5, 0.5]), 5, 2, 1.0)
    solution = total_reward(mdp, maximise=False, endless=math.inf)
    assert solution.converged
    np.testing.assert_allclose(solution.v, 2 * np.arange(5, 0, -1), rtol=1e-13)
    np.testing.assert_array_equal(solution.policy, 0)


def test_a_relative_tolerance_is_a_fraction_of_each_value():
    model = path({0: 1 - 1e-6}, {}, rewards=[1, 1e-3])
    assert not total_reward(model, tol=1e-9).converged
    solution = total_reward(model, tol=1e-8, relative=True)
    assert solution.converged
    np.testing.assert_allclose(solution.v, [1e6, 1e-3], rtol=1e-8)
    assert not total_reward(model, tol=1e-16, relative=True).converged

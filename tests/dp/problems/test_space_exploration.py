"""Section 3 of the exercise, number for number, in both dtypes: all of it is exact in binary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import dp
from dp.problems.space_exploration import ACTIONS, REWARDS, STATES, dynamics

C, E = 0, 1
ALWAYS_CONSERVE = jnp.array([C, C, C])


@pytest.fixture(params=[np.float32, np.float64])
def mdp(request) -> dp.MDP:
    p = dynamics().astype(request.param)
    return dp.from_dynamics(p, REWARDS.astype(request.param), 0.5, terminal=np.array([False, False, True]))


def test_model_is_the_hand_written_one(mdp):
    P = np.zeros((3, 2, 3))
    P[0, C] = 1, 0, 0
    P[0, E] = 0.5, 0.5, 0
    P[1, C] = 0.5, 0.5, 0
    # L, E leads to D, and D leads nowhere.
    P[1, E] = 0, 0, 1
    assert_array_equal(mdp.P, P)
    assert_array_equal(mdp.R, [[1, 2], [1, -10], [0, 0]])
    assert mdp.gamma == 0.5
    assert mdp.mask is None
    assert mdp.P.dtype == mdp.R.dtype == mdp.gamma.dtype


def test_default_model():
    mdp = dp.problems.space_exploration()
    assert_array_equal(mdp.P, dp.problems.space_exploration(0.9).P)
    assert (mdp.gamma, dp.problems.space_exploration(0.9).gamma) == (0.5, 0.9)
    assert (STATES, ACTIONS) == (("F", "L", "D"), ("C", "E"))


def test_dynamics_are_a_distribution():
    p = dynamics()
    assert_array_equal(p.sum((2, 3)), [[1, 1], [1, 1], [0, 0]])
    assert p.min() == 0


def test_expected_reward_by_hand(mdp):
    half = jnp.full((3, 2), 0.5, mdp.R.dtype)
    assert_array_equal(dp.expected_reward(mdp, ALWAYS_CONSERVE), [1, 1, 0])
    assert_array_equal(dp.expected_reward(mdp, jnp.array([E, E, E])), [2, -10, 0])
    assert_array_equal(dp.expected_reward(mdp, half), [1.5, -4.5, 0])


def test_policy_iteration_of_section_3a(mdp):
    v, q, policy = dp.policy_iteration_history(mdp, ALWAYS_CONSERVE, None, 2, sweeps=1)
    assert_array_equal(v, [[0, 0, 0], [1, 1, 0], [2.5, 1.5, 0]])
    assert_array_equal(q[1, :2], [[1.5, 2.5], [1.5, -10]])
    assert_array_equal(q[2, :2], [[2.25, 3], [2, -10]])
    assert_array_equal(policy[:, :2], [[C, C], [E, C], [E, C]])
    assert v.dtype == q.dtype == mdp.R.dtype


def test_value_iteration_of_section_3b(mdp):
    v, q, policy = dp.value_iteration_history(mdp, None, 2)
    assert_array_equal(v, [[0, 0, 0], [2, 1, 0], [2.75, 1.75, 0]])
    assert_array_equal(q[0, :2], [[1, 2], [1, -10]])
    assert_array_equal(q[1, :2], [[2, 2.75], [1.75, -10]])
    assert_array_equal(policy[:, :2], [[E, C]] * 3)
    assert v.dtype == q.dtype == mdp.R.dtype


def test_two_iterations_are_not_convergence(mdp):
    two = dp.value_iteration(mdp, max_iters=2)
    assert not two.converged
    for v in dp.value_iteration_history(mdp, None, 2).v:
        bounds = jax.jit(dp.bounds)(mdp, v)
        assert bounds.gap >= 0.375
        assert (np.asarray(bounds.lower) <= [3.5, 2.5, 0]).all()
        assert (np.asarray(bounds.upper) >= [3.5, 2.5, 0]).all()


@pytest.mark.parametrize("policy0", [[C, C, C], [E, E, E], [C, E, C]])
def test_exact_policy_iteration_is_exact(mdp, policy0):
    solution = dp.policy_iteration(mdp, jnp.array(policy0))
    assert_array_equal(solution.v, [3.5, 2.5, 0])
    assert_array_equal(solution.q, [[2.75, 3.5], [2.5, -10], [0, 0]])
    assert_array_equal(solution.policy[:2], [E, C])
    assert solution.converged
    assert solution.residual == 0
    assert solution.iterations <= 3


def test_value_of_always_conserving(mdp):
    # v(F) = 1 + v(F)/2 and v(L) = 1 + (v(F) + v(L))/4.
    assert_array_equal(dp.evaluate(mdp, ALWAYS_CONSERVE).v, [2, 2, 0])

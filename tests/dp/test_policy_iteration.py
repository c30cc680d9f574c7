"""Policy iteration: the trap of the exercise's stopping rule, histories, and what it refuses."""

import functools
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp

STAY, GO = 0, 1


def corridor(dtype: type = np.float64) -> dp.MDP:
    """Stay in state 0 for a reward of 1 a step, or walk through 1 and 2 to state 3, where every step brings 8.

    γ = 7/8 and v_*(3) = 64, so that the walk is worth (7/8)^3 64 = 42.875, and staying 8.
    """
    P, R = np.zeros((4, 2, 4), dtype), np.zeros((4, 2), dtype)
    P[0, STAY, 0] = P[0, GO, 1] = P[1, :, 2] = P[2, :, 3] = P[3, :, 3] = 1
    R[0, STAY], R[3] = 1, 8
    return dp.make_mdp(P, R, 7 / 8)


SOLVERS = {
    "exact": dp.policy_iteration,
    "one sweep": functools.partial(dp.modified_policy_iteration, sweeps=1),
    "five sweeps": functools.partial(dp.modified_policy_iteration, sweeps=5),
    "adaptive": dp.modified_policy_iteration,
    "gmres": dp.inexact_policy_iteration,
    "bicgstab": functools.partial(dp.inexact_policy_iteration, method="bicgstab"),
}
V_STAR = [Fraction(7, 8) ** n * 64 for n in (3, 2, 1, 0)]


def test_the_policy_that_repeats_after_one_sweep_is_wrong():
    history = dp.policy_iteration_history(corridor(), jnp.array([STAY, GO, GO, GO]), None, 4)
    # The rule of section 3(a) stops at k = 1: the improved policy is the one that was evaluated.
    assert_array_equal(history.policy[1], history.policy[0])
    assert history.policy[1, 0] == STAY
    # Two more sweeps, and the reward at the end has travelled to where the choice is made.
    assert_array_equal(history.policy[:, 0], [STAY, STAY, STAY, GO, GO])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_certificate_is_not_taken_in(solver, dtype):
    solution = SOLVERS[solver](corridor(dtype), jnp.array([STAY, GO, GO, GO]))
    assert solution.converged
    assert solution.policy[0] == GO
    for s in range(4):
        assert Fraction(float(solution.lower[s])) <= V_STAR[s] <= Fraction(float(solution.upper[s]))
    assert (solution.upper - solution.lower).max() <= (1e-6 if dtype == np.float64 else 1e-3)


@pytest.mark.parametrize("sweeps", [1, 3])
def test_history_is_evaluation_then_improvement(random_mdp, sweeps):
    mdp, policy0, v0 = random_mdp(0), jnp.array([2, 0, 1, 1]), jnp.array([3.0, -1.0, 0.0, 2.0])
    history = dp.policy_iteration_history(mdp, policy0, v0, 4, sweeps=sweeps)
    assert history.v.shape == history.policy.shape == (5, 4)
    assert history.q.shape == (5, 4, 3)
    assert_array_equal(history.v[0], v0)
    assert_array_equal(history.policy[0], policy0)
    assert_allclose(history.q[0], dp.action_values(mdp, v0), rtol=1e-14)
    for k in range(4):
        v = history.v[k]
        for _ in range(sweeps):
            v = dp.expectation(mdp, history.policy[k], v)
        assert_allclose(history.v[k + 1], v, rtol=1e-13)
        assert_allclose(history.q[k + 1], dp.action_values(mdp, v), rtol=1e-13)
        assert_array_equal(history.policy[k + 1], dp.greedy(mdp, v))


def test_history_of_exact_evaluation_is_howards(random_mdp):
    mdp = random_mdp(1)
    history = dp.policy_iteration_history(mdp, jnp.array([2, 2, 2, 2]), None, 5, sweeps=None)
    for k in range(5):
        P, r = np.asarray(mdp.P)[np.arange(4), history.policy[k]], np.asarray(mdp.R)[np.arange(4), history.policy[k]]
        assert_allclose(history.v[k + 1], np.linalg.solve(np.eye(4) - 0.9 * P, r), rtol=1e-12)
    # v_π rises from one policy to the next, and stays when the policy does.
    assert (np.diff(history.v[1:], axis=0) >= -1e-12).all()
    assert_array_equal(history.policy[-1], history.policy[-2])
    assert_allclose(history.v[-1], dp.policy_iteration(mdp).v, rtol=1e-12)


def test_one_sweep_from_greedy_is_value_iteration(random_mdp):
    mdp, v0 = random_mdp(2), jnp.array([3.0, -1.0, 0.0, 2.0])
    modified = dp.policy_iteration_history(mdp, dp.greedy(mdp, v0), v0, 4, sweeps=1)
    assert_allclose(modified.v, dp.value_iteration_history(mdp, v0, 5).v[:5], rtol=1e-13)


def test_incumbents_stay_among_ties():
    mdp = dp.make_mdp(np.tile(np.eye(4)[:, None], (1, 3, 1)), np.ones(4), 0.5)
    history = dp.policy_iteration_history(mdp, jnp.array([2, 1, 0, 2]), jnp.zeros(4), 4)
    assert_array_equal(history.policy, [[2, 1, 0, 2]] * 5)


def test_exact_evaluation_settles_beneath_the_floor(random_mdp):
    solution = dp.policy_iteration(random_mdp(3, dtype=np.float32), tol=1e-12)
    assert not solution.converged
    assert solution.iterations <= 10
    assert (solution.upper - solution.lower).max() < 1e-3


@pytest.mark.parametrize("sweeps", [1, 4])
def test_sweeps_end_at_the_floor(random_mdp, sweeps):
    mdp = random_mdp(3, gamma=0.95, dtype=np.float32)
    solution = dp.modified_policy_iteration(mdp, sweeps=sweeps, tol=1e-12)
    v = np.asarray(dp.policy_iteration(jax.tree.map(lambda x: x.astype(np.float64), mdp), tol=1e-9).v)
    assert not solution.converged
    assert solution.iterations < 2000
    assert (np.asarray(solution.lower) <= v).all() and (v <= np.asarray(solution.upper)).all()


@pytest.mark.parametrize(
    "solver", [pytest.param(dp.policy_iteration, marks=pytest.mark.slow), dp.modified_policy_iteration]
)
def test_a_tolerance_beyond_the_dtype_proves_nothing_false(random_mdp, solver):
    # The loop does not begin: what is said of the start must hold all the same.
    P, R = np.array([[[0.0], [0.0]]], np.float32), np.array([[1.0, 5.0]], np.float32)
    for mdp in (random_mdp(3, dtype=np.float32), dp.make_mdp(P, R, 0.5, substochastic=True)):
        v, solution = dp.policy_iteration(mdp).v, solver(mdp, jnp.zeros(mdp.size, int), tol=1e39)
        assert not solution.converged
        assert (solution.lower <= v).all() and (v <= solution.upper).all()


def test_max_iters_counts_evaluations(random_mdp):
    solution = dp.modified_policy_iteration(random_mdp(4, gamma=0.99), jnp.array([0, 0, 0, 0]), sweeps=1, max_iters=2)
    assert solution.iterations == 2
    assert not solution.converged


def test_policies_of_any_integer_dtype(random_mdp):
    mdp, v0 = random_mdp(5), jnp.zeros(4)
    narrow, wide = jnp.zeros(4, np.int8), jnp.zeros(4, np.int64)
    assert_array_equal(dp.policy_iteration(mdp, narrow).policy, dp.policy_iteration(mdp).policy)
    one, other = (dp.policy_iteration_history(mdp, policy0, v0, 4) for policy0 in (narrow, wide))
    assert_array_equal(one.policy, other.policy)
    assert_array_equal(one.v, other.v)


@pytest.mark.parametrize(
    ("message", "policy0"),
    [
        ("policy must be deterministic, of shape [4], got [4, 3]", np.full((4, 3), [0.0, 0.5, 0.5])),
        ("policy must have shape [4] or [4, 3], got [3]", np.zeros(3, int)),
        ("policy[1] = 3 is not an action: there are 3", np.array([1, 3, 2, 2])),
        ("policy takes action 0 in state 2, which the mask forbids", np.array([1, 1, 0, 1])),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_policies(random_mdp, message, policy0):
    mask = np.ones((4, 3), bool)
    mask[2, 0] = False
    mdp = random_mdp(0, mask=mask)
    for solve in (dp.policy_iteration, lambda mdp, policy0: dp.policy_iteration_history(mdp, policy0, None, 1)):
        with pytest.raises(ValueError, match=re.escape(message)):
            solve(mdp, jnp.asarray(policy0))


def test_bad_settings(random_mdp):
    mdp = random_mdp(0)
    with pytest.raises(ValueError, match=r"policy_iteration needs gamma < 1, got gamma = 1"):
        dp.policy_iteration(mdp._replace(gamma=jnp.asarray(1.0)))
    with pytest.raises(ValueError, match=r"tol must be positive.*, got -1"):
        dp.policy_iteration(mdp, tol=-1.0)
    for sweeps in (0, -3):
        with pytest.raises(ValueError, match=f"sweeps must be at least 1, got {sweeps}"):
            dp.modified_policy_iteration(mdp, sweeps=sweeps)
        with pytest.raises(ValueError, match=f"sweeps must be at least 1, got {sweeps}"):
            dp.policy_iteration_history(mdp, jnp.zeros(4, int), None, 1, sweeps=sweeps)
    for forcing in (0.0, 1.0, -0.1, 2.0):
        with pytest.raises(ValueError, match=rf"forcing must lie between 0 and 1, got {forcing}"):
            dp.inexact_policy_iteration(mdp, forcing=forcing)


@pytest.mark.usefixtures("unchecked")
def test_unknown_methods(random_mdp):
    with pytest.raises(ValueError, match=r'method must be "gmres" or "bicgstab", got \'cg\''):
        dp.inexact_policy_iteration(random_mdp(0), method="cg")


@pytest.mark.parametrize("solver", ["exact", "adaptive", pytest.param("gmres", marks=pytest.mark.slow)])
def test_every_kind_of_start(random_mdp, solver):
    mdp = random_mdp(6, gamma=0.99)
    cold = SOLVERS[solver](mdp, jnp.zeros(4, int))
    for start in (cold, (cold.policy, cold.v), cold.v, dp.value_iteration(mdp, tol=1e-9)):
        warm = SOLVERS[solver](mdp, start)
        assert warm.converged
        assert warm.iterations <= min(2, cold.iterations)
        assert_allclose(warm.v, cold.v, atol=1e-6)
    assert_allclose(SOLVERS[solver](mdp, cold.policy).v, cold.v, atol=1e-6)

"""Value iteration: its histories against loops, its limits against a closed form, and how it ends when it must."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp import bellman
from experiments.hostile import case

S, A = 4, 3


def backup(mdp: dp.MDP, v: np.ndarray, s: int) -> float:
    """T v(s), with loops."""
    P, R, gamma = np.asarray(mdp.P), np.asarray(mdp.R), float(mdp.gamma)
    return max(R[s, a] + gamma * sum(P[s, a, t] * v[t] for t in range(S)) for a in range(A))


def gauss_seidel(mdp: dp.MDP, v: np.ndarray, sweeps: list) -> list[np.ndarray]:
    """One array, overwritten state by state."""
    v = v.copy()
    states = [v.copy()]
    for sweep in sweeps:
        for s in sweep:
            v[s] = backup(mdp, v, s)
        states.append(v.copy())
    return states


# Histories


def test_history_is_the_operator_repeated(random_mdp):
    mdp, v0 = random_mdp(0), np.array([3.0, -1.0, 0.0, 2.0])
    history = dp.value_iteration_history(mdp, jnp.asarray(v0), 5)
    assert history.v.shape == history.policy.shape == (6, S)
    assert history.q.shape == (6, S, A)
    assert_array_equal(history.v[0], v0)
    for k in range(5):
        assert_allclose(history.v[k + 1], [backup(mdp, np.asarray(history.v[k]), s) for s in range(S)], rtol=1e-14)
        assert_array_equal(history.policy[k], dp.greedy(mdp, history.v[k]))
        assert_allclose(history.q[k], dp.action_values(mdp, history.v[k]), rtol=1e-14)


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [0, 0, 2, 0], [[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 1, 1]]])
def test_history_in_place_is_gauss_seidel(random_mdp, order):
    mdp, v0 = random_mdp(1), np.array([3.0, -1.0, 0.0, 2.0])
    cycle = np.atleast_2d(order).tolist()
    history = dp.value_iteration_history(mdp, jnp.asarray(v0), 7, order=jnp.array(order))
    assert_allclose(history.v, gauss_seidel(mdp, v0, [cycle[k % len(cycle)] for k in range(7)]), rtol=1e-13)


def test_history_starts_from_zero_and_needs_no_discount(random_mdp):
    mdp = random_mdp(2)._replace(gamma=jnp.asarray(1.0))
    history = dp.value_iteration_history(mdp, None, 0)
    assert_array_equal(history.v, np.zeros((1, S)))
    assert_array_equal(history.q[0], mdp.R)


@pytest.mark.parametrize("block", [2, 3, 4, 7])
def test_blocks_are_backed_up_at_once(random_mdp, block):
    # Jacobi inside a block, Gauss-Seidel between blocks; an order that does not divide is no matter.
    mdp, v0, order = random_mdp(1), np.array([3.0, -1.0, 0.0, 2.0]), [2, 0, 3, 1, 2]
    v, expected = v0.copy(), [v0]
    for _ in range(3):
        for first in range(0, len(order), block):
            states = order[first : first + block]
            v[states] = np.asarray(dp.optimality(mdp, jnp.asarray(v)))[states]
        expected.append(v.copy())
    history = dp.value_iteration_history(mdp, jnp.asarray(v0), 3, order=jnp.array(order), block=block)
    assert_allclose(history.v, expected, rtol=1e-13)


def test_a_block_of_all_states_is_a_synchronous_sweep(random_mdp):
    mdp = random_mdp(2)
    blocks = dp.value_iteration_history(mdp, None, 3, order=jnp.arange(S), block=S)
    assert_allclose(blocks.v, dp.value_iteration_history(mdp, None, 3).v, rtol=1e-14)


@pytest.mark.slow
def test_in_place_needs_fewer_sweeps():
    # Along the flow of value a sweep in place does the work of many.
    mdp = dp.problems.corridor(60, gamma=0.95, slip=0.02)
    synchronous = dp.value_iteration(mdp)
    backwards = dp.value_iteration(mdp, order=jnp.arange(60)[::-1])
    assert synchronous.converged and backwards.converged
    assert 2 * backwards.iterations < synchronous.iterations


def test_solver_in_place_follows_the_history(random_mdp):
    # After n iterations the certificate is about sweep n - 1; sweeps 2 and 3 start from the middle of the bounds.
    mdp, order = random_mdp(3), jnp.array([[0, 1, 2, 3], [3, 1, 2, 0]])
    certify, v = jax.jit(dp.bounds), jnp.zeros(S)
    for k in range(3):
        v = jnp.asarray(gauss_seidel(mdp, np.asarray(v), [order[k % 2]])[-1])
        bounds = certify(mdp, v)
        v = bounds.mid
    solution = dp.value_iteration(mdp, order=order, max_iters=4)
    assert solution.iterations == 4
    assert_allclose(solution.lower, bounds.lower, rtol=1e-13)
    assert_allclose(solution.upper, bounds.upper, rtol=1e-13)


# Convergence


@pytest.mark.parametrize(
    "order", [None, [[0, 1, 2, 3]] * 2, [[3, 2, 1, 0], [0, 2, 1, 3]], [[0, 0, 3, 3], [1, 2, 1, 2]]], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_solution_of_a_cycle_in_closed_form(dtype, order):
    # A ring of four with a reward of 1 on leaving state 0, and a worse action: v(s) = γ^(4 - s mod 4) / (1 - γ^4).
    P = np.stack([np.roll(np.eye(S), 1, axis=1), np.eye(S), np.eye(S)], axis=1).astype(dtype)
    R = np.zeros((S, A), dtype)
    R[0, 0] = 1
    solution = dp.value_iteration(dp.make_mdp(P, R, 0.75), order=None if order is None else jnp.array(order))
    v = 0.75 ** np.array([0, 3, 2, 1]) / (1 - 0.75**4)
    assert solution.converged
    assert solution.v.dtype == solution.lower.dtype == solution.q.dtype == solution.residual.dtype == dtype
    tol = 1e-6 if dtype == np.float64 else 1e-3
    assert (solution.upper - solution.lower).max() <= tol
    assert_allclose(solution.v, v, atol=0.51 * tol)
    assert_array_equal(solution.policy, np.zeros(S))


def test_residual_is_that_of_v(random_mdp):
    solution = dp.value_iteration(random_mdp(4), max_iters=5)
    assert_allclose(solution.q, dp.action_values(random_mdp(4), solution.v), rtol=1e-14)
    attained = bellman.state_values(solution.q, solution.policy)
    assert_allclose(solution.residual, jnp.abs(attained - solution.v).max(), rtol=1e-14)


@pytest.mark.parametrize("ends", [False, True])
def test_action_values_and_residual_without_another_pass(ends):
    # So large that q comes from the last backup, shifted; where mass is missing that would be too far off.
    mdp = dp.problems.garnet(600, 6, 5, gamma=0.99, seed=3, dense=False)
    if ends:
        mdp = mdp._replace(P=mdp.P._replace(prob=mdp.P.prob.at[:, 7].set(0)), R=mdp.R.at[7].set(0))
    solution = dp.value_iteration(mdp, tol=1e-4)
    q = dp.action_values(mdp, solution.v)
    assert solution.converged
    assert_allclose(solution.q, q, atol=1.01e-2 * 1e-4)
    residual = np.abs(np.max(q, axis=1) - solution.v).max()
    assert residual <= solution.residual <= residual + 1.01e-2 * 1e-4


def test_a_good_start_saves_the_work(random_mdp):
    mdp = random_mdp(5)
    cold = dp.value_iteration(mdp, jnp.zeros(S))
    assert dp.value_iteration(mdp, cold.v).iterations == 1 < cold.iterations


def test_a_state_that_never_comes_up_is_not_certified(random_mdp):
    mdp = random_mdp(6)
    solution = dp.value_iteration(mdp, order=jnp.array([0, 1, 2, 0]))
    v = dp.policy_iteration(mdp).v
    assert not solution.converged
    assert (solution.lower <= v).all() and (v <= solution.upper).all()


def test_a_state_that_comes_up_rarely_is_waited_for():
    # State 1 comes up once in 1,200 sweeps: until then nothing seems to improve.
    order = np.zeros((1200, 2), int)
    order[-1] = 1
    mdp = dp.make_mdp(np.eye(2)[:, None], np.array([1.0, 3.0]), 0.5)
    solution = dp.value_iteration(mdp, order=jnp.asarray(order), max_iters=100_000)
    assert solution.converged
    assert_allclose(solution.v, [2, 6], atol=1e-6)


def test_recentring_does_not_run_away():
    # From the middle of the bounds values may grow in place, here by a factor of 700 each time.
    mdp = jax.tree.map(jnp.asarray, case(124, "float32").mdp)
    solution = dp.value_iteration(mdp, order=jnp.arange(6)[::-1])
    assert np.isfinite(solution.lower).all() and np.isfinite(solution.upper).all()


def test_tol_beneath_the_floor_ends_soon_and_says_so(random_mdp):
    mdp = random_mdp(7, gamma=0.95, dtype=np.float32)
    solution = dp.value_iteration(mdp, tol=1e-12)
    wide = jax.tree.map(lambda x: x.astype(np.float64), mdp)
    v = np.asarray(dp.policy_iteration(wide, tol=1e-9).v)
    assert not solution.converged
    assert solution.iterations < 2000
    assert (np.asarray(solution.lower) <= v).all() and (v <= np.asarray(solution.upper)).all()
    assert (solution.upper - solution.lower).max() < 1e-2


# Refused


@pytest.mark.parametrize(
    ("message", "order"),
    [
        ("order must name states 0 to 3", [0, 4]),
        ("order must name states 0 to 3", [[0, 1], [-1, 2]]),
        ("order must name states 0 to 3", np.zeros((0,), int)),
        ("order must name states 0 to 3", np.zeros((0, 4), int)),
        ("order must be integers of shape [N] or [M, N], got float64 with [4]", np.arange(4.0)),
        ("order must be integers of shape [N] or [M, N], got bool with [4]", np.ones(4, bool)),
        ("order must be integers of shape [N] or [M, N], got int64 with []", 0),
        ("order must be integers of shape [N] or [M, N], got int64 with [1, 1, 4]", np.zeros((1, 1, 4), int)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_orders(random_mdp, message, order):
    for solve in (dp.value_iteration, lambda mdp, order: dp.value_iteration_history(mdp, None, 1, order=order)):
        with pytest.raises(ValueError, match=re.escape(message)):
            solve(random_mdp(0), order=jnp.asarray(order))


def test_bad_settings(random_mdp):
    mdp = random_mdp(0)
    with pytest.raises(ValueError, match=r"block must be at least 1, got 0"):
        dp.value_iteration(mdp, order=jnp.arange(S), block=0)
    with pytest.raises(ValueError, match=r"max_iters must be at least 1, got 0"):
        dp.value_iteration(mdp, max_iters=0)
    with pytest.raises(ValueError, match=r"value_iteration needs gamma < 1, got gamma = 1"):
        dp.value_iteration(mdp._replace(gamma=jnp.asarray(1.0)))
    for tol in (0.0, -1e-6, float("nan")):
        with pytest.raises(ValueError, match=f"tol must be positive.*, got {tol}"):
            dp.value_iteration(mdp, tol=tol)


@pytest.mark.usefixtures("unchecked")
def test_a_start_of_another_shape_is_refused(random_mdp):
    with pytest.raises(ValueError, match=re.escape("start must have shape [4], got [3]")):
        dp.value_iteration(random_mdp(0), jnp.zeros(3))

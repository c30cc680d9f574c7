"""Policy evaluation against linear algebra in NumPy, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.evaluation import METHODS, partial_evaluation
from dp.linear import direct

S, A = 4, 3
traced = jax.jit(dp.evaluate, static_argnames="method")


def closed_form(mdp: dp.MDP, pi: np.ndarray) -> np.ndarray:
    """`(I - γ P_π)^{-1} r_π` in NumPy."""
    P, R = np.asarray(mdp.P, float), np.asarray(mdp.R, float)
    pi = np.eye(A)[pi] if pi.ndim == 1 else pi
    return np.linalg.solve(np.eye(S) - float(mdp.gamma) * np.einsum("sa,sat->st", pi, P), (pi * R).sum(1))


def policies(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(A, size=S), rng.dirichlet(np.ones(A), size=S)]


@pytest.mark.parametrize("kind", [0, 1], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow if m == "gmres" else ()) for m in METHODS])
def test_value_of_a_policy(random_mdp, method, kind):
    for seed in range(5):
        mdp, pi = random_mdp(seed), policies(seed)[kind]
        solution = dp.evaluate(mdp, jnp.asarray(pi), method=method)
        v = closed_form(mdp, pi)
        assert solution.converged
        assert (solution.upper - solution.lower).max() <= 1e-6
        assert (solution.lower <= v).all() and (v <= solution.upper).all()
        assert_allclose(solution.v, v, atol=5e-7)
        assert_allclose(solution.q, mdp.R + mdp.gamma * np.asarray(mdp.P) @ np.asarray(solution.v), rtol=1e-12)
        assert_array_equal(solution.policy, pi)
        assert (solution.iterations == 1) == (method == "direct")
        assert solution.residual < 1e-6


def test_methods_agree_in_both_dtypes(random_mdp):
    for dtype, tol in [(np.float32, 1e-3), (np.float64, 1e-6)]:
        mdp, pi = random_mdp(7, dtype=dtype), jnp.asarray(policies(7)[1], dtype)
        one, other = (dp.evaluate(mdp, pi, method=method) for method in ("direct", "gmres"))
        assert one.v.dtype == other.v.dtype == one.residual.dtype == dtype
        assert one.converged and other.converged
        assert_allclose(one.v, other.v, atol=tol)


def test_direct_solves_the_linear_system(random_mdp):
    mdp, pi = random_mdp(3), policies(3)[1]
    assert_allclose(direct(dp.induce(mdp, jnp.asarray(pi))), closed_form(mdp, pi), rtol=1e-13)


def test_partial_evaluation_is_that_many_sweeps(random_mdp):
    mdp, pi = random_mdp(4), jnp.asarray(policies(4)[0])
    v0 = jnp.arange(4.0)
    v = v0
    for num in range(4):
        assert_allclose(partial_evaluation(dp.induce(mdp, pi), v0, num), v, rtol=1e-14)
        v = dp.expectation(mdp, pi, v)


def test_sweeps_start_where_they_are_told(random_mdp):
    mdp, pi = random_mdp(5), jnp.asarray(policies(5)[0])
    v = dp.evaluate(mdp, pi, method="direct").v
    assert dp.evaluate(mdp, pi, v, method="sweeps").iterations == 1
    assert dp.evaluate(mdp, pi, jnp.zeros(4), method="sweeps").iterations > 1


def test_max_iters_is_the_number_of_backups(random_mdp):
    mdp, pi = random_mdp(6, gamma=0.99), jnp.asarray(policies(6)[0])
    solution = dp.evaluate(mdp, pi, method="sweeps", max_iters=3)
    assert solution.iterations == 3
    assert not solution.converged
    v = closed_form(mdp, np.asarray(pi))
    assert (solution.lower <= v).all() and (v <= solution.upper).all()


def test_zero_probability_of_a_forbidden_action(random_mdp):
    mask = np.ones((S, A), bool)
    mask[1, 0] = False
    mdp = random_mdp(8, mask=mask)
    pi = policies(8)[1]
    pi[1] = 0, 0.5, 0.5
    solution = dp.evaluate(mdp, jnp.asarray(pi))
    assert solution.converged
    assert_allclose(solution.v, closed_form(mdp, pi), atol=1e-6)
    assert solution.q[1, 0] == -np.inf


@pytest.mark.slow
def test_traced_forbidden_action_does_not_converge(random_mdp):
    mask = np.ones((S, A), bool)
    mask[1, 0] = False
    for method in ("direct", "gmres"):
        solution = traced(random_mdp(8, mask=mask), jnp.zeros(S, int), method=method)
        assert not solution.converged
        assert_array_equal(solution.lower, np.full(S, -np.inf))
        assert_array_equal(solution.upper, np.full(S, np.inf))


@pytest.mark.parametrize("method", ["direct", pytest.param("bicgstab", marks=pytest.mark.slow)])
def test_traced_gamma_of_one_neither_raises_nor_hurts_its_neighbours(random_mdp, method):
    mdp, pi = random_mdp(9), jnp.asarray(policies(9)[1])
    at = jax.jit(jax.vmap(lambda gamma: dp.evaluate(mdp._replace(gamma=gamma), pi, method=method)))
    three = at(jnp.array([0.5, 1.0, 0.9]))
    assert_array_equal(three.converged, [True, False, True])
    assert_array_equal(three.lower[1], np.full(S, -np.inf))
    assert_array_equal(three.upper[1], np.full(S, np.inf))
    for n, gamma in [(0, 0.5), (2, 0.9)]:
        alone = dp.evaluate(mdp._replace(gamma=jnp.asarray(gamma)), pi, method=method)
        assert_allclose(three.v[n], alone.v, rtol=1e-12)
        assert three.iterations[n] == alone.iterations


def changed(pi: np.ndarray, s: int, row: list[float]) -> np.ndarray:
    pi = pi.copy()
    pi[s] = row
    return pi


UNIFORM = np.full((S, A), 1 / A)


@pytest.mark.parametrize(
    ("message", "policy"),
    [
        ("policy must have shape [4] or [4, 3], got [3]", np.zeros(A, int)),
        ("policy must have shape [4] or [4, 3], got [3, 4]", UNIFORM.T),
        ("policy must have shape [4] or [4, 3], got [1, 4, 3]", UNIFORM[None]),
        ("a policy of shape [4] holds actions and must be of integers, got float64", np.zeros(S)),
        ("a policy of shape [4, 3] holds probabilities and must be of floats, got int64", np.eye(S, A, dtype=int)),
        ("policy[2] = 3 is not an action: there are 3", np.array([0, 1, 3, 0])),
        ("policy[0] = -1 is not an action: there are 3", np.array([-1, 1, 2, 0])),
        ("it sums to 0.9", changed(UNIFORM, 1, [0.3, 0.3, 0.3])),
        ("policy[3] = [ 1.5 -0.5  0. ] is not a distribution", changed(UNIFORM, 3, [1.5, -0.5, 0.0])),
        ("policy[0] = [nan  0.  1.] is not a distribution", changed(UNIFORM, 0, [np.nan, 0.0, 1.0])),
        ("policy takes action 0 in state 2, which the mask forbids", np.array([2, 2, 0, 2])),
        ("policy takes action 0 in state 2, which the mask forbids", UNIFORM),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_policies(random_mdp, message, policy):
    mask = np.ones((S, A), bool)
    mask[2, 0] = False
    with pytest.raises(ValueError, match=re.escape(message)):
        dp.evaluate(random_mdp(0, mask=mask), jnp.asarray(policy))


@pytest.mark.usefixtures("unchecked")
def test_bad_settings(random_mdp):
    mdp, policy = random_mdp(0), jnp.zeros(S, int)
    with pytest.raises(ValueError, match=r"evaluate needs gamma <= 1, got gamma = 1.5"):
        dp.evaluate(mdp._replace(gamma=jnp.asarray(1.5)), policy)
    with pytest.raises(ValueError, match=r"tol must be positive.*, got 0"):
        dp.evaluate(mdp, policy, tol=0.0)
    with pytest.raises(ValueError, match=r"method must be one of direct, sweeps, gmres, bicgstab, got 'krylov'"):
        dp.evaluate(mdp, policy, method="krylov")


@pytest.mark.parametrize("S", [5, pytest.param(40, marks=pytest.mark.slow)])  # eliminated here, and by LAPACK
def test_direct_alone_in_batches_and_differentiated(S):
    mdp = dp.problems.garnet(S, 2, 3, gamma=0.9, seed=0)
    chain = dp.induce(mdp, jnp.zeros(S, int))
    gammas = jnp.array([0.0, 0.5, 0.99])

    def first(gamma):
        return dp.linear.direct(chain._replace(gamma=gamma))[0]

    expected = [np.linalg.solve(np.eye(S) - gamma * np.asarray(chain.P), np.asarray(chain.r)) for gamma in gammas]
    found = jax.jit(jax.vmap(lambda gamma: dp.linear.direct(chain._replace(gamma=gamma))))(gammas)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(first(0.5), expected[1][0], rtol=1e-11)
    # d v / d gamma = (I - gamma P)^{-1} P v
    for gamma, v, slope in zip(gammas, expected, jax.jit(jax.vmap(jax.grad(first)))(gammas), strict=True):
        A = np.eye(S) - gamma * np.asarray(chain.P)
        np.testing.assert_allclose(slope, np.linalg.solve(A, np.asarray(chain.P) @ v)[0], rtol=1e-9)


# Undiscounted


def gamblers_ruin(S: int, dtype: type = np.float64) -> dp.MDP:
    """A fair walk on 1 ... S, which ends at 0 and S + 1; state s is place s + 1. A reward of 1 a step."""
    P = np.zeros((S, 1, S), dtype)
    P[np.arange(1, S), 0, np.arange(S - 1)] = P[np.arange(S - 1), 0, np.arange(1, S)] = 0.5
    return dp.make_mdp(P, np.ones(S, dtype), 1, substochastic=True)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("direct", np.float32),
        ("sweeps", np.float64),
        *(pytest.param(m, np.float64, marks=pytest.mark.slow) for m in METHODS if m != "sweeps"),
    ],
    ids=str,
)
def test_undiscounted_episodes_that_end(method, dtype):
    # The expected duration of the fair game is (s + 1) (S - s).
    S = 40
    duration = ((np.arange(S) + 1) * (S - np.arange(S))).astype(dtype)
    solution = dp.evaluate(gamblers_ruin(S, dtype), jnp.zeros(S, int), method=method, tol=0.5)
    assert solution.converged
    assert (solution.lower <= duration).all() and (duration <= solution.upper).all()
    assert (solution.upper - solution.lower).max() <= 0.5
    assert solution.v.dtype == dtype


@pytest.mark.parametrize("method", ["direct", pytest.param("bicgstab", marks=pytest.mark.slow)])
def test_undiscounted_episodes_that_never_end_have_no_value(method):
    mdp = gamblers_ruin(4)
    endless = mdp._replace(P=mdp.P.at[0, 0, 0].set(0.5).at[3, 0, 3].set(0.5))
    solution = dp.evaluate(endless, jnp.zeros(4, int), method=method, max_iters=50)
    assert not solution.converged
    assert_array_equal(solution.upper, np.full(4, np.inf))


def test_undiscounted_where_only_some_states_end():
    # State 0 stays for ever, state 1 ends: the bounds can say nothing, rather than something wrong.
    mdp = dp.make_mdp(np.array([[[1.0, 0.0]], [[0.0, 0.5]]]), np.array([1.0, 1.0]), 1, substochastic=True)
    assert not dp.evaluate(mdp, jnp.zeros(2, int)).converged


def test_undiscounted_rows_that_gain_mass_certify_nothing():
    # Rows of float32 numbers sum to one and a little more: v_π is infinite, and I - P has a solution nevertheless.
    P = np.random.default_rng(1).random((3, 1, 3)).astype(np.float32)
    P /= P.sum(-1, keepdims=True)
    solution = dp.evaluate(dp.make_mdp(P, np.ones((3, 1)), 1.0), jnp.zeros(3, int))
    assert not solution.converged
    assert_array_equal(solution.lower, np.full(3, -np.inf))


@pytest.mark.parametrize("pi", [[0, 3, 0, 0], [0, -1, 0, 0], UNIFORM / 2, np.full((S, A), [2.0, -1.0, 0.0])], ids=str)
def test_traced_policies_that_are_none_are_not_certified(random_mdp, pi):
    # Indices out of range are clamped by JAX, and weights that are no probabilities have a fixed point too.
    solution = traced(random_mdp(0), jnp.asarray(pi), method="direct")
    assert not solution.converged
    assert_array_equal(solution.lower, np.full(S, -np.inf))


def test_the_policy_of_a_solution_can_be_evaluated(random_mdp):
    solved = dp.solve(random_mdp(1))
    assert_allclose(dp.evaluate(random_mdp(1), solved).v, solved.v, atol=1e-6)


@pytest.mark.parametrize("method", [pytest.param("gmres", marks=pytest.mark.slow), "sweeps"])
def test_undiscounted_within_jit_and_grad(method):
    # Where γ cannot be seen both kinds of bounds are made. d v / d γ = (I - P)^{-1} P v.
    mdp = gamblers_ruin(6)
    P = np.asarray(mdp.P)[:, 0]

    def total(gamma):
        solution = dp.evaluate(mdp._replace(gamma=gamma), jnp.zeros(6, int), method=method, tol=1e-9)
        return solution.v.sum(), solution.converged

    (value, converged), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(1.0)
    duration = (np.arange(6) + 1.0) * (6 - np.arange(6))
    assert converged
    assert_allclose(value, duration.sum(), atol=1e-8)
    assert_allclose(slope, np.linalg.solve(np.eye(6) - P, P @ duration).sum(), rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gmres", "bicgstab"])
def test_states_in_a_row_are_no_trap_for_krylov(method):
    # s -> s + 1 -> ... -> end: BiCGStab breaks down on it, and the sweeps that replace it go on.
    mdp = dp.make_mdp(np.eye(100, k=1)[:, None], np.ones(100), 1, substochastic=True)
    solution = dp.evaluate(mdp, jnp.zeros(100, int), method=method)
    assert solution.converged
    assert_allclose(solution.v, 100 - np.arange(100), atol=1e-6)


def test_a_concrete_policy_is_checked_beside_a_traced_mask(random_mdp):
    mdp = random_mdp(0, mask=np.arange(12).reshape(S, A) != 5)
    with pytest.raises(ValueError, match=re.escape("policy[1] = 7 is not an action: there are 3")):
        jax.jit(lambda mdp: dp.evaluate(mdp, np.array([1, 7, 0, 0])))(mdp)


@pytest.mark.usefixtures("unchecked")
def test_policies_of_other_dtypes(random_mdp):
    mdp = random_mdp(0, dtype=np.float32)
    for method in ("direct", "sweeps"):
        found = dp.evaluate(mdp, np.full((S, A), 1 / 3), method=method)
        assert found.converged and found.v.dtype == np.float32
        assert dp.evaluate(mdp, np.zeros(S, np.uint8), method=method).converged

"""Entropy-regularised solvers: closed forms, the variational principle, the limit of no temperature."""

import functools
from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.soft import entropy, soft_state_values

SOLVERS = {"sweeps": dp.soft_value_iteration, "newton": dp.soft_policy_iteration}


def regularised_value(mdp: dp.MDP, pi: np.ndarray, tau: float) -> np.ndarray:
    """`(I - γ P_π)^{-1} (r_π + τ H(π))` in NumPy."""
    pi = np.asarray(pi)
    log = np.log(np.where(pi > 0, pi, 1))
    P, r = np.einsum("sa,sat->st", pi, mdp.P), (pi * (np.asarray(mdp.R) - tau * log)).sum(1)
    return np.linalg.solve(np.eye(len(r)) - float(mdp.gamma) * P, r)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_state_in_closed_form(solver):
    # v = τ log Σ exp((r_a + γ v) / τ) = γ v + τ log Σ exp(r_a / τ).
    r, gamma, tau = np.array([1.0, 2.0, -3.0]), 0.9, 0.7
    mdp = dp.make_mdp(np.ones((1, 3, 1)), r[None], gamma)
    solution = SOLVERS[solver](mdp, temperature=tau)
    assert solution.converged
    assert_allclose(solution.v, tau * np.log(np.exp(r / tau).sum()) / (1 - gamma), rtol=1e-9)
    assert_allclose(solution.policy[0], np.exp(r / tau) / np.exp(r / tau).sum(), rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_value_is_that_of_its_policy_and_no_other_is_better(random_mdp, solver):
    mask = np.ones((4, 3), bool)
    mask[1, 0] = mask[2, 1:] = False
    mdp, rng = random_mdp(1, mask=mask), np.random.default_rng(0)
    solution = SOLVERS[solver](mdp, temperature=0.5, tol=1e-9)
    assert solution.converged
    assert_allclose(regularised_value(mdp, solution.policy, 0.5), solution.v, atol=1e-9)
    assert_array_equal(np.asarray(solution.policy) > 0, mask)
    for _ in range(50):
        pi = rng.dirichlet(np.ones(3), size=4) * mask
        assert (regularised_value(mdp, pi / pi.sum(1, keepdims=True), 0.5) <= np.asarray(solution.upper)).all()


def test_both_agree(random_mdp):
    for seed in range(4):
        mdp = random_mdp(seed, gamma=[0.5, 0.9, 0.95, 0.99][seed])
        sweeps, newton = (solve(mdp, temperature=0.2) for solve in SOLVERS.values())
        assert sweeps.converged and newton.converged
        assert (sweeps.lower <= newton.upper).all() and (newton.lower <= sweeps.upper).all()
        assert newton.iterations < 12


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_bounds_hold_the_exact_value(random_mdp, dtype):
    # In 50 digits: iterate T_τ on the stored floats until nothing moves.
    mdp, tau = random_mdp(5, S=3, A=3, gamma=0.8, dtype=dtype), Decimal("0.25")
    exact = np.vectorize(lambda x: Decimal(float(x)), otypes=[object])
    with localcontext(prec=50):
        P, R, gamma = exact(mdp.P), exact(mdp.R), Decimal(float(mdp.gamma))
        v = exact(np.zeros(3))
        for _ in range(450):
            v = np.array([tau * sum((x / tau).exp() for x in row).ln() for row in R + gamma * (P @ v)])
    for solve in SOLVERS.values():
        for max_iters in (1, 3, 10_000):
            solution = solve(mdp, temperature=float(tau), max_iters=max_iters, tol=1e-30)
            assert (exact(solution.lower) <= v).all() and (v <= exact(solution.upper)).all()
            assert solution.v.dtype == dtype
        assert (solution.upper - solution.lower).max() < (1e-3 if dtype == np.float32 else 1e-12)


def test_without_temperature_it_is_the_hard_maximum(random_mdp):
    mdp = random_mdp(2)
    hard = dp.policy_iteration(mdp)
    for tau in (1.0, 1e-2, 1e-4, 1e-300):
        soft = dp.soft_policy_iteration(mdp, temperature=tau)
        assert soft.converged
        # v_* <= v_τ <= v_* + τ log A / (1 - γ)
        assert (soft.upper >= hard.lower).all()
        assert (soft.lower <= hard.upper + tau * np.log(3) / (1 - 0.9)).all()
    assert_array_equal(jnp.argmax(soft.policy, axis=1), hard.policy)
    assert_allclose(soft.policy.max(axis=1), 1)


def test_operators():
    q = jnp.array([[0.0, 0.0, -jnp.inf], [1000.0, 0.0, 0.0], [-jnp.inf, -jnp.inf, -5.0]])
    assert_allclose(soft_state_values(q, 2.0), [2 * np.log(2), 1000, -5], rtol=1e-15)
    pi = dp.soft_policy(q, 2.0)
    assert_allclose(pi, [[0.5, 0.5, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)
    assert_allclose(entropy(pi), [np.log(2), 0, 0], atol=1e-15)
    mdp = dp.problems.space_exploration()
    v = jnp.array([1.0, 2.0, 0.0])
    # In D the episode has ended: there is nothing to choose.
    expected = soft_state_values(dp.action_values(mdp, v), 0.3).at[2].set(0)
    assert_allclose(dp.soft_optimality(mdp, v, 0.3), expected)


def test_actions_alike_are_taken_alike():
    mdp = dp.make_mdp(np.tile(np.eye(2)[:, None], (1, 4, 1)), np.zeros(2), 0.5)
    solution = dp.soft_policy_iteration(mdp, temperature=1.0)
    assert_allclose(solution.policy, np.full((2, 4), 0.25))
    assert_allclose(solution.v, np.full(2, 2 * np.log(4)), rtol=1e-9)


def test_starts_and_vmaps_over_temperatures(random_mdp):
    mdp = random_mdp(3)
    cold = dp.soft_policy_iteration(mdp, temperature=0.5)
    assert dp.soft_value_iteration(mdp, cold, temperature=0.5).iterations == 1
    assert dp.policy_iteration(mdp, cold).converged  # a Solution of any solver starts any other
    taus = jnp.array([0.1, 0.5, 2.0])
    many = jax.vmap(lambda tau: dp.soft_value_iteration(mdp, temperature=tau))(taus)
    assert many.converged.all()
    assert_allclose(many.v[1], cold.v, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_settings(random_mdp, solver):
    solve = functools.partial(SOLVERS[solver], random_mdp(0))
    for tau in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"temperature must be positive and finite, got {tau}"):
            solve(temperature=tau)
    with pytest.raises(ValueError, match=r"tol must be positive"):
        solve(temperature=1.0, tol=-1.0)
    with pytest.raises(ValueError, match=rf"{SOLVERS[solver].__name__} needs gamma < 1"):
        SOLVERS[solver](random_mdp(0)._replace(gamma=jnp.asarray(1.0)), temperature=1.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_traced_temperature_that_is_none_certifies_nothing(random_mdp, bad):
    solution = jax.jit(lambda tau: dp.soft_value_iteration(random_mdp(0), temperature=tau))(bad)
    assert not solution.converged
    assert not np.isfinite(solution.lower).any()


@pytest.mark.parametrize(
    "solver", [pytest.param(name, marks=pytest.mark.slow if name == "newton" else ()) for name in SOLVERS]
)
def test_an_episode_that_has_ended_is_worth_nothing(solver):
    # The same problem with a terminal state and without it: no entropy is won after the end.
    P = np.array([[[0, 1.0], [0.5, 0.5]], [[0, 0], [0, 0]]])
    R = np.array([[1.0, 0.6], [0, 0]])
    ends = dp.make_mdp(P, R, 0.9, terminal=np.array([False, True]))
    alone = dp.make_mdp(P[:1, :, :1], R[:1], 0.9, substochastic=True)
    one, other = (SOLVERS[solver](mdp, temperature=1.0) for mdp in (ends, alone))
    assert_allclose(one.v, [other.v[0], 0], atol=1e-6)
    assert_allclose(one.policy[0], other.policy[0], atol=1e-6)
    total = lambda tau, mdp: SOLVERS[solver](mdp, temperature=tau).v.sum()  # noqa: E731
    slope, expected = jax.jit(lambda tau: [jax.grad(total)(tau, mdp) for mdp in (ends, alone)])(1.0)
    assert_allclose(slope, expected, rtol=1e-5)


def test_a_temperature_that_vanishes_in_the_dtype(random_mdp):
    with pytest.raises(ValueError, match=r"temperature must be positive and finite, got 0\.0"):
        dp.soft_value_iteration(random_mdp(0, dtype=np.float32), temperature=1e-60)

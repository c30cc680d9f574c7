"""Anderson acceleration: exact where T is affine, safe where it is not."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dp
from dp import anderson
from dp.anderson import _weights


def chain(S: int, gamma: float) -> dp.MDP:
    """One action: T is affine. A walk on a ring that mixes slowly."""
    P = 0.5 * np.roll(np.eye(S), 1, axis=1) + 0.5 * np.eye(S)
    return dp.make_mdp(P[:, None], np.arange(S, dtype=float), gamma)


def test_weights_are_the_best_mixture():
    # Against the constrained least-squares problem by its KKT system, in NumPy.
    f = np.random.default_rng(0).normal(size=(4, 9))
    kkt = np.block([[f @ f.T, np.ones((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
    expected = np.linalg.solve(kkt, [0, 0, 0, 0, 1])[:4]
    assert_allclose(_weights(jnp.asarray(f), jnp.asarray(4)), expected, rtol=1e-9)
    # Rows not filled yet do not count.
    half = _weights(jnp.asarray(f) * jnp.array([1.0, 1, 0, 0])[:, None], jnp.asarray(2))
    kkt = np.block([[f[:2] @ f[:2].T, np.ones((2, 1))], [np.ones((1, 2)), np.zeros((1, 1))]])
    assert_allclose(half, [*np.linalg.solve(kkt, [0, 0, 1])[:2], 0, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("f", [np.zeros((3, 5)), np.ones((3, 5)), np.eye(3, 5) * 1e-300])
def test_weights_of_degenerate_residuals_are_finite(f):
    weights = _weights(jnp.asarray(f), jnp.asarray(3))
    assert np.isfinite(weights).all()
    assert_allclose(weights.sum(), 1, rtol=1e-12)


def test_an_affine_operator_is_solved_in_about_as_many_backups_as_states():
    # Where T is affine this is GMRES: 8 states, and a few backups more for rounding.
    mdp = chain(8, 0.999)
    fast = dp.anderson_iteration(mdp, memory=9)
    assert fast.converged
    assert fast.iterations <= 20
    assert dp.value_iteration(mdp).iterations > 10 * fast.iterations


def test_memory_of_one_is_value_iteration(random_mdp):
    mdp = random_mdp(1, gamma=0.95)
    one, plain = dp.anderson_iteration(mdp, memory=1), dp.value_iteration(mdp)
    assert one.iterations == plain.iterations
    assert_allclose(one.v, plain.v, rtol=1e-13)


@pytest.mark.parametrize("memory", [pytest.param(2, marks=pytest.mark.slow), 5, 20])
def test_converges_where_policies_change_on_the_way(memory):
    # From far away, at random: every mixture before the last policy is an extrapolation across kinks.
    mdp = dp.problems.garnet(12, 4, 2, gamma=0.97, seed=3)
    optimum = dp.policy_iteration(mdp).v
    for seed in range(20):
        v0 = jnp.asarray(1e3 * np.random.default_rng(seed).normal(size=12))
        solution = dp.anderson_iteration(mdp, v0, memory=memory)
        assert solution.converged
        assert_allclose(solution.v, optimum, atol=1e-6)


def test_a_mixture_that_grows_is_undone(monkeypatch):
    # Mixtures that extrapolate wildly: the safeguard turns every one of them down, and plain backups remain.
    mdp = dp.problems.garnet(10, 2, 3, gamma=0.9, seed=0)._replace(mask=None)
    monkeypatch.setattr(anderson, "_weights", lambda f, count: jnp.linspace(-1e6, 1e6, f.shape[0]) + 1 / f.shape[0])
    solution = dp.anderson_iteration(mdp, memory=7)
    assert solution.converged
    assert solution.iterations <= 2 * dp.value_iteration(mdp).iterations + 2


def test_bad_settings(random_mdp):
    with pytest.raises(ValueError, match=r"memory must be at least 1, got 0"):
        dp.anderson_iteration(random_mdp(0), memory=0)
    with pytest.raises(ValueError, match=r"anderson_iteration needs gamma < 1, got gamma = 1"):
        dp.anderson_iteration(random_mdp(0)._replace(gamma=jnp.asarray(1.0)))

"""Linear solvers: Krylov methods against NumPy, and what happens when they fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp import linear
from dp.bellman import sweep

METHODS = ["gmres", "bicgstab"]
FEW = [pytest.param("gmres", marks=pytest.mark.slow), "bicgstab"]


def random_chain(S: int, gamma: float, dtype: type = np.float64) -> dp.MRP:
    mdp = dp.problems.garnet(S, 1, min(S, 5), gamma=gamma, seed=S)
    return jax.tree.map(lambda x: x.astype(dtype), dp.induce(mdp, jnp.zeros(S, int)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("forcing", [0.1, 1e-8])
def test_the_residual_falls_as_far_as_was_asked(method, forcing):
    chain = random_chain(60, 0.99)
    v = jnp.asarray(np.random.default_rng(0).normal(size=60))
    found = linear.krylov(chain, v, method=method, forcing=forcing)
    before, after = (np.linalg.norm(sweep(chain, x) - x) for x in (v, found))
    assert after <= 1.01 * forcing * before
    assert after > 0


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_elimination(method):
    chain = random_chain(40, 0.95)
    expected = np.linalg.solve(np.eye(40) - 0.95 * np.asarray(chain.P), np.asarray(chain.r))
    assert_allclose(linear.krylov(chain, jnp.zeros(40), method=method, forcing=1e-12), expected, rtol=1e-9)
    assert_allclose(linear.direct(chain), expected, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_failing_method_is_no_worse_than_a_sweep(method):
    # A cycle: the Krylov space needs as many vectors as there are states, and is given two products.
    S, gamma = 50, 0.9999
    chain = dp.MRP(jnp.roll(jnp.eye(S), 1, axis=1), jnp.zeros(S).at[0].set(1.0), jnp.asarray(gamma))
    v, improve = jnp.zeros(S), jax.jit(lambda v: linear.krylov(chain, v, method=method, forcing=1e-10, max_iters=2))
    for _ in range(5):
        found = improve(v)
        allowed = gamma * jnp.abs(sweep(chain, v) - v).max()
        assert jnp.abs(sweep(chain, found) - found).max() <= allowed * (1 + 1e-12)
        v = found


@pytest.mark.parametrize("method", FEW)
def test_nothing_left_to_do_is_done(method):
    chain = random_chain(6, 0.5)
    v = jnp.zeros(6)
    assert_array_equal(linear.krylov(chain._replace(r=v), v, method=method, forcing=0.1), v)


@pytest.mark.parametrize("method", FEW)
def test_tiny_rewards_do_not_underflow(method):
    chain = random_chain(20, 0.9, np.float32)
    small = chain._replace(r=chain.r * np.float32(1e-30))
    found = linear.krylov(small, jnp.zeros(20, np.float32), method=method, forcing=1e-4)
    assert_allclose(found * 1e30, linear.direct(chain), rtol=1e-2, atol=1e-3)


def test_refinement_is_as_good_as_elimination(monkeypatch):
    chain = random_chain(60, 0.999)
    expected = linear.direct(chain)
    monkeypatch.setattr(linear, "DIRECT", 10)
    assert_allclose(linear.solve(chain), expected, rtol=1e-10)

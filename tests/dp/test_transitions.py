"""Transition operators against loops."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dp import transitions

S, A = 4, 3
rng = np.random.default_rng(0)
P = rng.random((S, A, S)) * (rng.random((S, A, S)) < 0.6)
P[2] = 0
v = rng.normal(size=S)
actions = rng.integers(A, size=S)
pi = rng.dirichlet(np.ones(A), size=S)


def test_apply_is_the_expectation_over_successors():
    naive = [[sum(P[s, a, t] * v[t] for t in range(S)) for a in range(A)] for s in range(S)]
    assert_allclose(transitions.apply(jnp.asarray(P), jnp.asarray(v)), naive, rtol=1e-14)
    assert_allclose(transitions.apply(jnp.asarray(P[:, 0]), jnp.asarray(v)), np.array(naive)[:, 0], rtol=1e-14)


def test_mass_and_terms_by_hand():
    P = jnp.array([[[0.5, 0.5, 0.0]], [[0.25, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    assert_array_equal(transitions.mass(P), [[1.0], [0.25], [0.0]])
    assert transitions.terms(P) == 2
    assert transitions.terms(jnp.zeros((2, 1, 2))) == 0


def test_follow_mixes_rows():
    naive = np.array([[sum(pi[s, a] * P[s, a, t] for a in range(A)) for t in range(S)] for s in range(S)])
    assert_allclose(transitions.follow(jnp.asarray(P), jnp.asarray(pi)), naive, rtol=1e-14)


def test_follow_gathers_rows_bit_for_bit():
    chain = transitions.follow(jnp.asarray(P), jnp.asarray(actions))
    assert_array_equal(chain, P[np.arange(S), actions])
    assert_array_equal(chain, transitions.follow(jnp.asarray(P), jnp.eye(A)[actions]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_follows_inputs(dtype):
    Q = jnp.asarray(P, dtype)
    assert transitions.apply(Q, jnp.asarray(v, dtype)).dtype == dtype
    assert transitions.mass(Q).dtype == dtype
    assert transitions.follow(Q, jnp.asarray(pi, dtype)).dtype == dtype
    assert transitions.follow(Q, jnp.asarray(actions)).dtype == dtype

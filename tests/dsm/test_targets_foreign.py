"""Distributions of other libraries, played by small ones with their signatures."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsm.targets import from_log_prob, gaussian

COVARIANCE = np.array([[2.0, 0.5], [0.5, 1.0]])


class LikeNumPyro:
    """A correlated normal with NumPyro's signatures."""

    batch_shape = ()
    event_shape = (2,)
    normal = gaussian([1.0, -1.0], COVARIANCE)

    def log_prob(self, value):
        return self.normal.logdensity(value)

    def sample(self, key, sample_shape=()):
        return self.normal.sample(key, sample_shape[0])


class LikeDistrax(LikeNumPyro):
    def sample(self, *, seed, sample_shape=()):
        return self.normal.sample(seed, sample_shape[0])


class Independent:
    """Two scalar normals, a batch and not an event."""

    def log_prob(self, x):
        return -0.5 * x * x


@pytest.mark.slow
@pytest.mark.parametrize("distribution", [LikeNumPyro(), LikeDistrax()], ids=["numpyro", "distrax"])
def test_a_distribution_becomes_a_target(distribution):
    target = from_log_prob(distribution)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    expected = stats.multivariate_normal.logpdf(x, [1.0, -1.0], COVARIANCE)
    np.testing.assert_allclose(jax.vmap(target.logdensity)(x), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(target.score)(x), jax.vmap(distribution.normal.score)(x), rtol=1e-12)
    key = jax.random.key(0)
    np.testing.assert_array_equal(target.sample(key, 7), distribution.normal.sample(key, 7))


def test_a_function_becomes_a_target_without_a_sampler():
    # Any shape of x: here a matrix.
    target = from_log_prob(lambda x: -0.5 * jnp.sum(x * x))
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(target.logdensity(x), -27.5)
    np.testing.assert_allclose(target.score(x), -x)
    assert target.score(x.astype(jnp.float32)).dtype == jnp.float32
    with pytest.raises(ValueError, match="cannot be sampled"):
        target.sample(jax.random.key(0), 3)


def test_a_target_is_an_argument_of_jit_and_compiles_once_for_its_distribution():
    chex.clear_trace_counter()
    distribution = LikeNumPyro()
    draw = jax.jit(chex.assert_max_traces(lambda target, key: target.score(target.sample(key, 4)[0]), n=1))
    for seed in range(2):
        target = from_log_prob(distribution)
        expected = distribution.normal.score(distribution.normal.sample(jax.random.key(seed), 4)[0])
        np.testing.assert_allclose(draw(target, jax.random.key(seed)), expected, rtol=1e-12)


def test_several_numbers_for_one_point_are_refused():
    message = r"log_prob of x has shape \(2,\): make the last axis an event, for instance with .to_event\(1\)"
    target = from_log_prob(Independent())
    for method in (target.logdensity, target.score, jax.jit(target.score)):
        with pytest.raises(ValueError, match=message):
            method(jnp.zeros(2))
    batched = Independent()
    batched.batch_shape = (2,)
    with pytest.raises(ValueError, match=message):
        from_log_prob(batched)


def test_what_has_no_log_prob_is_refused():
    with pytest.raises(ValueError, match="distribution is of type float: it has no log_prob to call"):
        from_log_prob(3.0)

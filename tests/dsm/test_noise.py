import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dsm


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_kernel_logdensity_against_scipy(shape, sigma):
    rng = np.random.default_rng(0)
    x, eps = rng.normal(size=shape), rng.normal(size=shape)
    x_tilde = x + sigma * eps
    expected = stats.norm.logpdf(x_tilde, x, sigma).sum()
    np.testing.assert_allclose(dsm.kernel_logdensity(jnp.asarray(x_tilde), jnp.asarray(x), sigma), expected, rtol=1e-11)


@pytest.mark.parametrize("shape", [(3,), (2, 4)])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_kernel_score_is_the_gradient_of_kernel_logdensity(shape, sigma):
    keys = jax.random.split(jax.random.key(0))
    x_tilde, x = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
    expected = jax.grad(dsm.kernel_logdensity)(x_tilde, x, sigma)
    np.testing.assert_allclose(dsm.kernel_score(x_tilde, x, sigma), expected, rtol=1e-12)


def test_perturb_draws_from_the_kernel():
    x = jnp.array([10.0, -3.0])
    keys = jax.random.split(jax.random.key(0), 5000)
    x_tilde = jax.jit(jax.vmap(lambda key: dsm.perturb(key, x, 0.5)))(keys)
    z = np.asarray((x_tilde - x[None, :]) / 0.5).ravel()
    assert stats.kstest(z, "norm").pvalue > 1e-3


def test_tweedie_is_the_posterior_mean():
    # x ~ N(m, v) and x~ = x + sigma eps: the posterior mean weighs m and x~ by the other's variance.
    m, v, sigma = 1.0, 0.5, 0.7
    x_tilde = jnp.array([-2.0])
    expected = (m * sigma**2 + x_tilde * v) / (v + sigma**2)
    score = dsm.gaussian([m], v).smooth(sigma).score
    np.testing.assert_allclose(dsm.tweedie(score, x_tilde, sigma), expected, rtol=1e-13)


def test_tweedie_of_a_mixture_is_the_posterior_mean_by_quadrature():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0], [2.0]], [0.25, 1.0])
    sigma, x_tilde = 0.8, 0.4
    x = np.linspace(-12, 12, 4001)
    joint = np.exp(jax.jit(jax.vmap(target.logdensity))(jnp.asarray(x)[:, None])) * stats.norm.pdf(x_tilde, x, sigma)
    expected = np.trapezoid(x * joint, x) / np.trapezoid(joint, x)
    got = dsm.tweedie(target.smooth(sigma).score, jnp.array([x_tilde]), sigma)
    np.testing.assert_allclose(got, [expected], rtol=1e-9)


def test_geometric_sigmas():
    sigmas = np.asarray(dsm.geometric_sigmas(10.0, 0.01, 7))
    assert sigmas.shape == (7,)
    np.testing.assert_allclose(sigmas[[0, -1]], [10.0, 0.01], rtol=1e-14)
    np.testing.assert_allclose(sigmas[1:] / sigmas[:-1], 10 ** (-3 / 6), rtol=1e-13)


def test_float32_stays_float32():
    x = jnp.ones(3, jnp.float32)
    x_tilde = dsm.perturb(jax.random.key(0), x, 0.5)
    score = dsm.kernel_score(x_tilde, x, 0.5)
    logdensity = dsm.kernel_logdensity(x_tilde, x, 0.5)
    assert x_tilde.dtype == score.dtype == logdensity.dtype == jnp.float32
    assert dsm.kernel_logdensity(x_tilde, x, jnp.float32(0.5)).dtype == jnp.float32


@pytest.mark.parametrize("sigma", [0.0, -0.5, np.nan, np.inf])
def test_a_bad_sigma_is_refused_by_name(sigma):
    x = jnp.zeros(2)
    message = f"sigma = {sigma}"
    with pytest.raises(ValueError, match=message):
        dsm.perturb(jax.random.key(0), x, sigma)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: dsm.kernel_score(x, x, sigma))(x)
    with pytest.raises(ValueError, match=message):
        dsm.kernel_logdensity(x, x, jnp.array(sigma))
    with pytest.raises(ValueError, match=message):
        dsm.tweedie(lambda x: -x, x, sigma)


@pytest.mark.parametrize(
    "largest, smallest, num, message",
    [
        (1.0, 0.1, 1, "num = 1"),
        (1.0, 0.0, 5, "smallest = 0.0"),
        (1.0, -0.1, 5, "smallest = -0.1"),
        (0.1, 1.0, 5, "largest = 0.1"),
        (np.inf, 1.0, 5, "largest = inf"),
        (1.0, np.nan, 5, "smallest = nan"),
    ],
)
def test_a_bad_ladder_is_refused_by_name(largest, smallest, num, message):
    with pytest.raises(ValueError, match=message):
        dsm.geometric_sigmas(largest, smallest, num)

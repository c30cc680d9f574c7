import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dsm


def random_mixture(D=2, K=3, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(K, 3.0))
    means = 2 * rng.normal(size=(K, D))
    roots = rng.normal(size=(K, D, D))
    covariances = np.einsum("kij,klj->kil", roots, roots) + 0.1 * np.eye(D)
    return weights, means, covariances


def oracle_logdensity(x, weights, means, covariances):
    parts = [
        np.log(w) + stats.multivariate_normal.logpdf(x, m, C)
        for w, m, C in zip(weights, means, covariances, strict=True)
    ]
    return np.logaddexp.reduce(parts, axis=0)


@pytest.mark.parametrize("D", [1, 2, 5])
def test_logdensity_against_scipy(D):
    parameters = random_mixture(D)
    target = dsm.gaussian_mixture(*parameters)
    x = 5 * np.random.default_rng(1).normal(size=(50, D))
    np.testing.assert_allclose(target.covariances, parameters[2], atol=1e-13)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(target.logdensity))(jnp.asarray(x)), oracle_logdensity(x, *parameters), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("distance", [0.1, 10.0, 1e3, 1e6])
def test_score_is_the_gradient_of_the_logdensity_far_into_the_tails(distance):
    target = dsm.gaussian_mixture(*random_mixture())
    x = distance * jax.random.normal(jax.random.key(0), (20, 2))
    expected = jax.jit(jax.vmap(jax.grad(target.logdensity)))(x)
    np.testing.assert_allclose(jax.jit(jax.vmap(target.score))(x), expected, rtol=1e-8, atol=1e-10)


def test_score_in_the_tail_is_that_of_the_nearest_component():
    # At (300, 300) the mode at (5, 5) is more likely by exp(6000): every other route than softmax underflows.
    score = dsm.two_modes().score(jnp.array([300.0, 300.0]))
    np.testing.assert_allclose(score, [-295.0, -295.0], rtol=1e-12)


def test_smoothing_is_convolution_with_the_kernel():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0], [2.0]], [0.25, 1.0])
    sigma = 0.6
    x = np.linspace(-4, 6, 11)
    # The trapezoid rule is spectrally accurate for an integrand that vanishes at both ends.
    y = np.linspace(-15, 15, 3001)
    density = np.exp(jax.jit(jax.vmap(target.logdensity))(jnp.asarray(y)[:, None]))
    convolved = np.trapezoid(density[None, :] * stats.norm.pdf(x[:, None], y[None, :], sigma), y, axis=1)
    smoothed = jax.jit(jax.vmap(target.smooth(sigma).logdensity))(jnp.asarray(x)[:, None])
    np.testing.assert_allclose(smoothed, np.log(convolved), rtol=1e-11)


def test_smoothing_adds_the_variance_and_nothing_else():
    weights, means, covariances = random_mixture()
    target = dsm.gaussian_mixture(weights, means, covariances)
    expected = dsm.gaussian_mixture(weights, means, covariances + 0.49 * np.eye(2))
    x = jnp.array([0.3, -0.7])
    np.testing.assert_allclose(target.smooth(0.7).score(x), expected.score(x), rtol=1e-12)
    chex.assert_trees_all_equal(target.smooth(0.0), target)


def test_mean_and_covariance_in_closed_form():
    mean, covariance = dsm.two_modes().mean(), dsm.two_modes().covariance()
    # 0.8 and 0.2 at +-(5, 5): mean 3, variance 1 + 25 - 9, covariance 25 - 9.
    np.testing.assert_allclose(mean, [3.0, 3.0], rtol=1e-14)
    np.testing.assert_allclose(covariance, [[17.0, 16.0], [16.0, 17.0]], rtol=1e-14)


def test_sampler_has_the_moments_of_the_density():
    weights, means, covariances = random_mixture(seed=4)
    target = dsm.gaussian_mixture(weights, means, covariances)
    num = 20_000
    x = np.asarray(target.sample(jax.random.key(0), num))
    assert x.shape == (num, 2)
    mean = weights @ means
    second = np.einsum("k,kij->ij", weights, covariances + np.einsum("ki,kj->kij", means, means))
    products = np.einsum("ni,nj->nij", x, x)
    assert np.all(np.abs(x.mean(0) - mean) < 4 * x.std(0) / np.sqrt(num))
    assert np.all(np.abs(products.mean(0) - second) < 4 * products.std(0) / np.sqrt(num))


def test_sampler_has_the_distribution_function_of_the_density():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0], [2.0]], [0.25, 1.0])
    x = np.asarray(target.sample(jax.random.key(1), 5000))[:, 0]
    result = stats.kstest(x, lambda t: 0.3 * stats.norm.cdf(t, -1, 0.5) + 0.7 * stats.norm.cdf(t, 2, 1))
    assert result.pvalue > 1e-3


def test_sampler_visits_the_ring_evenly():
    # The ring is symmetric under rotation by pi/4, so each sector centred on a mode has probability 1/8 exactly.
    x = np.asarray(dsm.eight_gaussians().sample(jax.random.key(2), 8000))
    sector = np.round(np.arctan2(x[:, 1], x[:, 0]) / (np.pi / 4)).astype(int) % 8
    assert stats.chisquare(np.bincount(sector, minlength=8)).pvalue > 1e-3


def test_named_targets():
    ring = dsm.eight_gaussians(radius=3.0, std=0.2)
    np.testing.assert_allclose(jnp.linalg.norm(ring.means, axis=1), 3.0, rtol=1e-14)
    np.testing.assert_allclose(ring.means[2], [0.0, 3.0], atol=1e-15)
    np.testing.assert_allclose(ring.covariances, np.broadcast_to(0.04 * np.eye(2), (8, 2, 2)), rtol=1e-14)
    normal = dsm.gaussian([1.0, -1.0], [[2.0, 0.5], [0.5, 1.0]])
    x = np.array([0.2, 0.4])
    expected = stats.multivariate_normal.logpdf(x, [1.0, -1.0], [[2.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(normal.logdensity(jnp.asarray(x)), expected, rtol=1e-13)


def test_a_component_of_weight_zero_counts_for_nothing():
    target = dsm.gaussian_mixture([1.0, 0.0], [[0.0], [50.0]], 1.0)
    x = jnp.array([50.0])
    np.testing.assert_allclose(target.score(x), [-50.0], rtol=1e-13)
    np.testing.assert_allclose(jax.grad(target.logdensity)(x), [-50.0], rtol=1e-13)


def test_far_from_the_origin_as_at_the_origin():
    offset = 1e6
    near, far = dsm.gaussian([0.0, 0.0], 0.01), dsm.gaussian([offset, offset], 0.01)
    x = jnp.array([0.125, -0.25])
    np.testing.assert_allclose(far.logdensity(x + offset), near.logdensity(x), rtol=1e-12)
    np.testing.assert_allclose(far.score(x + offset), near.score(x), rtol=1e-12)


def test_a_target_is_an_argument_of_jit():
    chex.clear_trace_counter()
    score = jax.jit(chex.assert_max_traces(lambda target, x: target.score(x), n=1))
    x = jnp.array([1.0, 2.0])
    for seed in range(3):
        target = dsm.gaussian_mixture(*random_mixture(seed=seed))
        np.testing.assert_allclose(score(target, x), target.score(x), rtol=1e-12)


def test_float32_stays_float32():
    target = jax.tree.map(lambda a: a.astype(jnp.float32), dsm.eight_gaussians())
    x = target.sample(jax.random.key(0), 50)
    got = (x, jax.jit(jax.vmap(target.logdensity))(x), jax.jit(jax.vmap(target.smooth(0.3).score))(x), target.mean())
    assert {a.dtype for a in got} == {jnp.dtype(jnp.float32)}
    exact = jax.jit(jax.vmap(dsm.eight_gaussians().smooth(0.3).score))(x.astype(jnp.float64))
    np.testing.assert_allclose(got[2], exact, atol=2e-5)
    assert dsm.gaussian_mixture([1.0], np.zeros((1, 2), np.float32), 1.0).means.dtype == jnp.float32


@pytest.mark.parametrize(
    "weights, means, covariances, message",
    [
        ([0.5, 0.6], [[0.0], [1.0]], 1.0, r"weights sum to 1.1"),
        ([1.2, -0.2], [[0.0], [1.0]], 1.0, r"weights\[1\] = -0.2: it must not be negative"),
        ([0.5, np.nan], [[0.0], [1.0]], 1.0, r"weights\[1\] = nan: it must be finite"),
        ([1.0], [[0.0], [1.0]], 1.0, r"weights has shape \(1,\)"),
        ([1.0], [0.0], 1.0, r"means has shape \(1,\)"),
        ([0.5, 0.5], [[0.0, 1.0], [np.inf, 1.0]], 1.0, r"means\[1, 0\] = inf"),
        ([0.5, 0.5], [[0.0], [1.0]], [1.0, 0.0], r"covariances\[1\] = 0.0: it must be a positive variance"),
        ([0.5, 0.5], [[0.0], [1.0]], -1.0, r"covariances = -1.0: it must be a positive variance"),
        ([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0, 1.0], r"covariances has shape \(3,\)"),
        ([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.4, 1.0]]], r"covariances\[0, 0, 1\] = 0.5: it must be that"),
        ([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]], r"covariances\[0\] has the eigenvalue -1"),
    ],
)
def test_a_bad_mixture_is_refused_by_name(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message):
        dsm.gaussian_mixture(weights, means, covariances)


def test_a_bad_gaussian_or_smoothing_is_refused_by_name():
    with pytest.raises(ValueError, match=r"mean has shape \(1, 1\)"):
        dsm.gaussian([[0.0]], 1.0)
    with pytest.raises(ValueError, match=r"covariance has shape \(1,\)"):
        dsm.gaussian([0.0], [1.0])
    with pytest.raises(ValueError, match=r"sigma = -0.1"):
        dsm.eight_gaussians().smooth(-0.1)

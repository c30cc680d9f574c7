"""Metrics against closed forms and naive NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from dsm import metrics
from dsm.metrics.points import nearest_squared_distances

rng = np.random.default_rng(0)
X = rng.normal(size=(31, 3))
Y = rng.normal(size=(23, 3)) * 1.5 + 0.4
KEY = jax.random.key(0)


def with_moments(mean: np.ndarray, covariance: np.ndarray, num: int) -> np.ndarray:
    """A sample whose mean and unbiased covariance are these exactly."""
    z = np.random.default_rng(1).normal(size=(num, len(mean)))
    z = z - z.mean(0)
    white = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def frechet_by_sqrtm(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x.T), np.cov(y.T)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[math.dist(a, b) for b in y] for a in x])


# Fisher divergence


def test_fisher_divergence_between_gaussians():
    # N(0, 1) seen by the score of N(m, s^2): E (x - (x - m)/s^2)^2 / 2 = ((1 - 1/s^2)^2 + m^2/s^4) / 2.
    m, s = 0.7, 1.3
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    terms = [
        float(metrics.fisher_divergence(lambda x: -(x - m) / s**2, lambda x: -x, jnp.array([[node]]))) for node in nodes
    ]
    assert_allclose(weights @ terms / math.sqrt(2 * math.pi), ((1 - 1 / s**2) ** 2 + m**2 / s**4) / 2, rtol=1e-12)


def test_fisher_divergence_averages_over_examples_of_any_shape():
    x = jnp.asarray(rng.normal(size=(5, 2, 2)))
    value = metrics.fisher_divergence(lambda x: -2 * x, lambda x: -x, x)
    assert_allclose(value, 0.5 * np.sum(np.asarray(x) ** 2, axis=(1, 2)).mean(), rtol=1e-14)
    assert metrics.fisher_divergence(jnp.sin, jnp.sin, x) == 0


# Sliced Wasserstein


@pytest.mark.parametrize("num", [31, 17, 1])
def test_one_dimension_is_scipys_wasserstein_distance(num):
    x, y = rng.normal(size=(31, 1)), rng.gamma(2.0, size=(num, 1))
    value = metrics.sliced_wasserstein(KEY, jnp.asarray(x), jnp.asarray(y), num_projections=2, p=1)
    assert_allclose(value, scipy.stats.wasserstein_distance(x[:, 0], y[:, 0]), rtol=1e-12)


def test_one_dimension_p2_of_unequal_sizes_is_that_of_repeated_points():
    x, y = rng.normal(size=(6, 1)), rng.normal(size=(4, 1))
    repeated = np.sort(np.repeat(x[:, 0], 2)) - np.sort(np.repeat(y[:, 0], 3))
    value = metrics.sliced_wasserstein(KEY, jnp.asarray(x), jnp.asarray(y), num_projections=1)
    assert_allclose(value, np.sqrt(np.mean(repeated**2)), rtol=1e-12)


def test_sliced_w2_of_a_shifted_cloud():
    # (theta.delta)^2 has mean |delta|^2/D and variance |delta|^4 2(D-1)/(D^2(D+2)) on the sphere.
    delta, num, d = np.array([1.0, -2.0, 0.5]), 4000, 3
    squared = metrics.sliced_wasserstein(KEY, jnp.asarray(X), jnp.asarray(X + delta), num_projections=num) ** 2
    standard_error = delta @ delta * math.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / num)
    assert abs(squared - delta @ delta / d) < 4 * standard_error


def test_sliced_is_a_symmetric_distance_blind_to_order():
    x, y = jnp.asarray(X), jnp.asarray(Y)
    distance = jax.jit(lambda x, y: metrics.sliced_wasserstein(KEY, x, y, num_projections=7, p=3))
    assert_allclose(distance(x, y), distance(y, x), rtol=1e-12)
    assert_allclose(distance(x, y), distance(x[::-1], jnp.roll(y, 5, axis=0)), rtol=1e-12)
    assert distance(x, x) == 0


# Maximum mean discrepancy


def test_mmd_is_the_naive_double_sum():
    b = 0.9

    def k(x, y):
        return np.exp(-(distances(x, y) ** 2) / (2 * b**2))

    def off_diagonal(matrix):
        return matrix[~np.eye(len(matrix), dtype=bool)].mean()

    naive = off_diagonal(k(X, X)) + off_diagonal(k(Y, Y)) - 2 * k(X, Y).mean()
    assert_allclose(metrics.mmd(jnp.asarray(X), jnp.asarray(Y), bandwidth=b), naive, rtol=1e-12)
    assert_allclose(metrics.mmd(jnp.asarray(Y), jnp.asarray(X[::-1]), bandwidth=b), naive, rtol=1e-12)


def test_mmd_is_unbiased():
    # Gaussians in D dimensions, a shift apart: E k(x, y) = (1 + 2/b^2)^(-D/2) exp(-shift^2 / (2 (b^2 + 2))).
    b, d, shift = 1.5, 2, 0.8
    x = jax.random.normal(jax.random.key(1), (2000, 5, d))
    y = jax.random.normal(jax.random.key(2), (2000, 4, d)) + jnp.asarray([[[shift, 0.0]]])
    values = jax.jit(jax.vmap(lambda x, y: metrics.mmd(x, y, bandwidth=b)))(x, y)
    truth = 2 * (1 + 2 / b**2) ** (-d / 2) * (1 - math.exp(-(shift**2) / (2 * (b**2 + 2))))
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(2000)


@pytest.mark.parametrize("num", [2, 3, 4, 5])  # 1, 3, 6, 10 pairs
def test_median_distance(num):
    assert_allclose(
        metrics.median_distance(jnp.asarray(X[:num])),
        np.median([math.dist(X[i], X[j]) for i in range(num) for j in range(i)]),
        rtol=1e-14,
    )


# Frechet distance


def test_frechet_of_known_gaussians():
    mean, scale = np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, 0.5])
    x, y = with_moments(np.zeros(3), np.eye(3), 12), with_moments(mean, np.diag(scale**2), 9)
    # Commuting covariances: sum of (s_1 - s_2)^2 over the axes.
    assert_allclose(
        metrics.frechet_distance(jnp.asarray(x), jnp.asarray(y)),
        mean @ mean + np.sum((1 - scale) ** 2),
        rtol=1e-12,
    )


def test_frechet_of_covariances_that_do_not_commute():
    a, b = X @ np.array([[1.0, 0.3, 0], [0, 2.0, -1.0], [0.5, 0, 1.0]]), Y
    value = metrics.frechet_distance(jnp.asarray(a), jnp.asarray(b))
    assert_allclose(value, frechet_by_sqrtm(a, b), rtol=1e-10)
    assert_allclose(metrics.frechet_distance(jnp.asarray(b[::-1]), jnp.asarray(a)), value, rtol=1e-12)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert_allclose(metrics.frechet_distance(jnp.asarray(a @ rotation), jnp.asarray(b @ rotation)), value, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
def test_frechet_of_singular_covariances(dtype):
    # Embedding in a larger space by an isometry changes nothing; the covariances lose full rank.
    isometry = np.linalg.qr(rng.normal(size=(20, 3)))[0].T
    tolerance = {"rtol": 2e-5} if dtype == np.float32 else {"rtol": 1e-11}
    value = metrics.frechet_distance(
        jnp.asarray((X @ isometry).astype(dtype)), jnp.asarray((Y @ isometry).astype(dtype))
    )
    assert value.dtype == dtype
    assert_allclose(value, metrics.frechet_distance(jnp.asarray(X), jnp.asarray(Y)), **tolerance)
    # Subspaces at right angles share nothing: tr (S_1 S_2)^{1/2} = 0.
    zeros = np.zeros_like
    x, y = np.hstack([X, zeros(X)]).astype(dtype), np.hstack([zeros(Y), Y]).astype(dtype)
    truth = np.sum(X.mean(0) ** 2) + np.sum(Y.mean(0) ** 2) + np.trace(np.cov(X.T) + np.cov(Y.T))
    assert_allclose(metrics.frechet_distance(jnp.asarray(x), jnp.asarray(y)), truth, **tolerance)


def test_frechet_of_fewer_points_than_features():
    x, y = rng.normal(size=(4, 9)), rng.normal(size=(6, 9))
    centred = [(z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y)]
    shared = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    truth = np.sum((x.mean(0) - y.mean(0)) ** 2) + sum(np.sum(z**2) for z in centred) - 2 * shared
    assert_allclose(metrics.frechet_distance(jnp.asarray(x), jnp.asarray(y)), truth, rtol=1e-12)
    assert_allclose(metrics.frechet_distance(jnp.asarray(x), jnp.asarray(x)), 0, atol=1e-13)


# Coverage and copying


@pytest.mark.parametrize("k", [1, 5])
def test_coverage_is_the_naive_count(k):
    among = np.sort(np.where(np.eye(len(X), dtype=bool), np.inf, distances(X, X)), axis=1)[:, k - 1]
    naive = np.mean([distances(X[i : i + 1], Y).min() <= among[i] for i in range(len(X))])
    assert 0 < naive < 1
    assert metrics.coverage(jnp.asarray(X), jnp.asarray(Y), k=k) == naive
    assert metrics.coverage(jnp.asarray(X[::-1]), jnp.asarray(Y[::-1]), k=k) == naive


def test_coverage_of_equal_distributions_and_of_a_lost_mode():
    # All M fakes lie beyond the k nearest of the N - 1 other reals with probability prod (N - i)/(N + M - i).
    n, m, k, repeats = 20, 15, 3, 400
    x = jax.random.normal(jax.random.key(3), (repeats, n, 2))
    y = jax.random.normal(jax.random.key(4), (repeats, m, 2))
    values = jax.jit(jax.vmap(lambda x, y: metrics.coverage(x, y, k=k)))(x, y)
    truth = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(repeats)
    two_modes = jnp.concatenate([x[0], x[0] + 100])
    assert metrics.coverage(two_modes, two_modes[:n], k=k) == 0.5


def test_nearest_neighbour_ratio_is_the_naive_ratio_of_medians():
    train, heldout, samples = X[:15], X[15:], Y
    naive = np.median(distances(samples, train).min(1)) / np.median(distances(heldout, train).min(1))
    arrays = [jnp.asarray(a) for a in (samples, train, heldout)]
    assert_allclose(metrics.nearest_neighbour_ratio(*arrays), naive, rtol=1e-14)
    assert_allclose(metrics.nearest_neighbour_ratio(*(a[::-1] for a in arrays)), naive, rtol=1e-14)
    assert metrics.nearest_neighbour_ratio(arrays[1], arrays[1], arrays[2]) == 0
    assert metrics.nearest_neighbour_ratio(arrays[2], arrays[1], arrays[2]) == 1


def test_a_float32_copy_has_distance_zero_far_from_the_origin():
    train = jnp.asarray(X + 1e4, jnp.float32)
    assert metrics.nearest_neighbour_ratio(train[:5], train, train + 1) == 0


@pytest.mark.slow
def test_the_nearest_of_many_rows_is_the_nearest_by_summed_differences():
    rng = np.random.default_rng(4)
    train, samples = (rng.integers(0, 256, (n, 784)).astype(np.float32) for n in (700, 130))
    samples[7] = train[3]
    found = jax.jit(nearest_squared_distances)(jnp.asarray(samples), jnp.asarray(train))
    exact = ((samples[:, None].astype(int) - train[None]) ** 2).sum(-1).min(1)
    assert found[7] == 0
    assert_allclose(found, exact, rtol=1e-6)


# All of them


CALLS = {
    "fisher": lambda x, y: metrics.fisher_divergence(lambda x: -x, lambda x: -2 * x, x),
    "sliced": lambda x, y: metrics.sliced_wasserstein(KEY, x, y, num_projections=5),
    "mmd": lambda x, y: metrics.mmd(x, y, bandwidth=1.2),
    "median": lambda x, y: metrics.median_distance(x),
    "frechet": lambda x, y: metrics.frechet_distance(x, y),
    "coverage": lambda x, y: metrics.coverage(x, y),
    "neighbours": lambda x, y: metrics.nearest_neighbour_ratio(x, y, x + 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_float32_in_float32_out_and_jittable(name):
    wide = jax.jit(CALLS[name])(jnp.asarray(X), jnp.asarray(Y))
    narrow = jax.jit(CALLS[name])(jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32))
    assert wide.dtype == jnp.float64 and narrow.dtype == jnp.float32
    assert narrow.shape == ()
    # The projections of `sliced` are other draws in float32: 5 of them give the scale only.
    assert_allclose(narrow, wide, rtol=0.6 if name == "sliced" else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fisher", "mmd", "frechet"])
def test_gradients_are_the_finite_differences(name):
    check_grads(lambda x: CALLS[name](jnp.asarray(x), jnp.asarray(Y)), (jnp.asarray(X),), order=1, modes=["rev"])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda x: metrics.sliced_wasserstein(KEY, x, x, num_projections=0), "num_projections.*0"),
        (lambda x: metrics.sliced_wasserstein(KEY, x, x, num_projections=1, p=0.5), "p .*0.5"),
        (lambda x: metrics.mmd(x, x, bandwidth=0.0), "bandwidth.*0.0"),
        (lambda x: metrics.mmd(x, x, bandwidth=math.nan), "bandwidth.*nan"),
        (lambda x: metrics.mmd(x, x[:1], bandwidth=1.0), "2 points.*1 in y"),
        (lambda x: metrics.median_distance(x[:1]), "2 points.*1"),
        (lambda x: metrics.frechet_distance(x, x[:1]), "y must have at least 2 points.*1"),
        (lambda x: metrics.coverage(x, x, k=len(X)), f"k .*{len(X)} real"),
        (lambda x: metrics.coverage(x, x, k=0), "k .*0"),
        (lambda x: metrics.coverage(x, x[:0]), r"\(0, 3\)"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(jnp.asarray(X))


def test_samples_of_different_dimension_are_refused():
    # A TypeError where the shapes in the signatures are checked, as in these tests.
    with pytest.raises((ValueError, TypeError)):
        metrics.coverage(jnp.asarray(X), jnp.asarray(Y[:, :1]))

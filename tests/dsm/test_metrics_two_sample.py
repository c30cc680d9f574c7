"""Energy distance and two-sample tests against SciPy, naive sums and their own promises."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from dsm import metrics
from dsm.metrics import two_sample

rng = np.random.default_rng(0)
X = rng.normal(size=(21, 2))
Y = rng.normal(size=(16, 2)) * 1.3 + 0.4
KEY = jax.random.key(0)
REPEATS = 200

permutation_test = partial(metrics.mmd_test, bandwidth=1.1, num_permutations=199)
one_permutation_test = jax.jit(permutation_test)
energy_distance = jax.jit(metrics.energy_distance)
hypergeometric_tail = jax.jit(two_sample._hypergeometric_tail, static_argnums=(2, 3, 4))
TESTS = {
    name: jax.jit(jax.vmap(test))
    for name, test in (("mmd", permutation_test), ("classifier", metrics.classifier_two_sample_test))
}


def mean_distance(x, y):
    return np.mean([[math.dist(a, b) for b in y] for a in x])


def repeated(shift, n, m):
    """Pairs of samples of N(0, I) and N(shift, I) in the plane, REPEATS times, with keys."""
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(REPEATS, n, 2)), draw.normal(size=(REPEATS, m, 2)) + shift
    return jax.random.split(jax.random.key(1), REPEATS), jnp.asarray(x), jnp.asarray(y)


# Energy distance


def test_energy_distance_is_the_naive_one_without_the_points_themselves():
    n, m = len(X), len(Y)
    naive = 2 * mean_distance(X, Y) - mean_distance(X, X) * n / (n - 1) - mean_distance(Y, Y) * m / (m - 1)
    assert_allclose(energy_distance(jnp.asarray(X), jnp.asarray(Y)), naive, rtol=1e-11)


def test_energy_distance_on_a_line_is_the_integral_of_the_squared_gap():
    # SciPy's is the root of 2 int (F - G)^2 of the empirical F and G, which counts each point with itself.
    x, y = X[:, :1], Y[:, :1]
    with_themselves = mean_distance(x, x) / (len(x) - 1) + mean_distance(y, y) / (len(y) - 1)
    value = energy_distance(jnp.asarray(x), jnp.asarray(y)) + with_themselves
    assert_allclose(value, scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2, rtol=1e-11)


def test_energy_distance_is_unbiased():
    # X - Y ~ N(shift, 2), of which E|.| is that of the folded normal.
    shift, scale = 0.8, math.sqrt(2)
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(2000, 5, 1)), draw.normal(size=(2000, 4, 1)) + shift
    values = jax.jit(jax.vmap(metrics.energy_distance))(jnp.asarray(x), jnp.asarray(y))
    truth = 2 * scipy.stats.foldnorm.mean(shift / scale, scale=scale) - 4 / math.sqrt(math.pi)
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(2000)


def test_energy_distance_has_a_gradient():
    x, y = jnp.asarray(X), jnp.asarray(Y)
    slope = jax.jit(jax.grad(metrics.energy_distance))(x, y)
    h = 1e-6
    for i, j in ((0, 0), (7, 1)):
        bump = jnp.zeros_like(x).at[i, j].set(h)
        change = energy_distance(x + bump, y) - energy_distance(x - bump, y)
        assert_allclose(slope[i, j], change / (2 * h), rtol=1e-6, atol=1e-9)


# Tests


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_the_permuted_statistic_is_mmd(shift):
    x, y = jnp.asarray(X), jnp.asarray(Y + shift)
    found = one_permutation_test(KEY, x, y)
    assert_allclose(found.statistic, metrics.mmd(x, y, bandwidth=1.1), rtol=1e-10)


def test_the_permutation_p_value_of_a_tiny_sample_is_that_of_all_divisions():
    # 3 points against 3 far away: of 20 divisions this one and its mirror image reach the statistic.
    x = jnp.asarray(X[:3])
    num = 2000
    found = jax.jit(partial(metrics.mmd_test, bandwidth=1.0, num_permutations=num))(KEY, x, x + 50.0)
    reached = (found.p_value * (num + 1) - 1) / num
    assert abs(reached - 0.1) < 4 * math.sqrt(0.1 * 0.9 / num)


def test_equal_points_tie():
    same = jnp.ones((4, 2))
    found = jax.jit(partial(metrics.mmd_test, bandwidth=1.0, num_permutations=19))(KEY, same, same[:3])
    assert found.p_value == 1


@pytest.mark.slow
def test_the_permutation_p_value_is_uniform_under_the_null():
    p = np.asarray(TESTS["mmd"](*repeated(0.0, 14, 20)).p_value)
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3
    assert p.min() >= 1 / 200


@pytest.mark.parametrize(("n", "m"), [(40, 40), (24, 60)])
def test_the_classifier_is_at_chance_under_the_null(n, m):
    found = TESTS["classifier"](*repeated(0.0, n, m))
    accuracy, p = np.asarray(found.statistic), np.asarray(found.p_value)
    assert abs(accuracy.mean() - 0.5) < 4 * accuracy.std() / math.sqrt(REPEATS)
    # Few values are possible, so p is not uniform: no level may be exceeded more often than it says.
    for level in (0.01, 0.05, 0.1, 0.3, 0.5):
        assert (p <= level).mean() < level + 4 * math.sqrt(level * (1 - level) / REPEATS)
    assert (p <= 0.5).mean() > 0.2


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "mmd" else ()) for name in TESTS]
)
def test_samples_that_differ_are_told_apart(name):
    shifted = TESTS[name](*repeated(2.0, 40, 40))
    assert (np.asarray(shifted.p_value) <= 0.05).mean() > 0.95


def test_the_classifier_is_right_about_separate_samples():
    found = jax.jit(metrics.classifier_two_sample_test)(KEY, jnp.asarray(X), jnp.asarray(Y + 100))
    assert found.statistic == 1
    # All of the 11 and 8 points that test are labelled right: one way of C(19, 8).
    assert_allclose(found.p_value, 1 / math.comb(19, 8), rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_the_tail_is_scipys_hypergeometric_and_fishers_exact_test(dtype):
    for seen, drawn, good, bad in [(5, 9, 11, 8), (0, 3, 6, 5), (6, 6, 6, 5), (2, 7, 4, 5), (520, 1000, 1000, 1000)]:
        found = hypergeometric_tail(jnp.asarray(seen), jnp.asarray(drawn), good, bad, dtype)
        truth = scipy.stats.hypergeom.sf(seen - 1, good + bad, good, drawn)
        assert_allclose(found, truth, rtol=1e-9 if dtype == jnp.float64 else 2e-4)
    table = [[5, 6], [4, 4]]
    found = hypergeometric_tail(jnp.asarray(5), jnp.asarray(9), 11, 8, dtype)
    assert_allclose(found, scipy.stats.fisher_exact(table, "greater").pvalue, rtol=1e-5)


CALLS = {
    "energy": lambda x, y: metrics.energy_distance(x, y),
    "mmd test": lambda x, y: metrics.mmd_test(KEY, x, y, bandwidth=1.0, num_permutations=9),
    "classifier test": lambda x, y: metrics.classifier_two_sample_test(KEY, x, y),
}


@pytest.mark.parametrize("name", CALLS)
def test_float32_in_float32_out_and_jittable(name):
    wide = jax.tree.leaves(jax.jit(CALLS[name])(jnp.asarray(X), jnp.asarray(Y)))
    narrow = jax.tree.leaves(jax.jit(CALLS[name])(jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)))
    assert all(leaf.dtype == jnp.float32 and leaf.shape == () for leaf in narrow)
    assert_allclose(narrow, wide, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda x: metrics.energy_distance(x, x[:1]), "2 points.*1 in y"),
        (lambda x: metrics.mmd_test(KEY, x[:1], x, bandwidth=1.0), "2 points.*1 in x"),
        (lambda x: metrics.mmd_test(KEY, x, x, bandwidth=-1.0), "bandwidth.*-1.0"),
        (lambda x: metrics.mmd_test(KEY, x, x, bandwidth=1.0, num_permutations=0), "num_permutations.*0"),
        (lambda x: metrics.classifier_two_sample_test(KEY, x, x[:1]), "2 points.*1 in y"),
        (lambda x: metrics.classifier_two_sample_test(KEY, x, x, k=21), "k must.*20 points taught.*21"),
        (lambda x: metrics.classifier_two_sample_test(KEY, x, x, k=0), "k must.*0"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(jnp.asarray(X))

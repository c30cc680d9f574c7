"""Banana, funnel, Student's t and double wells: densities on R^D whose samplers transform or reject."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from dsm.targets import banana, double_wells, funnel, student_t

logdensities = jax.jit(jax.vmap(lambda target, x: target.logdensity(x), (None, 0)))
scores = jax.jit(jax.vmap(lambda target, x: target.score(x), (None, 0)))
gradients = jax.jit(jax.vmap(lambda target, x: jax.grad(target.logdensity)(x), (None, 0)))

LOCATION, SCALE = np.array([1.0, -2.0, 0.5]), np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
TARGETS = {
    "banana": banana(0.4, 1.5, 0.5, D=3),
    "smoothed banana": banana([0.4, -0.3], 1.5, 0.5, D=3).smooth(0.7),
    "funnel": funnel(3, 1.5),
    "student_t": student_t(LOCATION, SCALE, 5.0),
    "wells": double_wells([0.5, 1.0, 3.0], [0.2, 1.0, 2.0], D=3),
}
each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
few_targets = pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=() if k in ("banana", "funnel") else pytest.mark.slow, id=k) for k, t in TARGETS.items()],
)


@each_target
def test_the_score_is_the_gradient_of_the_logdensity_however_far(target):
    directions = np.random.default_rng(0).normal(size=(8, 1, 3))
    x = (directions * np.array([1e-3, 0.1, 1.0, 10.0, 1e2, 1e4])[:, None]).reshape(-1, 3)
    if target is TARGETS["funnel"]:
        x[:, 0] = np.clip(x[:, 0], -300, 300)
    got, expected = scores(target, jnp.asarray(x)), gradients(target, jnp.asarray(x))
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-10


@few_targets
def test_the_sampler_has_the_mean_and_covariance_of_the_target(target):
    num = 40_000
    x = np.asarray(target.sample(jax.random.key(0), num))
    u = x - np.asarray(target.mean())
    products = np.einsum("ni,nj->nij", u, u)
    assert np.all(np.abs(u.mean(0)) < 4 * x.std(0) / np.sqrt(num))
    assert np.all(np.abs(products.mean(0) - target.covariance()) < 4 * products.std(0) / np.sqrt(num))


def test_banana_density_and_mass():
    # Seen along x_1 the others are normal about the parabola; further coordinates are N(0, 1).
    x = np.random.default_rng(1).normal(size=(20, 3)) * 2
    expected = (
        stats.norm.logpdf(x[:, 0], 0, 1.5)
        + stats.norm.logpdf(x[:, 1], 0.4 * (x[:, 0] ** 2 - 2.25), 0.5)
        + stats.norm.logpdf(x[:, 2])
    )
    np.testing.assert_allclose(logdensities(TARGETS["banana"], jnp.asarray(x)), expected, rtol=1e-12)
    bent = banana([0.1, -0.2], 1.0, [1.0, 2.0], D=3)
    np.testing.assert_array_equal(bent.bends, [0.1, -0.2])
    np.testing.assert_array_equal(bent.variances, [1.0, 1.0, 4.0])
    t, u = np.meshgrid(np.arange(-8, 8, 0.1), np.arange(-6, 26, 0.1), indexing="ij")
    p = np.exp(logdensities(banana(0.4, 1.0, 0.5), jnp.asarray(np.stack([t.ravel(), u.ravel()], axis=1))))
    np.testing.assert_allclose(p.sum() * 0.01, 1.0, rtol=1e-11)


def test_banana_and_funnel_draws_become_standard_normal_again():
    x = np.asarray(TARGETS["banana"].sample(jax.random.key(1), 8000))
    y = np.asarray(TARGETS["funnel"].sample(jax.random.key(2), 8000))
    bend = 0.4 * (x[:, 0] ** 2 - 2.25)
    straight = [x[:, 0] / 1.5, (x[:, 1] - bend) / 0.5, x[:, 2], y[:, 0] / 1.5]
    straight += [y[:, i] * np.exp(-y[:, 0] / 2) for i in (1, 2)]
    for z in straight:
        assert stats.kstest(z, stats.norm.cdf).pvalue > 1e-3
    # and independent of the coordinate that moved them.
    for i, j in [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]:
        assert stats.spearmanr(straight[i], straight[j]).pvalue > 1e-3
        assert stats.spearmanr(np.abs(straight[i]), np.abs(straight[j])).pvalue > 1e-3


@pytest.mark.parametrize(
    "bend, std, spread",
    [
        pytest.param(0.1, 3.0, 1.0, marks=pytest.mark.slow),
        pytest.param(2.0, 3.0, 0.05, marks=pytest.mark.slow),
        (-1.0, 1.0, 0.2),
        (0.0, 1.0, 1.0),
    ],
)
def test_smoothing_the_banana_is_convolution_with_the_kernel(bend, std, spread):
    # On and off the parabola, above it where the past of x has two wells, and far away; x_2 is integrated by hand.
    sharp = banana(bend, std, spread)
    x = np.asarray(sharp.sample(jax.random.key(5), 8)) * np.array([1, 1, 1, 1, 1, 1, 4, -4])[:, None]
    height = 1 + abs(bend) * std**2
    x = np.concatenate([x, [[0.0, 0.0], [0.0, 5 * height], [1e-3, -3 * height], [-0.1, 20 * height], [9 * std, 0.0]]])
    for sigma in (0.05 * std, std):
        half_width, num = np.abs(x[:, :1]) + 12 * std, 200_000
        t = np.linspace(-1, 1, num + 1) * half_width
        terms = stats.norm.logpdf(t, 0, std) + stats.norm.logpdf(x[:, :1], t, sigma)
        terms += stats.norm.logpdf(x[:, 1:], bend * (t**2 - std**2), np.hypot(spread, sigma))
        expected = special.logsumexp(terms, axis=1) + np.log(2 * half_width[:, 0] / num)
        target = sharp.smooth(0.6 * sigma).smooth(0.8 * sigma)
        np.testing.assert_allclose(logdensities(target, jnp.asarray(x)), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_a_banana_without_noise_is_itself_and_noise_may_be_traced():
    sharp = TARGETS["banana"]
    x = sharp.sample(jax.random.key(6), 10)
    smooth = jax.jit(lambda target, sigma, x: jax.vmap(target.smooth(sigma).score)(x))
    np.testing.assert_allclose(smooth(sharp, 0.0, x), scores(sharp, x), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(smooth(sharp, 0.3, x), scores(sharp.smooth(0.3), x), rtol=1e-11)
    for target in (sharp, TARGETS["smoothed banana"]):
        with pytest.raises(ValueError, match=r"sigma = -1.0"):
            target.smooth(-1.0)


def test_funnel_density_and_mass():
    x = np.random.default_rng(2).normal(size=(20, 10))
    expected = stats.norm.logpdf(x[:, 0], 0, 3) + stats.norm.logpdf(x[:, 1:], 0, np.exp(x[:, :1] / 2)).sum(1)
    np.testing.assert_allclose(logdensities(funnel(), jnp.asarray(x)), expected, rtol=1e-12)
    # With x_2 = exp(v / 2) y the funnel is a box: its mass is the integral of p(v, exp(v / 2) y) exp(v / 2).
    v, y = (a.ravel() for a in np.meshgrid(np.arange(-15, 15, 0.4), np.arange(-9, 9, 0.3), indexing="ij"))
    p = np.exp(logdensities(funnel(2, 1.5), jnp.asarray(np.stack([v, np.exp(v / 2) * y], axis=1))))
    np.testing.assert_allclose(np.sum(p * np.exp(v / 2)) * 0.4 * 0.3, 1.0, rtol=1e-11)


@pytest.mark.parametrize("dof", [0.5, 5.0, 1e9])
def test_student_t_against_scipy(dof):
    target = student_t(LOCATION, SCALE, dof)
    x = np.random.default_rng(3).normal(size=(20, 3)) * np.geomspace(0.1, 1e5, 20)[:, None]
    expected = stats.multivariate_t.logpdf(x, LOCATION, SCALE, df=dof if dof < 1e8 else np.inf)
    # At 1e9 degrees of freedom it is still the normal to q^2 / nu.
    near = slice(None) if dof < 1e8 else slice(0, 5)
    np.testing.assert_allclose(
        logdensities(target, jnp.asarray(x))[near], expected[near], rtol=1e-7 if dof > 6 else 1e-12
    )
    if dof < 6:
        one = student_t([0.3], 2.0, dof)
        # x = sinh t: the tails are powers, of which exp(t) makes exponentials.
        t = np.arange(-100, 100, 0.05)
        p = np.exp(logdensities(one, jnp.asarray(np.sinh(t))[:, None]))
        np.testing.assert_allclose(np.sum(p * np.cosh(t)) * 0.05, 1.0, rtol=1e-11)


@pytest.mark.parametrize("dof", [pytest.param(0.5, marks=pytest.mark.slow), 5.0])
def test_student_t_draws_are_an_f_distribution_in_an_even_direction(dof):
    target = student_t(LOCATION, SCALE, dof)
    x = np.asarray(target.sample(jax.random.key(3), 8000))
    z = np.linalg.solve(np.linalg.cholesky(SCALE), (x - LOCATION).T)
    assert stats.kstest(np.sum(z**2, axis=0) / 3, stats.f(3, dof).cdf).pvalue > 1e-3
    # Archimedes: any coordinate of an even direction in three dimensions is uniform.
    for coordinate in z / np.linalg.norm(z, axis=0):
        assert stats.kstest(coordinate, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_student_t_has_the_moments_its_degrees_of_freedom_allow():
    heavy, light = student_t(LOCATION, SCALE, 1.0), TARGETS["student_t"]
    assert np.all(np.isnan(heavy.mean())) and np.all(np.isnan(heavy.covariance()))
    np.testing.assert_allclose(light.covariance(), 5 / 3 * SCALE, atol=1e-14)
    np.testing.assert_array_equal(light.mean(), LOCATION)


def test_wells_constants_against_quadrature():
    for a, b in [(1.0, 1.0), (2.0, 1e-4), (0.3, 2.0), (5.0, 3.0), (1e4, 1.0), (1e-3, 1e-3)]:
        target = double_wells(a, b)
        width = max((a * b) ** -0.5, 0.0) if a * b * b > 1 else a**-0.25
        p = lambda x, a=a, b=b: np.exp(-a * (x * x - b) ** 2)  # noqa: E731
        corners = [max(b**0.5 - 6 * width, 0.0), b**0.5, b**0.5 + 6 * width]
        pieces = list(pairwise(corners))
        mass = 2 * sum(integrate.quad(p, *ends, epsabs=0, epsrel=1e-12)[0] for ends in pieces)
        square = 2 * sum(integrate.quad(lambda x: x * x * p(x), *ends, epsabs=0, epsrel=1e-12)[0] for ends in pieces)  # noqa: B023
        np.testing.assert_allclose(target.log_partitions, [np.log(mass)], rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(target.covariance(), [[square / mass]], rtol=1e-10)
    # Very deep wells are Gaussians of variance 1 / (8 a b).
    deep = double_wells(1e14, 1.0)
    np.testing.assert_allclose(deep.log_partitions, np.log(2) + 0.5 * np.log(2 * np.pi / 8e14), rtol=1e-12)
    np.testing.assert_allclose(deep.variances, 1.0, rtol=1e-12)


@pytest.mark.slow
def test_wells_draws_have_the_distribution_function_of_the_density():
    # Barriers a b^2 on both sides of the change of proposal, and far from it.
    a, b = np.array([1.0, 0.5, 0.7, 1.0, 4.0]), np.array([1e-6, 1.0, 1.0, 2.0, 3.0])
    target = double_wells(a, b, D=5)
    x = np.asarray(target.sample(jax.random.key(4), 6000))
    t = np.linspace(-4, 4, 8001)
    for i in range(5):
        p = np.exp(-a[i] * (t**2 - b[i]) ** 2)
        cdf = integrate.cumulative_trapezoid(p, t, initial=0)
        assert stats.kstest(x[:, i], lambda s, cdf=cdf: np.interp(s, t, cdf / cdf[-1])).pvalue > 1e-3
    counts = np.bincount((x > 0) @ (1 << np.arange(5)), minlength=32)
    assert stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_allclose(
        logdensities(target, jnp.asarray(x[:5])),
        -np.sum(a * (x[:5] ** 2 - b) ** 2 + np.asarray(target.log_partitions), axis=1),
        rtol=1e-12,
    )


@pytest.mark.slow
def test_unknown_wells_are_returned_and_not_waited_for():
    target = double_wells(1.0, 1.0)._replace(b=jnp.array([jnp.nan]))
    assert np.all(np.isnan(target.sample(jax.random.key(0), 3)))


def test_a_target_is_an_argument_of_jit():
    chex.clear_trace_counter()
    score = jax.jit(chex.assert_max_traces(lambda target, x: target.score(x), n=1))
    for b in (1.0, 2.0, 3.0):
        target = double_wells(1.0, b, D=2)
        np.testing.assert_allclose(score(target, jnp.ones(2)), -4 * (1 - b) * np.ones(2), rtol=1e-14)


@few_targets
def test_float32_stays_float32(target):
    small = jax.tree.map(lambda a: a.astype(jnp.float32), target)
    x = small.sample(jax.random.key(0), 50)
    got = (x, logdensities(small, x), scores(small, x), small.mean(), small.covariance())
    assert {a.dtype for a in got} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(got[1], logdensities(target, x.astype(float)), rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(got[2], scores(target, x.astype(float)), rtol=1e-4, atol=1e-4)


def test_float32_follows_the_arguments():
    one = np.float32(1.0)
    made = (banana(one), funnel(3, one), student_t(np.zeros(2, np.float32), 1.0, 3.0), double_wells(one, one))
    assert {a.dtype for a in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: banana(np.nan), r"bend = nan: it must be finite"),
        (lambda: banana([0.1, np.inf], D=3), r"bend\[1\] = inf: it must be finite"),
        (lambda: banana([0.1], D=3), r"bend has shape \(1,\), not \(\) or \(2,\)"),
        (lambda: banana(std=0.0), r"std = 0.0: it must be positive"),
        (lambda: banana(spread=-1.0), r"spread = -1.0: it must be positive"),
        (lambda: banana(D=1), r"D = 1: it must be a whole number of at least 2"),
        (lambda: funnel(1), r"D = 1: it must be"),
        (lambda: funnel(3, -3.0), r"std = -3.0"),
        (lambda: student_t([0.0], 1.0, 0.0), r"dof = 0.0: it must be positive"),
        (lambda: student_t([0.0], -1.0, 1.0), r"scale = -1.0: it must be positive"),
        (lambda: student_t([0.0, np.nan], 1.0, 1.0), r"location\[1\] = nan"),
        (lambda: student_t(0.0, 1.0, 1.0), r"location has shape \(\)"),
        (lambda: student_t([0.0, 0.0], [1.0, 2.0], 1.0), r"scale has shape \(2,\)"),
        (lambda: student_t([0.0, 0.0], [[1.0, 0.5], [0.4, 1.0]], 1.0), r"scale\[0, 1\] = 0.5 is not symmetric"),
        (lambda: student_t([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]], 1.0), r"scale has the eigenvalue -1"),
        (lambda: double_wells(0.0), r"a = 0.0: it must be positive"),
        (lambda: double_wells(1.0, [1.0, -2.0], D=2), r"b\[1\] = -2.0: it must be positive"),
        (lambda: double_wells(D=0), r"D = 0: it must be a whole number of at least 1"),
    ],
)
def test_bad_numbers_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@each_target
def test_points_of_another_shape_are_refused(target):
    for method in (target.logdensity, target.score):
        with pytest.raises(ValueError, match=r"x has shape \(4,\), not \(3,\)"):
            method(jnp.zeros(4))

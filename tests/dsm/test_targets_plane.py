"""The ring, the moons and the board: what they say against quadrature, and what smoothing does to them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from dsm.targets import checkerboard, ring, two_moons

logdensities = jax.jit(jax.vmap(lambda target, x: target.logdensity(x), (None, 0)))
scores = jax.jit(jax.vmap(lambda target, x: target.score(x), (None, 0)))
gradients = jax.jit(jax.vmap(lambda target, x: jax.grad(target.logdensity)(x), (None, 0)))

TARGETS = {"ring": ring(1.5, 0.3), "moons": two_moons(0.25), "board": checkerboard(0.4)}
each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
# Compiling takes the time, of the board as long as of the others together.
few_targets = pytest.mark.parametrize(
    "target", [pytest.param(t, marks=() if k == "moons" else pytest.mark.slow, id=k) for k, t in TARGETS.items()]
)


def lattice(spacing, half_width=7.0):
    # The trapezoid rule is spectrally accurate for a smooth density that vanishes at the border.
    t = np.arange(-half_width, half_width, spacing)
    return np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 2), spacing**2


def densities(target, x):
    return np.exp(np.asarray(logdensities(target, jnp.asarray(x))))


@few_targets
def test_the_score_is_the_gradient_of_the_logdensity_however_far(target):
    directions = np.random.default_rng(0).normal(size=(8, 1, 2))
    x = (directions * np.array([1e-3, 0.1, 1.0, 3.0, 10.0, 1e3, 1e6])[:, None]).reshape(-1, 2)
    got, expected = scores(target, jnp.asarray(x)), gradients(target, jnp.asarray(x))
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-10
    # Far away every one of them is as the nearest of its points under Gaussian noise.
    far = x[np.linalg.norm(x, axis=1) > 1e5]
    np.testing.assert_allclose(scores(target, jnp.asarray(far)), -far / np.asarray(target.variance), rtol=1e-3, atol=50)


@few_targets
def test_the_derivative_of_the_score_is_the_hessian_of_the_logdensity(target):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)))
    got = jax.jit(jax.vmap(jax.jacfwd(target.score)))(x)
    expected = jax.jit(jax.vmap(jax.hessian(target.logdensity)))(x)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)


@each_target
def test_the_density_has_the_mass_mean_and_covariance_it_claims(target):
    x, cell = lattice(0.1)
    p = densities(target, x) * cell
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-11)
    np.testing.assert_allclose(p @ x, target.mean(), atol=1e-11)
    u = x - np.asarray(target.mean())
    np.testing.assert_allclose(np.einsum("n,ni,nj->ij", p, u, u), target.covariance(), rtol=1e-10, atol=1e-10)


@each_target
def test_smoothing_is_convolution_with_the_kernel(target):
    sigma = 0.5
    y, cell = lattice(0.1)
    x = 2 * np.random.default_rng(2).normal(size=(12, 2))
    kernel = stats.norm.pdf(x[:, None, :], y[None, :, :], sigma).prod(axis=2)
    expected = kernel @ densities(target, y) * cell
    smooth = jax.jit(lambda target, sigma, x: jax.vmap(target.smooth(sigma).logdensity)(x))
    np.testing.assert_allclose(np.exp(smooth(target, sigma, jnp.asarray(x))), expected, rtol=1e-10)
    chex.assert_trees_all_equal(target.smooth(0.0), target)


@few_targets
def test_the_sampler_fills_bins_as_the_density_does(target):
    num, width, nodes = 20_000, 0.5, 6
    edges = np.arange(-5, 5 + width, width)
    g, w = np.polynomial.legendre.leggauss(nodes)
    t = (edges[:-1, None] + width * (g + 1) / 2).ravel()
    p = densities(target, np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 2))
    bins = len(edges) - 1
    p = np.einsum("ikjl,k,l->ij", p.reshape(bins, nodes, bins, nodes), w, w) * width**2 / 4
    x = np.asarray(target.sample(jax.random.key(0), num))
    counts, *_ = np.histogram2d(x[:, 0], x[:, 1], bins=[edges, edges])
    full = p * num > 10
    counts = np.append(counts[full], num - counts[full].sum())
    expected = np.append(p[full], 1 - p[full].sum()) * num
    assert full.sum() > 30
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_the_ring_against_the_integral_over_its_circle():
    target = ring(2.0, 0.5)
    logdensity = jax.jit(target.logdensity)
    for r in [0.0, 1e-3, 0.005, 0.0063, 0.1, 2.0, 4.0, 30.0]:
        # exp(-|x - c|^2 / 2 s^2) over the angle, less its largest value.
        nearest = (r - 2) ** 2 / 0.5
        mean = integrate.quad(lambda t, r=r: np.exp(-4 * r * (1 - np.cos(t)) / 0.5), 0, np.pi, epsrel=1e-13)[0] / np.pi
        expected = np.log(mean) - nearest - np.log(2 * np.pi * 0.25)
        got = logdensity(jnp.array([0.6 * r, -0.8 * r]))
        np.testing.assert_allclose(got, expected, rtol=1e-11, err_msg=f"r = {r}")


def test_the_ring_is_smooth_at_its_centre():
    # p is even in r, and grad^2 log p = (R^2 / 2 s^4 - 1 / s^2) I there.
    target, centre = ring(2.0, 0.5), jnp.zeros(2)
    expected = (4 / 2 / 0.5**4 - 1 / 0.5**2) * np.eye(2)
    first = jax.jit(lambda x: (target.score(x), jax.grad(target.logdensity)(x)))(centre)
    second = jax.jit(lambda x: (jax.jacfwd(target.score)(x), jax.hessian(target.logdensity)(x)))(centre)
    np.testing.assert_array_equal(first, np.zeros((2, 2)))
    np.testing.assert_allclose(second, [expected, expected], rtol=1e-13)


@pytest.mark.parametrize("std", [0.003, 0.02, 0.1, 0.5, 3.0, 50.0])
def test_the_moons_against_a_fine_rule(std):
    # Ten Gauss nodes on each of 4000 pieces of an arc, ever shorter towards its ends.
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 2)) * rng.choice([0.5, 1.0, 3.0, 30.0], size=(40, 1))
    special_points = [[0.0, -1.0], [1.0, 0.5], [0.0, 0.0], [-1.0, -0.1], [0.5, 0.25], [-3.0, 0.0], [0.3, -1e-9]]
    x[: len(special_points)] = special_points
    half = np.concatenate([np.geomspace(1e-9, 0.1, 400), np.linspace(0.1, np.pi / 2, 1601)[1:]])
    edges = np.concatenate([[0.0], half, np.pi - half[-2::-1], [np.pi]])
    g, w = np.polynomial.legendre.leggauss(10)
    t = (edges[:-1, None] + np.diff(edges)[:, None] * (g + 1) / 2).ravel()
    weight = np.log(np.diff(edges)[:, None] / 2 * w / (2 * np.pi)).ravel()
    parts = []
    for centre, sign in [((0.0, 0.0), 1), ((1.0, 0.5), -1)]:
        point = np.asarray(centre)[:, None] + sign * np.stack([np.cos(t), np.sin(t)])
        square = (x[:, :1] - point[0]) ** 2 + (x[:, 1:] - point[1]) ** 2
        parts.append(special.logsumexp(weight - square / (2 * std**2), axis=1))
    expected = np.logaddexp(*parts) - np.log(2 * np.pi * std**2)
    np.testing.assert_allclose(logdensities(two_moons(std), jnp.asarray(x)), expected, rtol=2e-13, atol=1e-11)


@pytest.mark.slow
def test_the_board_without_noise_is_constant_on_its_black_squares():
    target = checkerboard()
    x = jnp.array([[-3.0, -3.0], [3.9, 3.9], [-3.5, 1.5], [-1.0, -3.0], [1.0, 3.0], [1.0, 3.9], [4.1, 4.1], [-3, 9.0]])
    black = np.array([True, True, True, False, False, False, False, False])
    np.testing.assert_allclose(logdensities(target, x), np.where(black, -np.log(32), -np.inf), rtol=1e-14)
    np.testing.assert_array_equal(scores(target, x), 0.0)
    np.testing.assert_array_equal(gradients(target, x), 0.0)
    draws = target.sample(jax.random.key(1), 4000)
    assert np.all(np.isfinite(logdensities(target, draws)))
    # Each black square is as likely as any other, and each draw is uniform inside its own.
    square = np.floor(np.asarray(draws) / 2).astype(int) @ [4, 1]
    assert stats.chisquare(np.unique_counts(square).counts).pvalue > 1e-3
    for i in range(2):
        assert stats.kstest(np.asarray(draws)[:, i] % 2, stats.uniform(0, 2).cdf).pvalue > 1e-3
    np.testing.assert_allclose(target.covariance(), [[16 / 3, 1], [1, 16 / 3]], rtol=1e-14)


def test_the_board_under_noise_against_normal_distribution_functions():
    # With s = 30 both the near and the far sides of a square are on one side of most of these x.
    x = np.random.default_rng(4).normal(size=(30, 2)) * 5
    for std in (0.05, 1.0, 30.0):
        mass = [np.diff(special.ndtr((np.arange(-4, 5, 2.0) - x[:, i : i + 1]) / std), axis=1) for i in range(2)]
        even, odd = (mass[0][:, k::2].sum(1) * mass[1][:, k::2].sum(1) for k in (0, 1))
        got, expected = densities(checkerboard(std), x), (even + odd) / 32
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-15)


def test_smoothing_the_sharp_board_is_the_noisy_board():
    smoothed = jax.jit(lambda target, sigma: target.smooth(sigma))(checkerboard(), 0.4)
    np.testing.assert_allclose(smoothed.variance, TARGETS["board"].variance, rtol=1e-15)


@few_targets
def test_float32_stays_float32(target):
    small = jax.tree.map(lambda a: a.astype(jnp.float32), target)
    x = small.sample(jax.random.key(0), 50)
    got = (x, logdensities(small, x), scores(small, x), small.mean(), small.covariance())
    assert {a.dtype for a in got} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(got[1], logdensities(target, x.astype(float)), atol=1e-5)
    np.testing.assert_allclose(got[2], scores(target, x.astype(float)), atol=3e-4)
    far = scores(small, 1e4 * x)
    np.testing.assert_allclose(far, scores(target, 1e4 * x.astype(float)), rtol=1e-5, atol=1.0)


def test_float32_follows_the_arguments():
    made = (ring(np.float32(1.0), np.float32(0.5)), two_moons(np.float32(0.5)), checkerboard(np.float32(0.5)))
    assert {a.dtype for a in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}


def test_bad_numbers_are_refused_by_name():
    for make, message in [
        (lambda: ring(0.0), r"radius = 0.0: it must be positive"),
        (lambda: ring(1.0, -1.0), r"std = -1.0: it must be positive"),
        (lambda: ring(np.inf), r"radius = inf: it must be finite"),
        (lambda: ring([1.0, 2.0]), r"radius has shape \(2,\)"),
        (lambda: two_moons(0.0), r"std = 0.0: it must be positive"),
        (lambda: two_moons(np.nan), r"std = nan: it must be finite"),
        (lambda: checkerboard(-0.1), r"std = -0.1: it must not be negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


@each_target
def test_bad_points_and_smoothing_are_refused_by_name(target):
    for sigma in (-0.5, np.inf, np.nan):
        with pytest.raises(ValueError, match=rf"sigma = {sigma}"):
            target.smooth(sigma)
    for method in (target.logdensity, target.score):
        with pytest.raises(ValueError, match=r"x has shape \(3,\), not \(2,\)"):
            method(jnp.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize("point", [(0.0, 0.0), (0.0, 1.0), (2.0, -4.0), (4.0, 3.0)])
def test_the_board_can_be_differentiated_on_its_edges(point):
    target, x = checkerboard(0.5), jnp.array(point)
    score = target.score(x)
    np.testing.assert_allclose(jax.grad(target.logdensity)(x), score, rtol=1e-9, atol=1e-12)
    h = 1e-5
    slopes = [(target.score(x + h * e) - target.score(x - h * e)) / (2 * h) for e in jnp.eye(2)]
    np.testing.assert_allclose(jax.jacobian(target.score)(x), jnp.stack(slopes, axis=1), rtol=1e-6, atol=1e-6)

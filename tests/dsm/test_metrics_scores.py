"""The floor of equation (2), and score errors by density, against closed forms, quadrature and naive NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import dsm
from dsm import metrics, training

KEY = jax.random.key(0)
TWO = dsm.gaussian_mixture([0.3, 0.7], [[-1.0], [1.5]], [0.2, 0.6])
PLANE = dsm.gaussian_mixture(
    [0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[[0.5, 0.2], [0.2, 0.3]], [[0.3, 0.0], [0.0, 0.8]]]
)

on_a_grid = jax.jit(lambda target, sigma, grid: metrics.denoising_floor(target.smooth(sigma).logdensity, sigma, grid))
by_density = jax.jit(metrics.score_error_by_density, static_argnums=0, static_argnames="num_bins")
by_draws = jax.jit(
    lambda key, target, x, sigma: metrics.denoising_floor_monte_carlo(key, target.smooth(sigma).score, x, sigma)
)


def box(target, sigma, num=80):
    reach = 5 + 9 * sigma
    D = target.means.shape[1]
    return dsm.quadrature_grid((-reach,) * D, (reach,) * D, num if D == 2 else 300)


def mean_and_error(values):
    values = np.asarray(values)
    return values.mean(), values.std(ddof=1) / math.sqrt(values.size)


# The floor


def test_the_worked_example():
    # Data N(0, 1), sigma = 1/2: I = 1/1.25 = 0.8, so the floor is (4 - 0.8)/2. Equation (2) at E = x^2/2 is 1.625.
    target = dsm.gaussian([0.0], 1.0)
    floor = on_a_grid(target, 0.5, box(target, 0.5))
    assert_allclose(floor, 1.6, rtol=1e-10)
    assert_allclose(floor + 0.5 * (1 - 0.8) ** 2 * 1.25, 1.625, rtol=1e-10)


@pytest.mark.parametrize("D", [1, 2, 5])
def test_the_floor_of_a_gaussian(D):
    # Posterior covariance C - C inv(C + sigma^2 I) C, whose eigenvalues are v sigma^2 / (v + sigma^2).
    root = np.random.default_rng(D).normal(size=(D, D))
    covariance = root @ root.T / D + 0.2 * np.eye(D)
    target, sigma = dsm.gaussian(np.zeros(D), covariance), 0.7
    v = np.linalg.eigvalsh(covariance)
    truth = np.sum(v / (v + sigma**2)) / (2 * sigma**2)
    found = by_draws(KEY, target, target.sample(jax.random.key(1), 50), sigma)
    # The divergence of a linear score is a constant.
    assert_allclose(found.value, truth, rtol=1e-11)
    assert found.standard_error < 1e-12
    if D <= 2:
        assert_allclose(on_a_grid(target, sigma, box(target, sigma)), truth, rtol=1e-7)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("target", [TWO, PLANE], ids=["line", "plane"])
def test_quadrature_and_draws_agree_with_equation_2_at_the_smoothed_score(target, sigma):
    floor = on_a_grid(target, sigma, box(target, sigma))
    x = target.sample(jax.random.key(2), 4000)
    found = by_draws(KEY, target, x, sigma)
    assert abs(found.value - floor) < 4 * found.standard_error
    score = target.smooth(sigma).score
    losses = jax.jit(jax.vmap(lambda key, x: dsm.denoising(key, score, x, sigma)))(jax.random.split(KEY, 4000), x)
    mean, error = mean_and_error(losses)
    assert abs(mean - floor) < 4 * error
    # Given x~ the floor's term is the mean of the loss: it has the smaller variance.
    assert found.standard_error < error


def test_the_floor_on_a_line_is_that_of_the_fisher_information():
    sigma = 0.6
    grid = box(TWO, sigma)
    smoothed = TWO.smooth(sigma)
    logdensity, score = jax.jit(jax.vmap(lambda x: (smoothed.logdensity(x), smoothed.score(x))))(grid.points)
    information = np.exp(np.asarray(grid.log_weights + logdensity)) @ np.asarray(score)[:, 0] ** 2
    assert_allclose(on_a_grid(TWO, sigma, grid), (1 / sigma**2 - information) / 2, rtol=1e-10)


def test_the_unknown_constant_drops_out():
    sigma = 0.6
    grid = box(TWO, sigma)
    logdensity = lambda x: TWO.smooth(sigma).logdensity(x) - 700.0  # noqa: E731
    moved = jax.jit(lambda grid: metrics.denoising_floor(logdensity, sigma, grid))(grid)
    assert_allclose(moved, on_a_grid(TWO, sigma, grid), rtol=1e-11)


def test_examples_may_have_any_shape():
    x = jax.random.normal(KEY, (6, 2, 3))
    found = metrics.denoising_floor_monte_carlo(KEY, lambda x: -x / 1.25, x, 0.5)
    assert_allclose(found.value, 6 * 1.6, rtol=1e-12)


@pytest.mark.slow
def test_a_training_loss_less_the_floor_is_the_fisher_divergence():
    # A linear score s = b - a x cannot be that of two modes, so that equation (2) ends well above its floor.
    sigma = 0.5
    smoothed = TWO.smooth(sigma)

    def loss(key, params, x):
        return dsm.denoising(key, lambda x: params["b"] - params["a"] * x, x, sigma)

    optimizer = optax.adam(0.02)
    params = {"a": jnp.ones(1), "b": jnp.zeros(1)}
    settings = {"batch_loss": training.per_example(loss), "optimizer": optimizer, "batch_size": 64}
    data = TWO.sample(jax.random.key(3), 20_000)
    state, _ = training.fit(KEY, training.init(params, optimizer), data, num_steps=300, **settings)
    # The losses that fit reports while nothing moves are those of these parameters.
    rest = optax.sgd(0.0)
    still = settings | {"optimizer": rest}
    final, infos = training.fit(jax.random.key(4), training.init(state.ema, rest), data, num_steps=2000, **still)
    assert final.params["a"] == state.ema["a"]
    mean, error = mean_and_error(infos.loss)
    excess = mean - float(on_a_grid(TWO, sigma, box(TWO, sigma)))
    noisy = smoothed.sample(jax.random.key(5), 20_000)

    def divergence(x):
        return dsm.explicit(lambda x: state.ema["b"] - state.ema["a"] * x, smoothed.score, x)

    expected, its_error = mean_and_error(jax.jit(jax.vmap(divergence))(noisy))
    # 20 000 data stand for the distribution in the first, 20 000 draws of it in the second.
    each = jax.jit(jax.vmap(lambda key, x: loss(key, state.ema, x)))
    of_data = np.asarray(each(jax.random.split(KEY, 20_000), data))
    data_error = of_data.std() / math.sqrt(20_000)
    assert abs(excess - expected) < 4 * math.sqrt(error**2 + its_error**2 + data_error**2)
    assert excess > 4 * math.sqrt(error**2 + data_error**2)


def test_a_float32_floor():
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32), (TWO, box(TWO, 0.6)))
    found = on_a_grid(narrow[0], jnp.float32(0.6), narrow[1])
    assert found.dtype == jnp.float32
    assert_allclose(found, on_a_grid(TWO, 0.6, box(TWO, 0.6)), rtol=1e-4)
    x = jnp.ones((5, 1), jnp.float32)
    assert all(a.dtype == jnp.float32 for a in metrics.denoising_floor_monte_carlo(KEY, lambda x: -x, x, 0.6))


# Errors by density


def test_score_errors_by_density_are_those_of_a_loop():
    x = np.random.default_rng(4).normal(size=(23, 2)) * 1.5
    found = by_density(jnp.sin, PLANE, jnp.asarray(x), num_bins=5)
    both = jax.jit(jax.vmap(lambda x: (PLANE.logdensity(x), PLANE.score(x))))
    log_p, truth = (np.asarray(a) for a in both(jnp.asarray(x)))
    squares = np.sum((np.sin(x) - truth) ** 2, axis=1)
    rank = np.argsort(np.argsort(log_p))
    for b in range(5):
        inside = rank * 5 // 23 == b
        assert found.num_points[b] == inside.sum()
        assert_allclose(found.log_density[b], log_p[inside].mean(), rtol=1e-11)
        assert_allclose(found.rms_error[b], math.sqrt(squares[inside].mean()), rtol=1e-11)
        size = math.sqrt(np.sum(truth[inside] ** 2, axis=1).mean())
        assert_allclose(found.relative_rms_error[b], found.rms_error[b] / size, rtol=1e-11)


@pytest.mark.slow
def test_the_bins_hold_all_of_the_fisher_divergence():
    x = PLANE.sample(KEY, 23)
    found = by_density(jnp.sin, PLANE, x, num_bins=5)
    total = np.asarray(found.num_points) @ np.asarray(found.rms_error) ** 2 / 23
    assert_allclose(total / 2, metrics.fisher_divergence(jnp.sin, PLANE.score, x), rtol=1e-12)
    assert (np.diff(found.log_density) > 0).all()
    zero = by_density(jnp.zeros_like, PLANE, x, num_bins=5)
    assert_allclose(zero.relative_rms_error, 1, rtol=1e-12)


def test_ties_are_divided_and_float32_stays():
    x = jnp.ones((10, 2), jnp.float32)
    target = jax.tree.map(lambda a: a.astype(jnp.float32), PLANE)
    found = by_density(jnp.sin, target, x, num_bins=3)
    assert found.num_points.tolist() == [4, 3, 3]
    assert all(a.dtype == jnp.float32 for a in (found.log_density, found.rms_error, found.relative_rms_error))


def test_the_map_of_errors():
    points = dsm.quadrature_grid((-2.0, -2.0), (2.0, 2.0), 4).points
    found = metrics.score_error_map(jnp.sin, jnp.cos, points)
    expected = np.linalg.norm(np.sin(points) - np.cos(points), axis=1)
    assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda x: metrics.denoising_floor(TWO.logdensity, 0.0, box(TWO, 1.0)), "sigma = 0.0"),
        (lambda x: metrics.denoising_floor_monte_carlo(KEY, TWO.score, x, -1.0), "sigma = -1.0"),
        (lambda x: metrics.denoising_floor_monte_carlo(KEY, TWO.score, x[:1], 1.0), "x_batch.*got 1"),
        (lambda x: metrics.score_error_by_density(jnp.sin, TWO, x, num_bins=0), "num_bins.*0"),
        (lambda x: metrics.score_error_by_density(jnp.sin, TWO, x, num_bins=6), "num_bins.*5 points, got 6"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(jnp.zeros((5, 1)))

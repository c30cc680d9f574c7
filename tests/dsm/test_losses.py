import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsm
from dsm import training

SIGMA = 0.5


def mean_and_error(values):
    """The mean over the leading axis and its standard error."""
    values = np.asarray(values)
    return values.mean(0), values.std(0) / np.sqrt(len(values))


def draws(target, num, seed=0):
    """Keys for `denoising` and examples from the target."""
    key_noise, key_data = jax.random.split(jax.random.key(seed))
    return jax.random.split(key_noise, num), target.sample(key_data, num)


def test_explicit_is_half_the_squared_distance():
    x = jnp.arange(6.0).reshape(2, 3)
    value = dsm.explicit(lambda x: 2 * x, lambda x: x - 1, x)
    np.testing.assert_allclose(value, 0.5 * np.sum((np.arange(6.0) + 1) ** 2), rtol=1e-14)


def test_denoising_is_equation_2_at_the_perturbed_point():
    key, x = jax.random.key(0), jnp.arange(6.0).reshape(2, 3)
    x_tilde = np.asarray(dsm.perturb(key, x, SIGMA))
    expected = 0.5 * np.sum((np.sin(x_tilde) + (x_tilde - np.asarray(x)) / SIGMA**2) ** 2)
    np.testing.assert_allclose(dsm.denoising(key, jnp.sin, x, SIGMA), expected, rtol=1e-13)


def test_denoising_in_closed_form():
    # Data N(0, 1), E = a x^2 / 2: 1/2 (a^2 + (1/sigma - a sigma)^2), which is 1.625 at a = 1 and least at a = 0.8.
    keys, x = draws(dsm.gaussian([0.0], 1.0), 100_000)
    loss = jax.jit(jax.vmap(lambda key, x, a: dsm.denoising(key, lambda x: -a * x, x, SIGMA), in_axes=(0, 0, None)))
    for a in (0.0, 0.5, 1.0, 2.0):
        mean, error = mean_and_error(loss(keys, x, a))
        assert abs(mean - 0.5 * (a**2 + (1 / SIGMA - a * SIGMA) ** 2)) < 4 * error
    slope = jax.jit(
        jax.vmap(jax.grad(lambda a, key, x: dsm.denoising(key, lambda x: -a * x, x, SIGMA)), in_axes=(None, 0, 0))
    )
    mean, error = mean_and_error(slope(0.8, keys, x))
    assert abs(mean) < 4 * error
    # With a = 1, the score of the data themselves, equation (2) is not at its minimum: the slope is 0.25.
    mean, error = mean_and_error(slope(1.0, keys, x))
    assert abs(mean - 0.25) < 4 * error


def test_explicit_against_the_smoothed_score_in_closed_form():
    # At a = 1: 1/2 (1 - 0.8)^2 E[x~^2] = 0.02 * 1.25, the integral done by Gauss-Hermite, exact for polynomials.
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    smoothed = dsm.gaussian([0.0], 1.0).smooth(SIGMA)
    x_tilde = jnp.asarray(np.sqrt(1.25) * nodes)[:, None]
    loss = jax.jit(jax.vmap(lambda x: dsm.explicit(lambda x: -x, smoothed.score, x)))(x_tilde)
    np.testing.assert_allclose(loss @ weights / weights.sum(), 0.025, rtol=1e-12)


def bend(theta, score):
    """A family of scores through `score` at theta = 0, bent in three directions."""
    return lambda x: score(x) + theta[0] * x + theta[1] + theta[2] * jnp.sin(2 * x)


def test_the_gradient_vanishes_at_the_smoothed_score_and_not_at_the_data_score():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4])
    keys, x = draws(target, 40_000)

    def gradients(score):
        loss = lambda theta, key, x: dsm.denoising(key, bend(theta, score), x, SIGMA)  # noqa: E731
        return mean_and_error(jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0)))(jnp.zeros(3), keys, x))

    mean, error = gradients(target.smooth(SIGMA).score)
    assert np.all(np.abs(mean) < 4 * error)
    mean, error = gradients(target.score)
    assert np.abs(mean[0]) > 20 * error[0]


def test_equation_2_is_explicit_score_matching_on_smoothed_data_up_to_a_constant():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4])
    smoothed = target.smooth(SIGMA).score
    keys, x = draws(target, 40_000)

    def gap(theta):
        score = bend(theta, lambda x: -x)
        pair = lambda key, x: (  # noqa: E731
            dsm.denoising(key, score, x, SIGMA) - dsm.explicit(score, smoothed, dsm.perturb(key, x, SIGMA))
        )
        return jax.jit(jax.vmap(pair))(keys, x)

    reference = gap(jnp.zeros(3))
    for theta in ([0.5, 0.0, 0.0], [0.0, -1.0, 0.0], [-0.3, 0.4, 0.8]):
        # The same draws on both sides, so the error is that of the difference.
        mean, error = mean_and_error(gap(jnp.array(theta)) - reference)
        assert abs(mean) < 4 * error


def test_a_linear_score_learns_the_smoothed_gaussian():
    # The data are the population here, so the truth is made of their own moments.
    target = dsm.gaussian([1.0, -0.5], [[1.0, 0.6], [0.6, 0.8]])
    data = target.sample(jax.random.key(0), 1000)
    mean, covariance = np.mean(data, axis=0), np.cov(data.T, bias=True)
    precision = np.linalg.inv(covariance + SIGMA**2 * np.eye(2))

    def loss(key, params, x):
        return dsm.denoising(key, lambda x: params["b"] - params["W"] @ x, x, SIGMA)

    steps, batch = 1500, 256
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))
    state = training.init({"W": jnp.zeros((2, 2)), "b": jnp.zeros(2)}, optimizer)
    state, _ = training.fit(
        jax.random.key(1),
        state,
        data,
        batch_loss=training.per_example(loss),
        optimizer=optimizer,
        batch_size=batch,
        num_steps=steps,
    )
    # Regression on the last third of the draws, with noise 1/sigma and the least variance of x~ 0.5: the standard
    # error is about (1/sigma) / sqrt(steps * batch / 3 * 0.5) = 0.008.
    np.testing.assert_allclose(state.params["W"], precision, atol=4 * 0.008)
    np.testing.assert_allclose(state.params["b"], precision @ mean, atol=4 * 0.008)


def test_denoising_over_levels_weighs_by_sigma_squared_and_draws_levels_evenly():
    # Data N(0, 1) and the exact score -x / (1 + sigma^2): equation (2) is 1/2 (1/sigma^2 - 1/(1 + sigma^2)), so level
    # sigma contributes 1/2 / (1 + sigma^2).
    sigmas = dsm.geometric_sigmas(4.0, 0.25, 5)
    keys, x = draws(dsm.gaussian([0.0], 1.0), 100_000)
    score = lambda x, sigma: -x / (1 + sigma**2)  # noqa: E731
    mean, error = mean_and_error(
        jax.jit(jax.vmap(lambda key, x: dsm.denoising_over_levels(key, score, x, sigmas)))(keys, x)
    )
    assert abs(mean - np.mean(0.5 / (1 + np.asarray(sigmas) ** 2))) < 4 * error


def test_one_level_is_the_weighted_denoising_loss():
    keys, x = draws(dsm.gaussian([0.0, 0.0], 1.0), 20_000)
    over_levels = lambda key, x: dsm.denoising_over_levels(  # noqa: E731
        key, lambda x, sigma: -x, x, jnp.array([SIGMA])
    )
    mean, error = mean_and_error(jax.jit(jax.vmap(over_levels))(keys, x))
    # 1/2 (1 + 2.25) for each of two coordinates, times sigma^2.
    assert abs(mean - 2 * 1.625 * SIGMA**2) < 4 * error


def test_any_shape_of_x():
    x = jnp.ones((2, 3, 4))
    sigmas = jnp.array([1.0, 0.5])
    assert dsm.denoising(jax.random.key(0), lambda x: -x, x, SIGMA).shape == ()
    assert dsm.denoising_over_levels(jax.random.key(0), lambda x, sigma: -x, x, sigmas).shape == ()


def test_float32_stays_float32():
    x, sigmas = jnp.ones(3, jnp.float32), jnp.array([1.0, 0.5], jnp.float32)
    assert dsm.denoising(jax.random.key(0), lambda x: -x, x, SIGMA).dtype == jnp.float32
    assert dsm.explicit(lambda x: -x, lambda x: x, x).dtype == jnp.float32
    value = dsm.denoising_over_levels(jax.random.key(0), lambda x, sigma: -x / sigma, x, sigmas)
    assert value.dtype == jnp.float32


@pytest.mark.parametrize(
    "sigmas, message",
    [
        ([0.5, 1.0], r"sigmas\[1\] = 1.0 is not below sigmas\[0\] = 0.5"),
        ([1.0, 1.0], r"sigmas\[1\] = 1.0 is not below"),
        ([1.0, 0.0], r"sigmas\[1\] = 0.0"),
        ([np.nan, 1.0], r"sigmas\[0\] = nan"),
        ([], "sigmas is empty"),
    ],
)
def test_a_bad_ladder_is_refused_by_name(sigmas, message):
    sigmas = jnp.array(sigmas)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: dsm.denoising_over_levels(jax.random.key(0), lambda x, s: -x, x, sigmas))(jnp.ones(2))


def test_a_bad_sigma_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sigma = 0.0"):
        jax.jit(lambda x: dsm.denoising(jax.random.key(0), lambda x: -x, x, 0.0))(jnp.ones(2))

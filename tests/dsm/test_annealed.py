from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsm

SIGMAS = (3.0, 1.0, 0.3)


def gaussian_score(x, sigma, *, mean=1.0, variance=0.5):
    """The score of N(mean, variance) smoothed by sigma."""
    return -(x - mean) / (variance + sigma**2)


@partial(jax.jit, static_argnames=("score", "steps_per_level", "denoise"))
def sample(keys, x, sigmas, *, score=gaussian_score, steps_per_level, step_size, temperature=1.0, denoise=True):
    chain = partial(
        dsm.annealed_langevin,
        steps_per_level=steps_per_level,
        step_size=step_size,
        temperature=temperature,
        denoise=denoise,
    )
    return jax.vmap(lambda key, x: chain(key, score, x, sigmas))(keys, x)


def moments_of_song_and_ermon(mean, variance, *, epsilon, steps, target_mean, target_variance):
    """Algorithm 1 on a Gaussian: mean and variance at the end of each level, exact, in the letters of the paper."""
    history = []
    for sigma in SIGMAS:
        alpha = epsilon * sigma**2 / SIGMAS[-1] ** 2
        for _ in range(steps):
            # x <- x + alpha/2 s(x) + sqrt(alpha) z with s(x) = -(x - m) / (v + sigma^2)
            contraction = 1 - alpha / 2 / (target_variance + sigma**2)
            mean = target_mean + contraction * (mean - target_mean)
            variance = contraction**2 * variance + alpha
        history.append((mean, variance))
    return np.array(history).T


def test_it_is_algorithm_1_level_by_level():
    chains, step_size, steps = 20_000, 0.02, 15
    x0 = 3.0 * jax.random.normal(jax.random.key(0), (chains, 1))
    keys = jax.random.split(jax.random.key(1), chains)
    _, history = sample(keys, x0, jnp.array(SIGMAS), steps_per_level=steps, step_size=step_size)
    x = np.asarray(history.x)[:, :, 0]
    means, variances = moments_of_song_and_ermon(
        0.0, 9.0, epsilon=2 * step_size, steps=steps, target_mean=1.0, target_variance=0.5
    )
    # Independent Gaussian chains: standard errors sqrt(v / n) and v sqrt(2 / n).
    assert np.all(np.abs(x.mean(0) - means) < 4 * np.sqrt(variances / chains))
    assert np.all(np.abs(x.var(0) - variances) < 4 * variances * np.sqrt(2 / chains))
    assert not history.diverged.any()


def test_it_ends_on_the_smoothed_target_and_then_on_the_posterior_mean():
    # Small steps and many of them: the last level is N(1, v + sigma_L^2) up to a bias below one standard error.
    chains, variance, smallest = 4000, 0.5, SIGMAS[-1]
    x0 = 3.0 * jax.random.normal(jax.random.key(0), (chains, 1))
    keys = jax.random.split(jax.random.key(1), chains)
    x, history = sample(keys, x0, jnp.array(SIGMAS), steps_per_level=200, step_size=0.01)
    last, smoothed = np.asarray(history.x)[:, -1, 0], variance + smallest**2
    assert abs(last.mean() - 1.0) < 4 * np.sqrt(smoothed / chains)
    assert abs(last.var() - smoothed) < 5 * smoothed * np.sqrt(2 / chains)
    # Tweedie's formula maps N(1, v + s^2) to posterior means, of variance v^2 / (v + s^2).
    shrink = variance / smoothed
    np.testing.assert_allclose(np.asarray(x)[:, 0] - 1.0, shrink * (last - 1.0), atol=1e-12)


def test_without_denoising_it_returns_the_last_level():
    keys, x0 = jax.random.split(jax.random.key(0), 3), jnp.ones((3, 2, 2))
    x, history = sample(keys, x0, jnp.array(SIGMAS), steps_per_level=4, step_size=0.02, denoise=False)
    assert history.x.shape == (3, 3, 2, 2)
    np.testing.assert_array_equal(x, history.x[:, -1])
    denoised, _ = sample(keys, x0, jnp.array(SIGMAS), steps_per_level=4, step_size=0.02)
    np.testing.assert_allclose(denoised, x + 0.09 * gaussian_score(x, 0.3), rtol=1e-12)


def test_at_temperature_zero_only_the_drift_is_left():
    keys, x0 = jax.random.split(jax.random.key(0), 1), jnp.array([[4.0]])
    _, history = sample(keys, x0, jnp.array(SIGMAS), steps_per_level=3, step_size=0.02, temperature=0.0)
    means, _ = moments_of_song_and_ermon(4.0, 0.0, epsilon=0.04, steps=3, target_mean=1.0, target_variance=0.5)
    np.testing.assert_allclose(history.x[0, :, 0], means, rtol=1e-12)


def test_divergence_is_told_level_by_level():
    broken = lambda x, sigma: jnp.where(sigma < 0.5, jnp.nan, -x)  # noqa: E731
    x, history = dsm.annealed_langevin(
        jax.random.key(0), broken, jnp.ones(2), jnp.array(SIGMAS), steps_per_level=2, step_size=0.02, denoise=False
    )
    np.testing.assert_array_equal(history.diverged, [False, False, True])
    assert np.isfinite(x).all()


def test_float32_stays_float32():
    x, history = dsm.annealed_langevin(
        jax.random.key(0),
        gaussian_score,
        jnp.ones(2, jnp.float32),
        jnp.array(SIGMAS, jnp.float32),
        steps_per_level=2,
        step_size=0.02,
    )
    assert x.dtype == history.x.dtype == jnp.float32


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sigmas": (0.3, 1.0)}, r"sigmas\[1\] = 1.0 is not below"),
        ({"sigmas": (1.0, -0.3)}, r"sigmas\[1\] = -0.3"),
        ({"steps_per_level": 0}, r"steps_per_level = 0"),
        ({"step_size": 0.0}, r"step_size = 0.0"),
        ({"temperature": -1.0}, r"temperature = -1.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    arguments = {"sigmas": SIGMAS, "steps_per_level": 2, "step_size": 0.02, **changes}
    sigmas = jnp.array(arguments.pop("sigmas"))
    with pytest.raises(ValueError, match=message):
        dsm.annealed_langevin(jax.random.key(0), gaussian_score, jnp.ones(2), sigmas, **arguments)

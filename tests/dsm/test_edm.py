"""The ladder and Heun's steps of EDM on Gaussians, where ODE and steps are known, and the loss against its denoiser."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dsm
from dsm.edm import heun, heun_churn, karras_sigmas
from dsm.losses import denoising_lognormal

MEAN, VARIANCE = 1.0, 0.5


def gaussian_score(x, sigma):
    """The score of N(MEAN, VARIANCE) smoothed by sigma."""
    return -(x - MEAN) / (VARIANCE + sigma**2)


def slope(sigma):
    """d = slope(sigma) (x - MEAN) for `gaussian_score`."""
    return sigma / (VARIANCE + sigma**2)


def heun_factor(sigma, lower):
    """What a step of Heun multiplies x - MEAN by."""
    h = lower - sigma
    return 1 + h / 2 * (slope(sigma) + slope(lower) * (1 + h * slope(sigma)))


def test_the_ladder_is_equation_5():
    sigmas = karras_sigmas(5, 80.0, 0.002)
    i = np.arange(5)
    assert_allclose(sigmas, (80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, rtol=1e-12)
    assert_allclose(karras_sigmas(4, 10.0, 1.0, rho=1.0), [10.0, 7.0, 4.0, 1.0], rtol=1e-12)
    assert_allclose(karras_sigmas(6, 10.0, 0.1, rho=1e6), dsm.geometric_sigmas(10.0, 0.1, 6), rtol=1e-4)


def test_a_step_is_that_of_heun():
    sigmas = [3.0, 1.2, 0.4]
    x = heun(gaussian_score, jnp.array([4.0]), jnp.array(sigmas))
    factor = heun_factor(3.0, 1.2) * heun_factor(1.2, 0.4) * VARIANCE / (VARIANCE + 0.4**2)
    assert_allclose(x, MEAN + factor * 3.0, rtol=1e-13)


def test_one_level_is_the_formula_of_tweedie():
    x = heun(gaussian_score, jnp.array([4.0]), jnp.array([2.0]))
    assert_allclose(x, dsm.tweedie(lambda x: gaussian_score(x, 2.0), jnp.array([4.0]), 2.0), rtol=1e-14)


def test_the_error_is_of_second_order():
    # x(sigma) = m + (x - m) sqrt((v + sigma^2) / (v + sigma_max^2)), and Tweedie's formula at the last level.
    largest, smallest = 10.0, 0.1
    exact = MEAN + 5.0 * np.sqrt((VARIANCE + smallest**2) / (VARIANCE + largest**2)) * VARIANCE / (
        VARIANCE + smallest**2
    )
    solve = jax.jit(partial(heun, gaussian_score))
    errors = [
        abs(float(solve(jnp.array([MEAN + 5.0]), karras_sigmas(num, largest, smallest))[0]) - exact)
        for num in (41, 81, 161)
    ]
    ratios = np.divide(errors[:-1], errors[1:])
    assert np.all(np.abs(ratios - 4) < 0.3), ratios


def test_it_carries_noise_to_the_modes_of_a_mixture_by_their_weights():
    target, num = dsm.gaussian_mixture([0.3, 0.7], [[-2.0, 0.0], [2.0, 1.0]], 0.04), 2000
    x = 20.0 * jax.random.normal(jax.random.key(0), (num, 2))
    score = lambda x, sigma: target.smooth(sigma).score(x)  # noqa: E731
    x = jax.jit(jax.vmap(lambda x: heun(score, x, karras_sigmas(30, 20.0, 0.01))))(x)
    right = np.asarray(x)[:, 0] > 0
    assert abs(right.mean() - 0.7) < 4 * np.sqrt(0.21 / num)
    assert_allclose(np.asarray(x)[right].mean(0), [2.0, 1.0], atol=4 * 0.2 / np.sqrt(600))
    assert_allclose(np.asarray(x)[right].var(0), 0.04, rtol=0.25)


def test_churn_adds_the_noise_of_algorithm_2():
    # All is linear: the mean and the variance of each level in NumPy.
    sigmas, churn, noise, between, num = [5.0, 2.0, 0.8, 0.3], 1.2, 1.1, (0.5, 3.0), 20_000
    m, v = 2.0, 25.0
    for sigma, lower in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        gamma = min(churn / 4, np.sqrt(2) - 1) if between[0] <= sigma <= between[1] else 0.0
        raised = sigma * (1 + gamma)
        factor = heun_factor(raised, lower) if lower else VARIANCE / (VARIANCE + raised**2)
        m, v = MEAN + factor * (m - MEAN), factor**2 * (v + noise**2 * (raised**2 - sigma**2))
    x = 2.0 + 5.0 * jax.random.normal(jax.random.key(0), (num, 1))
    step = partial(heun_churn, score=gaussian_score, churn=churn, noise=noise, between=between)
    x = jax.jit(jax.vmap(lambda key, x: step(key, x=x, sigmas=jnp.array(sigmas))))(
        jax.random.split(jax.random.key(1), num), x
    )
    assert abs(np.mean(x) - m) < 4 * np.sqrt(v / num)
    assert abs(np.var(x) - v) < 4 * v * np.sqrt(2 / num)


def test_churn_at_the_last_level_and_at_its_limit():
    # One level, g at its limit sqrt(2) - 1: s^2 = 2 sigma^2.
    key, x = jax.random.key(3), jnp.array([1.0, 2.0])
    eps = jax.random.normal(jax.random.fold_in(key, 0), x.shape)
    found = heun_churn(key, gaussian_score, x, jnp.array([0.7]), churn=9.0)
    raised = 0.7 * np.sqrt(2.0)
    assert_allclose(found, heun(gaussian_score, x + 0.7 * eps, jnp.array([raised])), rtol=1e-12)


def test_no_churn_is_heun():
    x, sigmas = jnp.arange(6.0).reshape(2, 3), karras_sigmas(4, 5.0, 0.1)
    found = heun_churn(jax.random.key(0), gaussian_score, x, sigmas, churn=0.0)
    assert_allclose(found, heun(gaussian_score, x, sigmas), rtol=1e-14)


def test_the_loss_is_the_weighted_error_of_the_denoiser():
    key, x, sigma_data = jax.random.key(0), jnp.arange(6.0).reshape(2, 3), 0.8
    score = lambda x, sigma: jnp.sin(x) - x / (1 + sigma**2)  # noqa: E731
    value = denoising_lognormal(key, score, x, mean=-0.5, std=1.3, sigma_data=sigma_data)
    key_level, key_noise = jax.random.split(key)
    sigma = float(jnp.exp(-0.5 + 1.3 * jax.random.normal(key_level)))
    x_tilde = dsm.perturb(key_noise, x, sigma)
    denoised = x_tilde + sigma**2 * score(x_tilde, sigma)
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    assert_allclose(value, weight * np.sum((denoised - x) ** 2), rtol=1e-12)


def test_the_best_linear_denoiser_has_the_loss_d_at_every_level():
    num, sigma_data = 20_000, 0.6
    x = sigma_data * jax.random.normal(jax.random.key(0), (num, 3))
    score = lambda x, sigma: -x / (sigma_data**2 + sigma**2)  # noqa: E731
    loss = jax.jit(
        jax.vmap(
            lambda key, x, mean: denoising_lognormal(key, score, x, mean=mean, std=0.0, sigma_data=sigma_data),
            in_axes=(0, 0, None),
        )
    )
    for mean in (-3.0, 0.0, 2.0):
        values = np.asarray(loss(jax.random.split(jax.random.key(1), num), x, mean))
        assert abs(values.mean() - 3.0) < 4 * values.std() / np.sqrt(num)


def test_float32_stays_float32():
    x, sigmas = jnp.ones(3, jnp.float32), karras_sigmas(4, 5.0, 0.1)
    assert heun(gaussian_score, x, sigmas).dtype == jnp.float32
    assert heun_churn(jax.random.key(0), gaussian_score, x, sigmas, churn=1.0).dtype == jnp.float32
    assert denoising_lognormal(jax.random.key(0), gaussian_score, x).dtype == jnp.float32


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1, 5.0, 0.1), r"num = 1"),
        ((3, 5.0, 0.0), r"sigma_min = 0.0"),
        ((3, 0.1, 0.2), r"sigma_max = 0.1"),
        ((3, np.inf, 0.2), r"sigma_max = inf"),
        ((3, 5.0, 0.1, 0.0), r"rho = 0.0"),
    ],
)
def test_a_bad_ladder_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        karras_sigmas(*arguments)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sigmas": jnp.array([0.1, 1.0])}, r"sigmas\[1\] = 1.0 is not below"),
        ({"sigmas": jnp.array([])}, r"sigmas is empty"),
        ({"x": jnp.array([0.0, jnp.nan])}, r"x\[1\] = nan"),
        ({"score": lambda x, sigma: x[:1]}, r"score\(x\) has shape \(1,\)"),
        ({"churn": -1.0}, r"churn = -1.0"),
        ({"noise": np.inf}, r"noise = inf"),
        ({"between": (2.0, 1.0)}, r"between = \(2.0, 1.0\)"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    arguments = {"score": gaussian_score, "x": jnp.ones(2), "sigmas": jnp.array([1.0, 0.1]), "churn": 1.0, **changes}
    with pytest.raises(ValueError, match=message):
        heun_churn(jax.random.key(0), **arguments)
    if changes.keys() <= {"sigmas", "x", "score"}:
        del arguments["churn"]
        with pytest.raises(ValueError, match=message):
            heun(**arguments)


@pytest.mark.parametrize(
    "changes, message", [({"std": -1.0}, r"std = -1.0"), ({"sigma_data": 0.0}, r"sigma_data = 0.0")]
)
def test_bad_numbers_of_the_loss_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        denoising_lognormal(jax.random.key(0), gaussian_score, jnp.ones(2), **changes)


def test_a_path_is_the_same_alone_and_under_jit_and_vmap():
    x, sigmas = jnp.arange(6.0).reshape(3, 2), karras_sigmas(4, 5.0, 0.1)
    together = jax.jit(jax.vmap(lambda x: heun(gaussian_score, x, sigmas)))(x)
    assert_allclose(together[1], heun(gaussian_score, x[1], sigmas), rtol=1e-13)
    assert_array_equal(together.shape, x.shape)

"""Reverse SDEs on Gaussians: every step is linear there, so its mean and variance are known, and so is their limit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dsm
from dsm.reverse import at_time, predictor_corrector, prior, reverse_sde
from dsm.sde import VE, VP, SubVP

SDES = [VE(0.05, 20.0), VP(), SubVP()]
TARGET = dsm.gaussian([1.0, -0.5], np.diag([0.5, 0.1]))
MEAN, VARIANCE = np.array([1.0, -0.5]), np.array([0.5, 0.1])
PREDICTORS = ["euler_maruyama", "reverse_diffusion", "ancestral"]
T_MIN = 1e-2


def target_score(x, sigma):
    return TARGET.smooth(sigma).score(x)


def expected(sde, num_steps, predictor, corrector_steps, r):
    """Mean and variance at the end, step by step in NumPy."""
    # x -> c (x - alpha m) + alpha' m' + noise, elementwise; s = -(x - alpha m) / (alpha^2 v + std^2).
    times = 1 - (1 - T_MIN) * np.arange(num_steps + 1) / num_steps
    one = jnp.ones(())
    levels = jax.vmap(lambda t: (*sde.marginal(t), sde.drift(one, t), sde.diffusion(t)))(jnp.asarray(times))
    levels = np.stack(levels, axis=1)
    mean, variance = np.zeros(2), np.full(2, levels[0, 1] ** 2)
    for i in range(num_steps):
        (alpha, std, f, g), (alpha_2, std_2, _, _) = levels[i], levels[i + 1]
        spread, s = alpha**2 * VARIANCE + std**2, -(mean - alpha * MEAN) / (alpha**2 * VARIANCE + std**2)
        a, b2 = alpha / alpha_2, std**2 - (alpha / alpha_2) ** 2 * std_2**2
        if predictor == "euler_maruyama":
            dt = times[i] - times[i + 1]
            mean, factor, noise = mean - dt * (f * mean - g**2 * s), 1 - dt * (f + g**2 / spread), g**2 * dt
        elif predictor == "reverse_diffusion":
            mean, factor, noise = (2 - a) * mean + b2 * s, 2 - a - b2 / spread, b2
        else:
            mean, factor, noise = (mean + b2 * s) / a, (1 - b2 / spread) / a, b2 * std_2**2 / std**2
        variance = factor**2 * variance + noise
        h, spread = 2 * (r * std_2) ** 2, alpha_2**2 * VARIANCE + std_2**2
        for _ in range(corrector_steps):
            mean = mean - h * (mean - alpha_2 * MEAN) / spread
            variance = (1 - h / spread) ** 2 * variance + 2 * h
    alpha, std, _, _ = levels[-1]
    spread = alpha**2 * VARIANCE + std**2
    factor = alpha * VARIANCE / spread
    return MEAN + factor * (mean - alpha * MEAN), factor**2 * variance


@partial(jax.jit, static_argnames=("num_steps", "predictor", "corrector_steps"))
def sample(keys, sde, num_steps, predictor, corrector_steps, r):
    score_t = at_time(target_score, sde)

    def one(key):
        key_start, key_run = jax.random.split(key)
        x, arguments = prior(key_start, sde, (2,)), {"num_steps": num_steps, "t_min": T_MIN}
        if predictor == "euler_maruyama" and corrector_steps == 0:
            return reverse_sde(key_run, score_t, x, sde, **arguments)
        return predictor_corrector(
            key_run,
            score_t,
            x,
            sde,
            predictor=predictor,
            corrector_steps=corrector_steps,
            signal_to_noise=r,
            **arguments,
        )

    return jax.vmap(one)(keys)


@pytest.mark.parametrize(
    "sde, predictor, corrector_steps",
    [
        (SDES[0], "reverse_diffusion", 1),
        (SDES[1], "ancestral", 2),
        (SDES[2], "euler_maruyama", 0),
        pytest.param(SDES[2], "reverse_diffusion", 1, marks=pytest.mark.slow),
        *(pytest.param(sde, "euler_maruyama", 0, marks=pytest.mark.slow) for sde in SDES[:2]),
    ],
    ids=lambda a: type(a).__name__ if isinstance(a, tuple) else str(a),
)
def test_the_steps_are_those_of_their_equations(sde, predictor, corrector_steps):
    num, steps, r = 4000, 40, 0.2
    x = np.asarray(sample(jax.random.split(jax.random.key(0), num), sde, steps, predictor, corrector_steps, r))
    mean, variance = expected(sde, steps, predictor, corrector_steps, r)
    assert np.all(np.abs(x.mean(0) - mean) < 4 * np.sqrt(variance / num))
    assert np.all(np.abs(x.var(0) - variance) < 4 * variance * np.sqrt(2 / num))
    assert abs(np.corrcoef(x.T)[0, 1]) < 4 / np.sqrt(num)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_many_steps_lead_to_the_data_but_for_the_first_and_the_last(sde, predictor):
    # Of the limit, exact: the ODE of the moments keeps what the start lacks, alpha(1) m, contracted; Tweedie's formula
    # makes v^2 / (v + sigma^2) of v, sigma = std / alpha at t_min.
    alpha, std = (float(a) for a in sde.marginal(jnp.array(T_MIN)))
    limit = VARIANCE**2 / (VARIANCE + (std / alpha) ** 2)
    coarse, fine = (expected(sde, steps, predictor, 0, 0.1) for steps in (1000, 2000))
    assert_allclose(fine[0], MEAN, atol=0.01)
    assert_allclose(fine[1], limit, rtol=0.02)
    # Of first order: twice the steps, half the bias.
    assert np.all(np.abs(2 * fine[1] - coarse[1] - limit) < 0.25 * np.abs(coarse[1] - limit) + 2e-3 * limit)


@pytest.mark.parametrize(
    "sde",
    [SDES[0], *(pytest.param(sde, marks=pytest.mark.slow) for sde in SDES[1:])],
    ids=lambda sde: type(sde).__name__,
)
def test_the_data_come_back_within_their_errors(sde):
    # 300 steps: a bias below a standard error of so many draws.
    num = 600
    x = np.asarray(sample(jax.random.split(jax.random.key(5), num), sde, 300, "ancestral", 1, 0.1))
    alpha, std = (float(a) for a in sde.marginal(jnp.array(T_MIN)))
    variance = VARIANCE**2 / (VARIANCE + (std / alpha) ** 2)
    assert np.all(np.abs(x.mean(0) - MEAN) < 4 * np.sqrt(variance / num))
    assert np.all(np.abs(x.var(0) - variance) < 4 * variance * np.sqrt(2 / num))


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_a_score_over_sigma_is_that_of_the_sde_at_every_time(sde):
    score_t = at_time(target_score, sde)
    for t in (0.05, 0.4, 1.0):
        alpha, std = (float(a) for a in sde.marginal(jnp.array(t)))
        law = dsm.gaussian(alpha * MEAN, np.diag(alpha**2 * VARIANCE + std**2))
        x = jnp.array([0.3, 2.0])
        assert_allclose(score_t(x, t), law.score(x), rtol=1e-9)


def test_a_label_passes_through():
    score_t = at_time(lambda x, sigma, label: x * label, VP())
    x, alpha = jnp.ones(2), float(VP().marginal(jnp.array(0.3))[0])
    assert_allclose(score_t(x, 0.3, 3), 3 * x / alpha**2, rtol=1e-12)


def test_the_prior_is_the_noise_at_time_one():
    x = prior(jax.random.key(0), VE(0.1, 7.0), (100, 100))
    assert abs(float(x.std()) - 7.0) < 4 * 7.0 * np.sqrt(0.5 / 10_000)
    assert prior(jax.random.key(0), VP(), (2, 3), jnp.float32).dtype == jnp.float32


def test_the_step_of_song_from_norms():
    # One predictor step and one of the corrector, by hand, on examples of any shape.
    sde, key, x, r = VP(), jax.random.key(1), jnp.arange(6.0).reshape(2, 3) - 2.0, 0.3
    score_t = lambda x, t: -x * (1 + t)  # noqa: E731
    arguments = {"num_steps": 1, "t_min": 0.5, "signal_to_noise": r, "corrector_scale": "norms"}
    found = predictor_corrector(key, score_t, x, sde, **arguments)
    key_noise, key_corrector = jax.random.split(jax.random.fold_in(key, 0))
    (alpha, std), (alpha_2, std_2) = sde.marginal(jnp.array(1.0)), sde.marginal(jnp.array(0.5))
    a, b2 = alpha / alpha_2, std**2 - (alpha / alpha_2 * std_2) ** 2
    x = (2 - a) * x + b2 * score_t(x, 1.0) + jnp.sqrt(b2) * jax.random.normal(key_noise, x.shape)
    s = score_t(x, 0.5)
    h = 2 * r**2 * 6 / jnp.sum(s**2)
    x = x + h * s + jnp.sqrt(2 * h) * jax.random.normal(jax.random.fold_in(key_corrector, 0), x.shape)
    assert_allclose(found, (x + std_2**2 * score_t(x, 0.5)) / alpha_2, rtol=1e-10)


def test_without_correction_it_is_the_reverse_sde():
    x, sde = jnp.ones(2), SubVP()
    run = {"score_t": at_time(target_score, sde), "x": x, "sde": sde, "num_steps": 3, "t_min": 0.1}
    found = predictor_corrector(jax.random.key(0), predictor="euler_maruyama", corrector_steps=0, **run)
    assert_allclose(found, reverse_sde(jax.random.key(0), **run), rtol=1e-13)


def test_float32_stays_float32_and_finite_over_many_steps():
    for sde in (SDES[0], SDES[2]):
        score_t = at_time(lambda x, sigma: -x / (1 + sigma**2), sde)
        x = jax.jit(
            lambda key, score_t=score_t, sde=sde: predictor_corrector(
                key, score_t, jnp.ones(2, jnp.float32), sde, num_steps=4000, t_min=1e-5, predictor="ancestral"
            )
        )(jax.random.key(0))
        assert x.dtype == jnp.float32
        assert np.isfinite(x).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_steps": 0}, r"num_steps = 0"),
        ({"t_min": 0.0}, r"t_min = 0.0"),
        ({"t_min": 1.0}, r"t_min = 1.0"),
        ({"x": jnp.array([0.0, jnp.inf])}, r"x\[1\] = inf"),
        ({"score_t": lambda x, t: x[:1]}, r"score_t\(x\) has shape \(1,\)"),
        ({"sde": VP(3.0, 1.0)}, r"beta_min = 3.0"),
        ({"predictor": "none"}, r"predictor = 'none': they are 'reverse_diffusion'"),
        ({"corrector_scale": "both"}, r"corrector_scale = 'both'"),
        ({"corrector_steps": -1}, r"corrector_steps = -1"),
        ({"signal_to_noise": 0.0}, r"signal_to_noise = 0.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    arguments = {"score_t": lambda x, t: -x, "x": jnp.ones(2), "sde": VP(), "num_steps": 2, **changes}
    with pytest.raises(ValueError, match=message):
        predictor_corrector(jax.random.key(0), **arguments)
    if changes.keys() <= {"num_steps", "t_min", "x", "score_t", "sde"}:
        with pytest.raises(ValueError, match=message):
            reverse_sde(jax.random.key(0), **arguments)

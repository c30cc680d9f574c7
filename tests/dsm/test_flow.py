"""Likelihood through the probability flow on Gaussians, where the flow is known, and on a mixture."""

import importlib
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dsm
from dsm import flow
from dsm.reverse import at_time
from dsm.sde import VE, VP, SubVP

SDES = [VE(0.05, 20.0), VP(), SubVP()]
T_MIN, TOLERANCE = 1e-3, 1e-7
MEAN = np.array([1.0, -0.5, 0.3])
FACTOR = np.array([[1.0, 0.0, 0.0], [0.7, 0.5, 0.0], [-0.4, 0.3, 0.6]])
COVARIANCE = FACTOR @ FACTOR.T
GAUSSIAN = dsm.gaussian(MEAN, COVARIANCE)
X = jnp.array([0.3, -1.0, 1.2])


def gaussian_score(x, sigma):
    return GAUSSIAN.smooth(sigma).score(x)


def marginal(sde, t):
    return tuple(float(a) for a in sde.marginal(jnp.array(t)))


def exact_flow(sde, x, t_from, t_to):
    """x at t_to and the log det of the map: along each axis (x - alpha m) / sqrt(alpha^2 v + std^2) stays."""
    variances, axes = np.linalg.eigh(COVARIANCE)
    (alpha, std), (alpha_2, std_2) = marginal(sde, t_from), marginal(sde, t_to)
    stretch = np.sqrt((alpha_2**2 * variances + std_2**2) / (alpha**2 * variances + std**2))
    x_2 = axes @ (stretch * (axes.T @ (np.asarray(x) - alpha * MEAN))) + alpha_2 * MEAN
    return x_2, np.log(stretch).sum()


def exact_log_likelihood(sde, x):
    """That of the model: the exact flow from N(0, std(1)^2 I)."""
    alpha, std = marginal(sde, T_MIN)[0], marginal(sde, 1.0)[1]
    x_1, log_det = exact_flow(sde, alpha * np.asarray(x), T_MIN, 1.0)
    return -0.5 * np.sum((x_1 / std) ** 2) - 3 * np.log(std * np.sqrt(2 * np.pi)) + log_det + 3 * np.log(alpha)


def solve(score, sde, x, t_from, t_to, **options):
    return flow.probability_flow(at_time(score, sde), x, sde, t_from=t_from, t_to=t_to, **options)


@pytest.mark.parametrize("sde", SDES[2:], ids=lambda sde: type(sde).__name__)
def test_the_flow_of_a_gaussian_is_known_and_goes_both_ways(sde):
    there = jax.jit(partial(solve, gaussian_score, sde, rtol=TOLERANCE, atol=TOLERANCE))
    x_1 = there(X, T_MIN, 1.0)
    assert_allclose(x_1, exact_flow(sde, X, T_MIN, 1.0)[0], rtol=1e-5, atol=1e-5)
    assert_allclose(there(x_1, 1.0, T_MIN), X, atol=1e-5)


@pytest.mark.slow
def test_the_flow_of_a_mixture_goes_there_and_back():
    target, sde = dsm.gaussian_mixture([0.3, 0.7], [[-2.0, 0.0], [2.0, 1.0]], 0.04), VP()

    def score(x, sigma):
        return target.smooth(sigma).score(x)

    x = target.sample(jax.random.key(0), 20)
    walk = jax.jit(
        jax.vmap(partial(solve, score, sde, rtol=TOLERANCE, atol=TOLERANCE), in_axes=(0, None, None)),
    )
    noise = walk(x, T_MIN, 1.0)
    assert float(jnp.abs(noise).max()) < 5.0
    assert_allclose(walk(noise, 1.0, T_MIN), x, atol=1e-4)


def likelihood(score, sde, num_probes, key, x, rtol=TOLERANCE, atol=TOLERANCE):
    score_t = at_time(score, sde)
    return flow.log_likelihood(key, score_t, x, sde, num_probes=num_probes, t_min=T_MIN, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    "sde",
    [SDES[0], *(pytest.param(sde, marks=pytest.mark.slow) for sde in SDES[1:])],
    ids=lambda sde: type(sde).__name__,
)
def test_the_likelihood_of_a_gaussian_is_exact(sde):
    found = jax.jit(partial(likelihood, gaussian_score, sde, None, None))(X)
    assert_allclose(found.value, exact_log_likelihood(sde, X), atol=2e-5)
    assert found.standard_error == 0.0
    # The model is near the data, smoothed by std / alpha: what is left is the start, N(0, std(1)^2 I).
    alpha, std = marginal(sde, T_MIN)
    lack = 0.1 if isinstance(sde, VE) else 5e-3
    assert_allclose(found.value, GAUSSIAN.smooth(std / alpha).logdensity(X), atol=lack)


@pytest.mark.slow
def test_the_likelihood_of_a_mixture_is_that_of_its_smoothed_density():
    target, sde = dsm.gaussian_mixture([0.3, 0.7], [[-2.0, 0.0], [2.0, 1.0]], [0.04, 0.3]), VP()

    def score(x, sigma):
        return target.smooth(sigma).score(x)

    x = target.sample(jax.random.key(1), 10)
    found = jax.jit(jax.vmap(partial(likelihood, score, sde, None, None)))(x).value
    alpha, std = marginal(sde, T_MIN)
    # alpha(1) = 0.0066 of the data is missing from the start.
    assert_allclose(found, jax.vmap(target.smooth(std / alpha).logdensity)(x), atol=0.02)


@pytest.mark.slow
def test_probes_are_unbiased_and_their_error_is_known():
    sde, num = VP(), 400
    one = partial(likelihood, gaussian_score, sde, 4, rtol=1e-5, atol=1e-5)
    found = jax.jit(jax.vmap(one, in_axes=(0, None)))(jax.random.split(jax.random.key(0), num), X)
    values, squares = np.asarray(found.value), np.asarray(found.standard_error) ** 2
    spread = values.std(ddof=1)
    assert spread > 0.1
    assert abs(values.mean() - exact_log_likelihood(sde, X)) < 4 * spread / np.sqrt(num)
    # Squared, the standard error is unbiased for the variance; that of the variance itself for nearly Gaussian values.
    assert abs(squares.mean() - spread**2) < 4 * (squares.std() / np.sqrt(num) + spread**2 * np.sqrt(2 / num))


@pytest.mark.slow
def test_signs_are_exact_where_the_score_does_not_mix_entries():
    # One probe, of any shape: div is exact, and the standard error unknown.
    x, sde = jnp.arange(6.0).reshape(2, 3) / 4, SubVP()

    def score(x, sigma):
        return -x / (0.5 + sigma**2)

    found = jax.jit(partial(likelihood, score, sde, 1, rtol=1e-5, atol=1e-5))(jax.random.key(0), x)
    alpha, std = marginal(sde, T_MIN)
    law = dsm.gaussian(np.zeros(6), 0.5 + (std / alpha) ** 2)
    assert_allclose(found.value, law.logdensity(x.reshape(-1)), atol=2e-3)
    assert np.isnan(found.standard_error)


@pytest.mark.slow
def test_float32_stays_float32_and_a_path_too_long_is_nan():
    x = X.astype(jnp.float32)
    target = dsm.gaussian(jnp.asarray(MEAN, jnp.float32), COVARIANCE)
    score = at_time(lambda x, sigma: target.smooth(sigma).score(x), VP())
    found = jax.jit(lambda x: flow.log_likelihood(None, score, x, VP(), num_probes=None, t_min=T_MIN))(x)
    assert found.value.dtype == found.standard_error.dtype == jnp.float32
    assert_allclose(found.value, exact_log_likelihood(VP(), X), atol=1e-2)
    x = jax.jit(lambda x: flow.probability_flow(score, x, VP(), t_from=1.0, t_to=T_MIN, max_steps=3))(x)
    assert x.dtype == jnp.float32
    assert np.isnan(x).all()


@pytest.mark.slow
def test_the_likelihood_has_a_gradient_in_the_parameters():
    sde = VP()
    x = jnp.array([0.7, 0.0])

    def value(v):
        score = lambda x, sigma: -x / (v + sigma**2)  # noqa: E731
        return likelihood(score, sde, None, None, x, rtol=1e-6, atol=1e-6).value

    # log N(x; 0, v), but for the start and the smoothing: slope x^2 / (2 v^2) - 1 / v for two entries.
    assert_allclose(jax.jit(jax.grad(value))(0.5), 0.7**2 / (2 * 0.25) - 2.0, atol=5e-3)


def test_bits_per_dimension_of_a_uniform_image():
    # All 256 levels alike: 8 bits, in whatever units.
    step, size = 0.03, 10
    logp = jnp.asarray(-size * np.log(256 * step))
    assert_allclose(flow.bits_per_dimension(logp, size, step), 8.0, rtol=1e-13)
    steps = jnp.linspace(0.01, 0.3, size)
    logp = -jnp.sum(jnp.log(256 * steps))[None]
    assert_allclose(flow.bits_per_dimension(logp, size, steps), [8.0], rtol=1e-13)
    # Pixels (k + u) / 256 on [0, 1): -log p / (D log 2) + log2 256.
    assert_allclose(flow.bits_per_dimension(jnp.array(7.0), 5, 1 / 256), -7 / (5 * np.log(2)) + 8, rtol=1e-13)


def test_without_diffrax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    monkeypatch.delitem(sys.modules, "dsm.flow")
    with pytest.raises(ImportError, match=r"pip install 'dsm-dp\[ode\]'"):
        importlib.import_module("dsm.flow")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": jnp.array([0.0, jnp.nan])}, r"x\[1\] = nan"),
        ({"score_t": lambda x, t: x[:1]}, r"score_t\(x\) has shape \(1,\)"),
        ({"sde": VE(0.0, 1.0)}, r"sigma_min = 0.0"),
        ({"rtol": 0.0}, r"rtol = 0.0"),
        ({"atol": -1.0}, r"atol = -1.0"),
        ({"max_steps": 0}, r"max_steps = 0"),
        ({"t_from": 1.5}, r"t_from = 1.5"),
        ({"t_to": -0.5}, r"t_to = -0.5"),
        ({"t_min": 0.0}, r"t_min = 0.0"),
        ({"num_probes": 0}, r"num_probes = 0"),
        ({"key": None}, r"key = None"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    arguments = {"score_t": lambda x, t: -x, "x": jnp.ones(2), "sde": VP()}
    if not changes.keys() & {"t_from", "t_to"}:
        with pytest.raises(ValueError, match=message):
            flow.log_likelihood(**{"key": jax.random.key(0), **arguments, **changes})
    if not changes.keys() & {"t_min", "num_probes", "key"}:
        with pytest.raises(ValueError, match=message):
            flow.probability_flow(**{"t_from": 1.0, "t_to": 0.1, **arguments, **changes})


@pytest.mark.parametrize(
    "size, step, message",
    [
        (0, 1.0, r"size = 0"),
        (3, 0.0, r"step = 0.0"),
        (3, jnp.ones(2), r"step has 2 entries: it must have 1 or size = 3"),
    ],
)
def test_bad_numbers_of_bits_are_refused_by_name(size, step, message):
    with pytest.raises(ValueError, match=message):
        flow.bits_per_dimension(jnp.array(1.0), size, step)

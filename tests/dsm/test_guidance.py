"""Guidance on Gaussian classes, where the guided score is that of a known Gaussian, and inpainting of Gaussians."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dsm
from dsm.edm import heun, karras_sigmas
from dsm.guidance import drop_label, guided, inpaint

NUM_CLASSES = 2
MEANS = jnp.array([[2.0, 0.0], [-2.0, 1.0], [0.0, 0.0]])
"""The last one that of no class."""
VARIANCES = jnp.array([0.3, 0.5, 4.0])


def class_score(x, sigma, label):
    return -(x - MEANS[label]) / (VARIANCES[label] + sigma**2)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_weight_one_is_the_class_and_weight_zero_is_all(label):
    x, sigma = jnp.array([0.5, -1.0]), 0.7
    assert_allclose(guided(class_score, 1.0, 2)(x, sigma, label), class_score(x, sigma, label), rtol=1e-13)
    assert_allclose(guided(class_score, 0.0, 2)(x, sigma, label), class_score(x, sigma, 2), rtol=1e-13)
    # Ho and Salimans: (1 + w) s(label) - w s(none).
    w = 1.7
    expected = (1 + w) * class_score(x, sigma, label) - w * class_score(x, sigma, 2)
    assert_allclose(guided(class_score, 1 + w, 2)(x, sigma, label), expected, rtol=1e-12)


@pytest.mark.parametrize("w", [0.5, 3.0])
def test_the_guided_score_of_gaussians_is_that_of_a_gaussian(w):
    # p p(label | x)^w = p(x | label)^w p(x)^(1 - w): precisions add up with these weights.
    sigma, label = 0.4, 0
    precisions = 1 / (np.asarray(VARIANCES) + sigma**2)
    precision = w * precisions[label] + (1 - w) * precisions[2]
    mean = (w * precisions[label] * MEANS[label] + (1 - w) * precisions[2] * MEANS[2]) / precision
    law = dsm.gaussian(mean, 1 / precision)
    for x in jnp.array([[0.0, 0.0], [3.0, -2.0]]):
        assert_allclose(guided(class_score, w, NUM_CLASSES)(x, sigma, label), law.score(x), rtol=1e-11, atol=1e-12)


def test_samples_of_a_class_are_of_that_class_under_jit_and_vmap():
    num, sigmas = 2000, karras_sigmas(30, 20.0, 0.01)

    @jax.jit
    def sample(x, labels, weight):
        score = guided(class_score, weight, NUM_CLASSES)
        return jax.vmap(lambda x, label: heun(lambda x, sigma: score(x, sigma, label), x, sigmas))(x, labels)

    labels = jnp.arange(num) % 2
    x = np.asarray(sample(20.0 * jax.random.normal(jax.random.key(0), (num, 2)), labels, 1.0))
    for label in (0, 1):
        found, variance = x[label::2], float(VARIANCES[label])
        # The start lacks the mean of the data: at sigma = 20 a shift of m sqrt(v) / 20, small beside the error.
        assert np.all(np.abs(found.mean(0) - MEANS[label]) < 4 * np.sqrt(variance / 1000) + 0.05)
        assert_allclose(found.var(0), variance, rtol=4 * np.sqrt(2 / 1000))


def test_labels_are_dropped_at_their_rate():
    num, rate = 10_000, 0.15
    labels = jnp.arange(num, dtype=jnp.int32) % 10
    drop = jax.jit(jax.vmap(partial(drop_label, num_classes=10, rate=rate)))
    found = drop(jax.random.split(jax.random.key(0), num), labels)
    assert found.dtype == jnp.int32
    dropped = np.asarray(found) == 10
    assert abs(dropped.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / num)
    assert_array_equal(found[~dropped], labels[~dropped])
    assert drop_label(jax.random.key(0), 3, 10, 1.0) == 10
    assert drop_label(jax.random.key(0), 3, 10, 0.0) == 3


CORRELATION, KNOWN = 0.8, 1.5
COVARIANCE = np.array([[1.0, CORRELATION], [CORRELATION, 1.0]])
CORRELATED = dsm.gaussian([0.0, 0.0], COVARIANCE)


def correlated_score(x, sigma):
    return CORRELATED.smooth(sigma).score(x)


def inpainted_moments(sigmas, resamples, mask=(True, False)):
    """Mean and covariance of both entries before they are put right, step by step in NumPy: all is linear."""
    identity, fixed = np.eye(2), np.diag(np.asarray(mask, float))
    known, free = fixed @ [KNOWN, 0.0], identity - fixed
    mean, covariance = known, sigmas[0] ** 2 * identity
    for sigma, lower in itertools.pairwise(sigmas):
        squared = sigma**2 - lower**2
        step = free @ (identity - squared * np.linalg.inv(COVARIANCE + sigma**2 * identity))
        for j in range(resamples):
            covariance = covariance + (squared * identity if j else 0.0)
            mean = step @ mean + known
            covariance = step @ covariance @ step.T + lower**2 * fixed + squared * free
    last = identity - sigmas[-1] ** 2 * np.linalg.inv(COVARIANCE + sigmas[-1] ** 2 * identity)
    return last @ mean, last @ covariance @ last


def of_the_unknown(moments):
    return moments[0][1], moments[1][1, 1]


@partial(jax.jit, static_argnames="resamples")
def inpaint_many(keys, known, mask, sigmas, resamples):
    return jax.vmap(lambda key: inpaint(key, correlated_score, known, mask, sigmas, resamples=resamples))(keys)


@pytest.mark.parametrize("resamples", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_inpainting_takes_the_steps_it_says(resamples):
    # nan where nothing is known: it is not looked at.
    num, sigmas = 4000, karras_sigmas(20, 10.0, 0.01)
    mask = jnp.array([True, False])
    x = inpaint_many(jax.random.split(jax.random.key(0), num), jnp.array([KNOWN, jnp.nan]), mask, sigmas, resamples)
    assert_array_equal(x[:, 0], KNOWN)
    mean, variance = of_the_unknown(inpainted_moments(np.asarray(sigmas), resamples))
    assert abs(np.mean(x[:, 1]) - mean) < 4 * np.sqrt(variance / num)
    assert abs(np.var(x[:, 1]) - variance) < 4 * variance * np.sqrt(2 / num)


def test_many_levels_and_resamples_lead_to_the_conditional():
    mean, variance = CORRELATION * KNOWN, 1 - CORRELATION**2
    ladder = lambda num, smallest: np.asarray(karras_sigmas(num, 10.0, smallest))  # noqa: E731
    assert_allclose(of_the_unknown(inpainted_moments(ladder(200, 0.01), 200)), [mean, variance], rtol=0.02)
    # The numbers of the docstring.
    found = [of_the_unknown(inpainted_moments(ladder(60, 0.01), resamples)) for resamples in (1, 4, 10, 40)]
    assert_allclose(found, [(0.73, 0.56), (1.06, 0.40), (1.15, 0.38), (1.19, 0.36)], atol=0.006)


def test_all_known_is_returned_and_nothing_known_is_a_sample():
    num, sigmas, x = 4000, karras_sigmas(20, 10.0, 0.01), jnp.array([KNOWN, -2.0])
    keys = jax.random.split(jax.random.key(0), num)
    assert np.all(inpaint_many(keys, x, jnp.array([True, True]), sigmas, 1) == x[None])
    found = inpaint_many(keys, x, jnp.array([False, False]), sigmas, 1)
    _, covariance = inpainted_moments(np.asarray(sigmas), 1, (False, False))
    # Var of an entry of the sample covariance: (C_ij^2 + C_ii C_jj) / n.
    variances = np.diag(covariance)
    errors = np.sqrt((covariance**2 + np.outer(variances, variances)) / num)
    assert np.all(np.abs(np.cov(found.T) - covariance) < 4 * errors)
    assert np.all(np.abs(found.mean(0)) < 4 * np.sqrt(variances / num))


def test_float32_stays_float32():
    x = jnp.ones((2, 3), jnp.float32)
    sigmas = jnp.array([1.0, 0.1])
    score = lambda x, sigma: -x  # noqa: E731
    assert inpaint(jax.random.key(0), score, x, x > 2.0, sigmas, resamples=2).dtype == jnp.float32
    guide = guided(lambda x, sigma, label: -x * label, 2.0, 3)
    assert guide(x, jnp.float32(1.0), 1).dtype == jnp.float32


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: guided(class_score, 1.0, 0), r"num_classes = 0"),
        (lambda: guided(class_score, np.inf, 2), r"weight = inf"),
        (lambda: guided(class_score, 1.0, 2)(jnp.ones(2), 1.0, 3), r"label = 3: it must lie in 0..2"),
        (lambda: guided(class_score, 1.0, 2)(jnp.ones(2), 1.0, -1), r"label = -1"),
        (lambda: guided(lambda x, sigma, label: x[:1], 1.0, 2)(jnp.ones(2), 1.0, 1), r"score\(x\) has shape \(1,\)"),
        (lambda: drop_label(jax.random.key(0), 1, 2, 1.5), r"rate = 1.5"),
        (lambda: drop_label(jax.random.key(0), 4, 2, 0.5), r"label = 4"),
        (lambda: drop_label(jax.random.key(0), 0, 0, 0.5), r"num_classes = 0"),
    ],
)
def test_bad_arguments_of_guidance_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mask": jnp.array([True])}, r"mask has shape \(1,\), but known has \(2,\)"),
        ({"known": jnp.array([jnp.nan, 0.0])}, r"known\[0\] = nan"),
        ({"sigmas": jnp.array([0.1, 1.0])}, r"sigmas\[1\] = 1.0 is not below"),
        ({"resamples": 0}, r"resamples = 0"),
        ({"score": lambda x, sigma: x[:1]}, r"score\(x\) has shape \(1,\)"),
    ],
)
def test_bad_arguments_of_inpainting_are_refused_by_name(changes, message):
    arguments = {
        "score": correlated_score,
        "known": jnp.ones(2),
        "mask": jnp.array([True, False]),
        "sigmas": jnp.array([1.0, 0.1]),
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        inpaint(jax.random.key(0), **arguments)

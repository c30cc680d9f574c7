"""Bits per dimension of images: a model whose density is known, and the Gaussian beside it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments import data, images_likelihood, images_model, record
from experiments.images_model import Sampling

pytest.importorskip("diffrax")

HOW = Sampling("heun", 4, 80.0, 0.02, 0.0, None)
NUM = 12


@pytest.fixture(scope="module")
def built():
    split = data.digits()
    model = images_model.build(
        "mlp", split, data.scaling(split), width=8, num_blocks=1, classes=False, dequantised=True, dtype=None
    )
    return split, model, jax.jit(model.init)(jax.random.key(0))


@pytest.mark.slow
def test_a_network_before_training_is_the_gaussian_of_the_images(built):
    # Its score is that of N(0, C + sigma^2 I) at every sigma, so its density is that of the Gaussian with the noise
    # sigma_min; the flow starts from N(0, sigma_max^2 I) in place of N(0, C + sigma_max^2 I).
    split, model, params = built
    table = images_likelihood.bits(record.Clock(), jax.random.key(1), params, model, HOW, split, NUM)
    network, gaussian = table["score network"], table["one Gaussian"]
    # The two differ by less than what probes leave unknown, and the tolerances of the solver.
    assert abs(network["mean"] - gaussian["mean"]) < 4 * network["hutchinson"] + 0.02
    assert 0 < network["hutchinson"] < network["standard_error"]
    # The density of N(0, 0.02^2 I) at its middle.
    least = -(math.log(1 / (0.02 * math.sqrt(2 * math.pi))) + math.log(model.scaling.grey_step)) / math.log(2)
    assert table["least with noise of 0.02"]["mean"] == pytest.approx(least) and least < network["mean"]
    assert table["uniform"] == {"mean": math.log2(17), "standard_error": 0.0}


def test_the_gaussian_is_that_of_the_dequantised_pixels(built):
    split, model, _ = built
    pixels = np.asarray(data.dequantise(jax.random.key(0), jnp.asarray(split.heldout[:5], jnp.float32)), float)
    # By hand, in pixels: then to units of x.
    noise = 1 / 12 + (0.02 * model.scaling.std) ** 2
    mean, covariance = split.train.mean(0) + 0.5, np.cov(split.train.T.astype(float)) + noise * np.eye(64)
    off = pixels - mean
    logp = -0.5 * (np.einsum("ni,ni->n", off, np.linalg.solve(covariance, off.T).T) + 64 * np.log(2 * np.pi))
    logp -= 0.5 * np.linalg.slogdet(covariance)[1]
    assert_allclose(
        images_likelihood.gaussian(split, model, HOW, pixels), logp + 64 * np.log(model.scaling.std), rtol=1e-9
    )


def test_a_uniform_density_costs_the_bits_of_its_levels(built):
    # p = 1 / 17 for each dequantised pixel is p = std / 17 for each x.
    split, model, _ = built
    logp = np.full(3, 64 * math.log(model.scaling.std / 17))
    assert_allclose(images_likelihood._in_bits(logp, model, split), math.log2(17), rtol=1e-6)


@pytest.mark.slow
def test_what_is_not_solved_is_no_number(built, monkeypatch):
    split, model, params = built
    from dsm import flow

    solve = flow.log_likelihood
    monkeypatch.setattr(flow, "log_likelihood", lambda *given, **how: solve(*given, **how, max_steps=2))
    with pytest.raises(ValueError, match="flow was not solved; --likelihood 0 --resume leaves it out"):
        images_likelihood.bits(record.Clock(), jax.random.key(1), params, model, HOW, split, 2)

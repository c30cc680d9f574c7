"""How many bits does a held-out image cost? A score network's likelihood by its probability flow, beside a Gaussian's.

Pixels are spread over their step of grey (`experiments.data.dequantise`), the same way for both densities, so that bits
per dimension bound from above what the images themselves would cost.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from rich.table import Table
from scipy.stats import multivariate_normal

import dsm
from dsm import reverse
from experiments import record
from experiments.data import Split, dequantise
from experiments.images_model import Model, Sampling
from experiments.quality import MODEL, single_threaded

PROBES = 4
"""Of Hutchinson's estimate, for each image."""
TILE = 50
"""Images whose flow is solved at a time: all take as many steps as the slowest of them."""
T_MIN = 1e-5
"""Where the flow of an image starts: sigma is sigma_min there, but for 1e-4 of it."""


def bits(
    clock: record.Clock, key: Key[Array, ""], params: Any, model: Model, how: Sampling, split: Split, num: int
) -> dict[str, dict[str, float]]:
    """Return bits per dimension of `num` held-out images at most, with standard errors, of the network and of others.

    For the network "hutchinson" is the part of the standard error that comes from the random probes; the rest is that
    of images differing. "uniform" gives every level of grey the same probability. Both densities keep noise of scale
    sigma_min (the network's as far as its score is right); none that does can be above (2 pi sigma_min^2)^(-D/2), so
    that there is a least number of bits: train and ask with a smaller sigma_min where it matters.
    """
    key_pixels, key_probes, key_images = jax.random.split(key, 3)
    chosen = jax.random.permutation(key_images, len(split.heldout))[:num]
    heldout = jnp.asarray(split.heldout[np.asarray(chosen)], jnp.float32)
    pixels = jax.jit(dequantise)(key_pixels, heldout)
    keys = jax.random.split(key_probes, len(heldout))
    evaluate = clock.compile(partial(log_densities, model=model, how=how), keys, params, pixels)
    logp, errors = map(np.asarray, evaluate(keys, params, pixels))
    record.require(
        bool(np.isfinite(logp).all()),
        "a log-likelihood is not finite, as a flow was not solved; --likelihood 0 --resume leaves it out",
    )
    found = _mean(_in_bits(logp, model, split))
    found["hutchinson"] = float(np.sqrt(np.mean(errors**2) / len(errors)) / (split.train.shape[1] * math.log(2)))
    return {
        MODEL: found,
        "one Gaussian": _mean(_in_bits(gaussian(split, model, how, np.asarray(pixels)), model, split)),
        "uniform": {"mean": math.log2(split.levels), "standard_error": 0.0},
        f"least with noise of {how.sigma_min:g}": {
            "mean": math.log2(how.sigma_min * math.sqrt(2 * math.pi) / model.scaling.grey_step),
            "standard_error": 0.0,
        },
    }


def log_densities(
    keys: Key[Array, " N"], params: Any, pixels: Float[Array, "N D"], *, model: Model, how: Sampling
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """log p of every image in units of x, by the flow from sigma_min to sigma_max, and its standard error."""
    from dsm import flow

    sde = dsm.VE(how.sigma_min, how.sigma_max)
    score_t = reverse.at_time(model.score(params), sde)

    def one(key: Array, row: Array) -> tuple[Array, Array]:
        found = flow.log_likelihood(key, score_t, model.standardise(row), sde, num_probes=PROBES, t_min=T_MIN)
        return found.value, found.standard_error

    return jax.lax.map(lambda each: one(*each), (keys, pixels), batch_size=min(TILE, len(pixels)))


def gaussian(split: Split, model: Model, how: Sampling, pixels: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
    """log p of every image in units of x under the Gaussian of dequantised pixels, with the noise that the flow keeps.

    It is what an untrained perceptron is.
    """
    train = np.asarray(split.train, float)
    # What u ~ U[0, 1) adds: 1/2 to the mean, 1/12 to the variance.
    variance = 1 / 12 + (how.sigma_min * model.scaling.std) ** 2
    mean = train.mean(axis=0) + 0.5
    covariance: Any = np.cov(train.T) + variance * np.eye(train.shape[1])
    with single_threaded():
        logp = multivariate_normal(mean, covariance).logpdf(pixels)
    return logp + train.shape[1] * math.log(model.scaling.std)


def _in_bits(logp: np.ndarray, model: Model, split: Split) -> np.ndarray:
    from dsm import flow

    return np.asarray(flow.bits_per_dimension(jnp.asarray(logp), split.train.shape[1], model.scaling.grey_step))


def _mean(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "standard_error": float(values.std(ddof=1) / math.sqrt(len(values)))}


def tabulate(found: dict[str, dict[str, float]], name: str) -> Table:
    """Lay out what `bits` returns."""
    table = Table("density", "bits per dimension", "± of it by probes", title=f"{name}: held-out images, dequantised")
    for density, numbers in found.items():
        probes = f"{numbers['hutchinson']:.1g}" if "hutchinson" in numbers else ""
        table.add_row(density, f"{numbers['mean']:.4g} ± {numbers['standard_error']:.1g}", probes)
    return table

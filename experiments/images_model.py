"""The models of `experiments.images`: a network that knows its noise scale, its loss on pixels, and its samplers.

A row of the training data holds the pixels of one image and, last, its label.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

import dsm
from dsm import edm, guidance, reverse
from experiments.data import NUM_CLASSES, Scaling, Split, dequantise

Kind = Literal["mlp", "unet", "energy-unet"]
Sampler = Literal["heun", "churn", "annealed", "predictor-corrector", "reverse-sde", "flow"]
UNCONDITIONAL = 0.15
"""Share of the labels that are dropped in training, for guidance."""
TILE = 250
"""Images that are sampled at a time."""


class Model(NamedTuple):
    """A network with all that its scores depend on."""

    network: Any
    is_energy: bool
    shape: tuple[int, ...]
    scaling: Scaling
    classes: bool
    dequantised: bool

    def score(self, params: Any) -> Callable[..., Array]:
        """s(x, sigma) or s(x, sigma, label), x a row of standardised pixels."""

        def function(x: Array, sigma: Any, *label: Any) -> Array:
            return self.network.apply(params, x.reshape(self.shape), sigma, *label)

        if self.is_energy:
            return dsm.score_of(function)
        return lambda x, sigma, *label: function(x, sigma, *label).reshape(x.shape)

    def init(self, key: Key[Array, ""]) -> Any:
        """Return the parameters before training."""
        x = jnp.zeros(self.shape, jnp.float32)
        return self.network.init(key, x, jnp.float32(1), *([jnp.int32(0)] if self.classes else []))

    def loss(self, key: Key[Array, ""], params: Any, row: Array, *, mean: float, std: float) -> Array:
        """`denoising_lognormal` at one image, whose pixels are made continuous first if the model is one of those."""
        key_pixels, key_label, key_loss = jax.random.split(key, 3)
        pixels, score = row[:-1].astype(jnp.float32), self.score(params)
        if self.dequantised:
            pixels = dequantise(key_pixels, pixels)
        x = (pixels - jnp.asarray(self.scaling.mean, jnp.float32)) / jnp.float32(self.scaling.std)
        if self.classes:
            label = guidance.drop_label(key_label, row[-1].astype(jnp.int32), NUM_CLASSES, UNCONDITIONAL)
            score = lambda x, sigma: self.score(params)(x, sigma, label)  # noqa: E731
        return dsm.denoising_lognormal(key_loss, score, x, mean=mean, std=std, sigma_data=1.0)

    def pixels(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """From samples to whole pixels."""
        if self.dequantised:
            return self.scaling.quantise(x)
        return np.rint(self.scaling.pixels(x))


def rows(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return both halves as rows of pixels and label, in as few bytes as hold them."""
    halves = ((split.train, split.train_labels), (split.heldout, split.heldout_labels))
    train, heldout = (np.concatenate([x, labels[:, None]], axis=1).astype(np.uint8) for x, labels in halves)
    return train, heldout


def build(
    kind: Kind,
    split: Split,
    scaling: Scaling,
    *,
    width: int,
    num_blocks: int,
    classes: bool,
    dequantised: bool,
    dtype: Any,
) -> Model:
    """Return the model of a kind; the width of a U-Net is that of its first level."""
    settings: dict[str, Any] = {"num_blocks": num_blocks, "num_classes": NUM_CLASSES if classes else 0, "dtype": dtype}
    if kind == "mlp":
        network: Any = dsm.ScoreMLP(width=width, **settings)
    else:
        network = (dsm.ScoreUNet if kind == "unet" else dsm.EnergyUNet)((width, 2 * width), **settings)
    return Model(network, kind == "energy-unet", split.shape, scaling, classes, dequantised)


class Sampling(NamedTuple):
    """How images are drawn."""

    sampler: Sampler
    levels: int
    sigma_max: float
    sigma_min: float
    churn: float
    guidance: float | None
    """Weight of guidance; None draws from the whole of the data."""

    def sigmas(self) -> Float[Array, " levels"]:
        """Return the ladder that `edm.heun` goes down."""
        return jnp.asarray(edm.karras_sigmas(self.levels, self.sigma_max, self.sigma_min), jnp.float32)


def sample(key: Key[Array, ""], params: Any, *, model: Model, how: Sampling, num: int) -> Float[Array, "num D"]:
    """Draw num images in units of x; with guidance the labels 0, 1, ... 9, 0, ... in turn."""
    size = int(np.prod(model.shape))
    draw = partial(_draw, params, model=model, how=how, size=size)
    labels = jnp.arange(num, dtype=jnp.int32) % NUM_CLASSES
    return jax.lax.map(lambda each: draw(*each), (jax.random.split(key, num), labels), batch_size=min(TILE, num))


def _draw(params: Any, key: Key[Array, ""], label: Array, *, model: Model, how: Sampling, size: int) -> Array:
    score = model.score(params)
    if how.guidance is not None:
        guided = guidance.guided(score, how.guidance, NUM_CLASSES)
        score = lambda x, sigma: guided(x, sigma, label)  # noqa: E731
    key_start, key_chain = jax.random.split(key)
    sigmas = how.sigmas()
    x = how.sigma_max * jax.random.normal(key_start, (size,), jnp.float32)
    if how.sampler == "heun":
        return edm.heun(score, x, sigmas)
    if how.sampler == "churn":
        return edm.heun_churn(key_chain, score, x, sigmas, churn=how.churn)
    if how.sampler == "annealed":
        ladder = jnp.asarray(dsm.geometric_sigmas(how.sigma_max, how.sigma_min, how.levels), jnp.float32)
        step = 0.06 * ladder[-1] ** 2
        return dsm.annealed_langevin(key_chain, score, x, ladder, steps_per_level=16, step_size=step)[0]
    sde = dsm.VE(how.sigma_min, how.sigma_max)
    score_t = reverse.at_time(score, sde)
    if how.sampler == "reverse-sde":
        return reverse.reverse_sde(key_chain, score_t, x, sde, num_steps=how.levels, t_min=1e-3)
    if how.sampler == "predictor-corrector":
        return reverse.predictor_corrector(key_chain, score_t, x, sde, num_steps=how.levels, t_min=1e-3)
    from dsm import flow

    x = flow.probability_flow(score_t, x, sde, t_from=1.0, t_to=0.0)
    return dsm.tweedie(lambda x: score(x, jnp.float32(how.sigma_min)), x, how.sigma_min)


def trajectory(
    key: Key[Array, ""], score: Callable[..., Array], model: Model, how: Sampling, num: int, stops: int = 11
) -> tuple[Float[Array, "num stops D"], Float[Array, " stops"]]:
    """Follow `edm.heun` from noise to images: x / (1 + sigma^2)^(1/2) at some of its levels, the last of them 0."""
    sigmas = how.sigmas()
    at = np.unique(np.linspace(0, how.levels - 1, stops - 1).round().astype(int))
    size = int(np.prod(model.shape))
    x = how.sigma_max * jax.random.normal(key, (num, size), jnp.float32)

    @jax.jit
    def path(x: Array) -> Array:
        def step(x: Array, pair: Array) -> tuple[Array, Array]:
            high, low = pair
            return jax.vmap(lambda x: edm.heun_step(score, x, high, low))(x), x

        last, before = jax.lax.scan(step, x, jnp.stack([sigmas[:-1], sigmas[1:]], axis=1))
        every = jnp.concatenate([before, last[None]])[at]
        end = jax.vmap(lambda x: dsm.tweedie(lambda x: score(x, sigmas[-1]), x, sigmas[-1]))(last)
        return jnp.concatenate([every / jnp.sqrt(1 + sigmas[at] ** 2)[:, None, None], end[None]]).swapaxes(0, 1)

    return path(x), jnp.append(sigmas[at], 0.0)


def interpolate(
    key: Key[Array, ""], score: Callable[..., Array], model: Model, how: Sampling, num: int, steps: int
) -> Float[Array, "num*steps D"]:
    """Draw images from noises between two: cos(a) e_1 + sin(a) e_2, 0 <= a <= pi/2, which all are N(0, I)."""
    sigmas = how.sigmas()
    size = int(np.prod(model.shape))
    first, second = jax.random.normal(key, (2, num, 1, size), jnp.float32)
    angle = jnp.linspace(0, jnp.pi / 2, steps, dtype=jnp.float32)[None, :, None]
    x = how.sigma_max * (jnp.cos(angle) * first + jnp.sin(angle) * second).reshape(-1, size)
    return jax.jit(jax.vmap(lambda x: edm.heun(score, x, sigmas)))(x)

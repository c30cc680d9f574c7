"""The models of `experiments.images`: a network that knows its noise scale, its loss on pixels, and its samplers.

A row of the training data holds the pixels of one image and, last, its label.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

import dsm
from dsm import edm, guidance, reverse
from experiments.data import NUM_CLASSES, Scaling, Split, dequantise
from experiments.quality import single_threaded

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
    basis: Float[np.ndarray, "D D"] | None
    """Principal components of the data, in columns: the coordinates z = basis' x that a perceptron works in."""

    def score(self, params: Any) -> Callable[..., Array]:
        """s(x, sigma) or s(x, sigma, label), x a row of standardised pixels."""
        score = self._score(params)
        if self.basis is None:
            return score
        basis = jnp.asarray(self.basis)
        rotate = partial(jnp.matmul, precision="highest")
        return lambda x, sigma, *label: rotate(basis, score(rotate(x, basis), sigma, *label))

    def _score(self, params: Any) -> Callable[..., Array]:
        """The score in the network's own coordinates."""
        if self.basis is not None:
            return partial(self.network.apply, params)

        def function(x: Array, sigma: Any, *label: Any) -> Array:
            return self.network.apply(params, x.reshape(self.shape), sigma, *label)

        if self.is_energy:
            return dsm.score_of(function)
        return lambda x, sigma, *label: function(x, sigma, *label).reshape(x.shape)

    def init(self, key: Key[Array, ""]) -> Any:
        """Return the parameters before training."""
        x = jnp.zeros(self.shape if self.basis is None else math.prod(self.shape), jnp.float32)
        return self.network.init(key, x, jnp.float32(1), *([jnp.int32(0)] if self.classes else []))

    def loss(self, key: Key[Array, ""], params: Any, row: Array, *, mean: float, std: float) -> Array:
        """`denoising_lognormal` at one image, whose pixels are made continuous first if the model is one of those."""
        key_pixels, key_label, key_loss = jax.random.split(key, 3)
        pixels, score = row[:-1].astype(jnp.float32), self._score(params)
        if self.dequantised:
            pixels = dequantise(key_pixels, pixels)
        x = self.standardise(pixels)
        if self.basis is not None:
            # Noise has the same law in every basis: only the data are turned.
            x = jnp.matmul(x, jnp.asarray(self.basis), precision="highest")
        if self.classes:
            label = guidance.drop_label(key_label, row[-1].astype(jnp.int32), NUM_CLASSES, UNCONDITIONAL)
            score = lambda x, sigma: self._score(params)(x, sigma, label)  # noqa: E731
        return dsm.denoising_lognormal(key_loss, score, x, mean=mean, std=std, sigma_data=1.0)

    def standardise(self, pixels: Float[Array, " D"]) -> Float[Array, " D"]:
        """From pixels to x."""
        return (pixels - jnp.asarray(self.scaling.mean, jnp.float32)) / jnp.float32(self.scaling.std)

    def middle(self, pixels: Float[Array, " D"]) -> Float[Array, " D"]:
        """From whole pixels to x: of the middle of the step that a dequantised pixel lies in."""
        return self.standardise(pixels + 0.5 if self.dequantised else pixels)

    def shades(self, x: Float[np.ndarray, "*shape D"]) -> Float[np.ndarray, "*shape D"]:
        """The inverse of `middle`, clipped to the range of pixels and not rounded."""
        return self.scaling._replace(mean=self.scaling.mean - 0.5 * self.dequantised).pixels(x)

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
    """Return the model of a kind; the width of a U-Net is that of its first level.

    A perceptron works in principal components, each with its own deviation: see `dsm.ScoreMLP`.
    """
    if dequantised:
        # Half a step is the mean of what spreads a pixel over its step.
        scaling = scaling._replace(mean=scaling.mean + 0.5)
    settings: dict[str, Any] = {"num_blocks": num_blocks, "num_classes": NUM_CLASSES if classes else 0, "dtype": dtype}
    if kind == "mlp":
        basis, deviations = principal_components(split, scaling)
        network: Any = dsm.ScoreMLP(width=width, sigma_data=tuple(deviations.tolist()), **settings)
    else:
        basis, network = None, (dsm.ScoreUNet if kind == "unet" else dsm.EnergyUNet)((width, 2 * width), **settings)
    return Model(network, kind == "energy-unet", split.shape, scaling, classes, dequantised, basis)


def principal_components(split: Split, scaling: Scaling) -> tuple[Float[np.ndarray, "D D"], Float[np.ndarray, " D"]]:
    """Return the principal components of standardised training pixels, in columns, and the data's deviations on them.

    Each variance has that of one step of grey added, a twelfth of its square, so that none is 0.
    """
    covariance = np.cov(scaling.standardise(split.train).astype(float).T)
    with single_threaded():
        variances, basis = np.linalg.eigh(covariance)
    # One sign of each: what LAPACK is free to choose, but for components without variance, should not change a run.
    basis *= np.sign(basis[np.argmax(np.abs(basis), axis=0), np.arange(len(basis))])
    deviations = np.sqrt(np.maximum(variances, 0) + scaling.grey_step**2 / 12)
    return basis[:, ::-1].astype(np.float32), deviations[::-1]


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
    draw = partial(_draw, model.score(params), how=how, size=math.prod(model.shape))
    return jax.lax.map(lambda each: draw(*each), (jax.random.split(key, num), in_turn(num)), batch_size=min(TILE, num))


def in_turn(num: int) -> Int[Array, " num"]:
    """Return the labels 0, 1, ... 9, 0, ..., num of them."""
    return jnp.arange(num, dtype=jnp.int32) % NUM_CLASSES


def told(model: Model, score: Callable[..., Array], label: Array) -> Callable[..., Array]:
    """Return the score of a class (guidance of weight 1) by a model that knows classes; of all images by another."""
    return (lambda x, sigma: score(x, sigma, label)) if model.classes else score


def _draw(score: Callable[..., Array], key: Key[Array, ""], label: Array, *, how: Sampling, size: int) -> Array:
    if how.guidance is not None:
        # Weight 1 is the score of the class alone, at half the price.
        guided = score if how.guidance == 1 else guidance.guided(score, how.guidance, NUM_CLASSES)
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
    """Follow `edm.heun` from noise to images: x / (1 + sigma^2)^(1/2) at some of its levels, the last of them 0.

    Labels 0, 1, ... in turn, where the model knows them.
    """
    sigmas, labels = how.sigmas(), in_turn(num)
    at = np.unique(np.linspace(0, how.levels - 1, stops - 1).round().astype(int))
    size = math.prod(model.shape)
    x = how.sigma_max * jax.random.normal(key, (num, size), jnp.float32)

    @jax.jit
    def path(x: Array) -> Array:
        def step(x: Array, pair: Array) -> tuple[Array, Array]:
            high, low = pair
            return jax.vmap(lambda x, i: edm.heun_step(told(model, score, i), x, high, low))(x, labels), x

        last, before = jax.lax.scan(step, x, jnp.stack([sigmas[:-1], sigmas[1:]], axis=1))
        every = jnp.concatenate([before, last[None]])[at]
        end = jax.vmap(lambda x, i: dsm.tweedie(lambda x: told(model, score, i)(x, sigmas[-1]), x, sigmas[-1]))(
            last, labels
        )
        return jnp.concatenate([every / jnp.sqrt(1 + sigmas[at] ** 2)[:, None, None], end[None]]).swapaxes(0, 1)

    return path(x), jnp.append(sigmas[at], 0.0)


def interpolate(
    key: Key[Array, ""], score: Callable[..., Array], model: Model, how: Sampling, num: int, steps: int
) -> Float[Array, "num*steps D"]:
    """Draw images from noises between two: cos(a) e_1 + sin(a) e_2, 0 <= a <= pi/2, which all are N(0, I).

    Every pair has one label, 0, 1, ... in turn, where the model knows them.
    """
    sigmas, labels = how.sigmas(), jnp.repeat(in_turn(num), steps)
    size = math.prod(model.shape)
    first, second = jax.random.normal(key, (2, num, 1, size), jnp.float32)
    angle = jnp.linspace(0, jnp.pi / 2, steps, dtype=jnp.float32)[None, :, None]
    x = how.sigma_max * (jnp.cos(angle) * first + jnp.sin(angle) * second).reshape(-1, size)
    return jax.jit(jax.vmap(lambda x, i: edm.heun(told(model, score, i), x, sigmas)))(x, labels)


def by_class(
    key: Key[Array, ""], score: Callable[..., Array], model: Model, how: Sampling, weight: float, each: int
) -> Float[Array, "num D"]:
    """Draw `each` images of every class with a weight of guidance, 0 to 9 in turn, by `edm.heun`; a key, one noise."""
    how = how._replace(sampler="heun", guidance=weight)
    draw = partial(_draw, score, how=how, size=math.prod(model.shape))
    num = each * NUM_CLASSES
    return jax.jit(jax.vmap(draw))(jax.random.split(key, num), in_turn(num))


def upper_half(shape: tuple[int, ...]) -> Bool[np.ndarray, " D"]:
    """Return the mask of the upper half of an image."""
    return np.repeat(np.arange(shape[0]) < shape[0] // 2, shape[1])


def complete(
    key: Key[Array, ""],
    score: Callable[..., Array],
    model: Model,
    known: Float[Array, "num D"],
    labels: Int[Array, " num"],
    mask: Bool[Array, " D"],
    how: Sampling,
    each: int,
) -> Float[Array, "num each D"]:
    """Draw `each` completions of every image, of which what stands under the mask is known, by `guidance.inpaint`.

    The label is known too, where the model knows labels.
    """
    sigmas, num = how.sigmas(), known.shape[0]

    def one(key: Array, x: Array, label: Array) -> Array:
        return guidance.inpaint(key, told(model, score, label), x, mask, sigmas, resamples=10)

    keys = jax.random.split(key, (num, each))
    return jax.jit(jax.vmap(jax.vmap(one, in_axes=(0, None, None))))(keys, known, labels)

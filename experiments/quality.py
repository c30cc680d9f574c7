"""How good are generated digits? The same numbers for a model and for the simple densities it has to beat.

- frechet: the Frechet distance (`dsm.metrics.frechet_distance`) to the held-out half between activations of the last
  hidden layer of a classifier: scikit-learn's `MLPClassifier`, two hidden layers of ReLU units (64 and 32 for 8 x 8
  images, else 128 and 64), random_state 0, other settings its own, fitted on the training half, whose pixels are
  standardised by one mean and one standard deviation; of 60,000 images ten passes, as one that has learned its images
  by heart finds new ones of the same kind far away from them. Less is better. Its bias and its scatter
  depend on the number of samples: compare equal numbers only.
- coverage: the share of held-out images that have a sample as near as their 5th neighbour (`dsm.metrics.coverage`),
  by the same activations, and by pixels. More is better; a perfect model has about 0.97.
- nearest_neighbour_ratio: the median distance to the training half in pixels, relative to that of held-out images
  (`dsm.metrics.nearest_neighbour_ratio`). 1 is like new images, 0 is copying.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from dsm import metrics
from experiments.data import NUM_CLASSES, Split, clip

MODEL = "score network"
RATIO = (0.5, 1.2)
# Frechet distance below, coverage above, nearest-neighbour ratio between, for so many samples.
GOALS = {
    "digits": {"num_samples": 797, "frechet": 2.0, "coverage": 0.90, "nearest_neighbour_ratio": RATIO},
    "mnist": {"num_samples": 2000, "frechet": 8.0, "coverage": 0.92, "nearest_neighbour_ratio": RATIO},
    "fashion": {"num_samples": 2000, "frechet": 3.5, "coverage": 0.92, "nearest_neighbour_ratio": RATIO},
}
# Principal components and Gaussians of the mixtures that are compared with.
MIXTURES = ((30, 20), (50, 50), (100, 50))
FITTED = 20_000
"""Images at most that a mixture is fitted on."""


class Quality(NamedTuple):
    """The numbers of one set of images, defined at the head of this module."""

    frechet: Any
    coverage: Any
    coverage_pixels: Any
    nearest_neighbour_ratio: Any


class Classifier(NamedTuple):
    """A fitted perceptron, reduced to what the metric needs."""

    mean: float
    std: float
    layers: list[tuple[np.ndarray, np.ndarray]]
    """Weights [in, out] and biases [out], the last layer included."""
    classes: Int[np.ndarray, " C"]
    """The label of each output; of two labels, which share one output, the second is where it is positive."""

    def features(self, pixels: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N F"]:
        """Activations of the last hidden layer."""
        h = (pixels - self.mean) / self.std
        for weight, bias in self.layers[:-1]:
            h = np.maximum(h @ weight + bias, 0)
        return h

    def labels(self, pixels: Float[np.ndarray, "N D"]) -> Int[np.ndarray, " N"]:
        """The digit that it reads in each image."""
        weight, bias = self.layers[-1]
        outputs = self.features(pixels) @ weight + bias
        if len(self.classes) == 2:
            outputs = np.concatenate([-outputs, outputs], axis=1)
        return self.classes[np.argmax(outputs, axis=1)]


def fit_classifier(split: Split) -> Classifier:
    """Fit the classifier of the metric on the training half; the same split gives the same classifier."""
    mean, std = float(split.train.mean()), float(split.train.std())
    small = split.train.shape[1] <= 64
    passes = 1000 if small else max(10, 150_000 // len(split.train))
    network = MLPClassifier((64, 32) if small else (128, 64), max_iter=passes, random_state=0)
    with single_threaded(), warnings.catch_warnings():
        # That it could go on.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit((split.train - mean) / std, split.train_labels)
    return Classifier(mean, std, list(zip(network.coefs_, network.intercepts_, strict=True)), network.classes_)


def classes_per_draw(classifier: Classifier, sets: list[np.ndarray]) -> Float[np.ndarray, " C"]:
    """How many images of each class the classifier reads in a draw, on average over the draws."""
    return np.bincount(classifier.labels(np.concatenate(sets)), minlength=NUM_CLASSES) / len(sets)


def judge(split: Split, classifier: Classifier) -> Callable[[Float[np.ndarray, "N D"]], Quality]:
    """Return the function from images (in pixels) to their quality."""
    given = [jnp.asarray(x) for x in (split.train, split.heldout, classifier.features(split.heldout))]

    @jax.jit
    def measure(pixels: Array, features: Array, train: Array, heldout: Array, heldout_features: Array) -> Quality:
        return Quality(
            frechet=metrics.frechet_distance(features, heldout_features),
            coverage=metrics.coverage(heldout_features, features),
            coverage_pixels=metrics.coverage(heldout, pixels),
            nearest_neighbour_ratio=metrics.nearest_neighbour_ratio(pixels, train, heldout),
        )

    def quality(pixels: Float[np.ndarray, "N D"]) -> Quality:
        return Quality(*map(float, measure(jnp.asarray(pixels), jnp.asarray(classifier.features(pixels)), *given)))

    return quality


def baselines(rng: np.random.Generator, split: Split, num: int, draws: int) -> dict[str, list[np.ndarray]]:
    """Sample num images, draws times, from everything that a score model is compared with, fitted on the training half.

    "training half" is real data without repeats: the quality of unseen images from the true distribution. "copies" is
    the same with repeats, a perfect memory: by Frechet distance and coverage hard to tell from a good model, by
    nearest_neighbour_ratio easy. All are clipped to the range of pixels, as the samples of the model are.
    """
    train = split.train
    mean, covariance = train.mean(axis=0), np.cov(train.T)
    with single_threaded():
        variances, directions = np.linalg.eigh(covariance)
    # covariance = root' root
    root = np.sqrt(np.maximum(variances, 0))[:, None] * directions.T
    samplers: dict[str, Callable[[], np.ndarray]] = {
        "training half": lambda: rng.permutation(train)[:num],
        "copies": lambda: rng.choice(train, num),
    }
    for components, gaussians in MIXTURES[: 1 if train.shape[1] <= 64 else None]:
        # Few images, or small ones, have no so many components.
        if components > min(train.shape) or gaussians > len(train):
            continue
        samplers[f"{gaussians} Gaussians, {components} components"] = _mixture(rng, train, components, gaussians, num)
    samplers["one Gaussian"] = lambda: mean + rng.standard_normal((num, len(mean))) @ root
    samplers["independent pixels"] = lambda: rng.permuted(rng.choice(train, num), axis=0)
    return {name: [clip(sample(), split.levels) for _ in range(draws)] for name, sample in samplers.items()}


def _mixture(
    rng: np.random.Generator, train: np.ndarray, components: int, gaussians: int, num: int
) -> Callable[[], np.ndarray]:
    """Return what draws images from a Gaussian mixture over principal components."""
    with single_threaded():
        pca = PCA(components, random_state=0).fit(train[:FITTED])
        # Of the variance of a component, on average: pixels may be 16 or 255.
        ridge = 1e-3 * float(pca.explained_variance_.mean() / 20)
        mixture = GaussianMixture(gaussians, reg_covar=ridge, random_state=0).fit(pca.transform(train[:FITTED]))
    # A generator, and not the seed of the fit, so that draws differ.
    mixture.set_params(random_state=np.random.RandomState(rng.integers(2**31)))

    def draw() -> np.ndarray:
        with warnings.catch_warnings():
            # Covariances in single precision are positive up to rounding only.
            warnings.simplefilter("ignore", RuntimeWarning)
            return pca.inverse_transform(mixture.sample(num)[0])

    return draw


def few(rng: np.random.Generator, split: Split, num: int) -> Split:
    """Return the split with `num` held-out images at most, chosen at random: as many as are compared with them."""
    if len(split.heldout) <= num:
        return split
    chosen = np.sort(rng.permutation(len(split.heldout))[:num])
    return split._replace(heldout=split.heldout[chosen], heldout_labels=split.heldout_labels[chosen])


def single_threaded() -> threadpool_limits:
    """Fit on one thread: these matrices are small, and BLAS threads that wait for a busy core cost minutes."""
    return threadpool_limits(limits=1, user_api="blas")


def summarise(rows: Sequence[Quality]) -> dict[str, dict[str, float | None]]:
    """Mean of every number over draws, and its standard error (None for a single draw)."""
    values = np.array(rows)
    errors = values.std(axis=0, ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else [None] * values.shape[1]
    means = values.mean(axis=0).tolist()
    return {
        name: {"mean": mean, "standard_error": None if error is None else float(error)}
        for name, mean, error in zip(Quality._fields, means, errors, strict=True)
    }


def goal(name: str, num: int) -> dict[str, Any] | None:
    """Return the goal of a data set for sets of `num` images, if there is one: the numbers depend on how many."""
    found = GOALS.get(name)
    return found if found is not None and found["num_samples"] == num else None


def reached(summary: dict[str, dict], goal: dict[str, Any]) -> dict[str, bool]:
    """Whether each mean meets the goal: the Frechet distance below it, coverage above it, the ratio between two."""
    low, high = goal["nearest_neighbour_ratio"]
    return {
        "frechet": summary["frechet"]["mean"] < goal["frechet"],
        "coverage": summary["coverage"]["mean"] > goal["coverage"],
        "nearest_neighbour_ratio": low < summary["nearest_neighbour_ratio"]["mean"] < high,
    }


def tabulate(summaries: dict[str, dict[str, dict]], title: str, goal: dict[str, Any] | None) -> Table:
    """Lay the summaries out as a table, the goal below them."""
    caption = (
        "Fréchet distance (less is better) and coverage (more is) by a small classifier's features; both depend on the "
        "number of images. Nearest neighbour: median distance to the training half over that of held-out images; 0 is "
        "copying, 1 like new ones. Training half: real images without repeats; copies: with repeats. ±: standard "
        "errors over draws, which overlap for the training half."
    )
    table = Table("images", "Fréchet", "coverage", "by pixels", "nearest neighbour", title=title, caption=caption)
    for name, summary in summaries.items():
        errors = ["" if n["standard_error"] is None else f" ± {n['standard_error']:.1g}" for n in summary.values()]
        cells = [f"{n['mean']:.3g}{error}" for n, error in zip(summary.values(), errors, strict=True)]
        table.add_row(name, *cells, end_section=name == list(summaries)[-1])
    if goal is not None:
        low, high = goal["nearest_neighbour_ratio"]
        shown = {"frechet": f"< {goal['frechet']}", "coverage": f"> {goal['coverage']}"}
        shown["nearest_neighbour_ratio"] = f"{low} to {high}"
        table.add_row("goal", *(shown.get(name, "") for name in Quality._fields))
    return table

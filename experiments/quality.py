"""How good are generated digits? The same numbers for a model and for the simple densities it has to beat.

- frechet: the Frechet distance (`dsm.metrics.frechet_distance`) to the held-out half, between the
activations of the last hidden layer of a classifier. The classifier is scikit-learn's `MLPClassifier` with
hidden layers of 64 and 32 ReLU units and its own defaults, fitted on the training half, whose pixels are
standardised by one mean and one standard deviation. Less is better; its bias and its scatter depend on the
number of samples, so everything here takes as many. - coverage: the share of held-out images that have a
sample as near as their 5th neighbour (`dsm.metrics.coverage`), among the same activations, and among
pixels. More is better; a perfect model has about 0.97. - nearest_neighbour_ratio: distance to the training
half in pixels, relative to that of held-out images (`dsm.metrics.nearest_neighbour_ratio`). 1 is like new
images, 0 is copying.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neural_network import MLPClassifier

from dsm import metrics
from experiments.data import Split, clip


class Quality(NamedTuple):
    """The numbers of one set of generated images, defined at the head of this module."""

    frechet: float
    coverage: float
    coverage_pixels: float
    nearest_neighbour_ratio: float


class Classifier(NamedTuple):
    """A fitted perceptron, reduced to what the metric needs."""

    mean: float
    std: float
    layers: list[tuple[np.ndarray, np.ndarray]]
    """Weights [in, out] and biases [out], the last layer included."""

    def features(self, pixels: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N F"]:
        """Activations of the last hidden layer."""
        h = (pixels - self.mean) / self.std
        for weight, bias in self.layers[:-1]:
            h = np.maximum(h @ weight + bias, 0)
        return h

    def labels(self, pixels: Float[np.ndarray, "N D"]) -> np.ndarray:
        """The digit it reads."""
        weight, bias = self.layers[-1]
        return np.argmax(self.features(pixels) @ weight + bias, axis=1)


def fit_classifier(split: Split) -> Classifier:
    """Fit the classifier of the metric on the training half; always the same one for the same split."""
    mean, std = float(split.train.mean()), float(split.train.std())
    network = MLPClassifier((64, 32), max_iter=1000, random_state=0)
    network.fit((split.train - mean) / std, split.train_labels)
    return Classifier(mean, std, list(zip(network.coefs_, network.intercepts_, strict=True)))


def judge(split: Split, classifier: Classifier) -> Callable[[Float[np.ndarray, "N D"]], Quality]:
    """Return the function from images (pixels) to their quality."""
    train, heldout = jnp.asarray(split.train), jnp.asarray(split.heldout)
    heldout_features = jnp.asarray(classifier.features(split.heldout))

    @jax.jit
    def measure(pixels: Array, features: Array) -> Quality:
        return Quality(
            frechet=metrics.frechet_distance(features, heldout_features),
            coverage=metrics.coverage(heldout_features, features),
            coverage_pixels=metrics.coverage(heldout, pixels),
            nearest_neighbour_ratio=metrics.nearest_neighbour_ratio(pixels, train, heldout),
        )

    def quality(pixels: Float[np.ndarray, "N D"]) -> Quality:
        return Quality(*map(float, measure(jnp.asarray(pixels), jnp.asarray(classifier.features(pixels)))))

    return quality


def baselines(rng: np.random.Generator, split: Split, num: int, draws: int) -> dict[str, list[np.ndarray]]:
    """Sample num images, draws times, from each density that a score model has to beat, fitted on the training half.

    All are clipped to the range of pixels, as samples of the model are. "training half" is real data
    (without repeats, so at most 1000 images): the quality that unseen images of the right distribution
    would have. "copies" draws it with repeats: as good as new by Frechet distance, and unmasked by the
    nearest-neighbour ratio.
    """
    train = split.train
    pca = PCA(30).fit(train)
    mixture = GaussianMixture(20, reg_covar=1e-3, random_state=0).fit(pca.transform(train))
    # One fit, several draws: the generator is passed on from call to call.
    mixture.random_state = np.random.RandomState(rng.integers(2**31))
    mean, covariance = train.mean(axis=0), np.cov(train.T)
    samplers: dict[str, Callable[[], np.ndarray]] = {
        "training half": lambda: rng.permutation(train)[:num], "copies": lambda: rng.choice(train, num),
        "mixture of 20 Gaussians, 30 principal components": lambda:
        pca.inverse_transform(mixture.sample(num)[0]), "one Gaussian, full covariance": lambda:
        rng.multivariate_normal(mean, covariance, num), "independent pixels": lambda:
        rng.permuted(rng.choice(train, num), axis=0), } return {name: [clip(sample()) for _ in range(draws)]
        for name, sample in samplers.items()}

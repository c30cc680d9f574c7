"""Real data, split once so that every number in a table is about the same held-out half."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments.record import require

DIGITS_TRAIN = 1000
PAPER, INK = 0.0, 16.0


class Split(NamedTuple):
    """Two disjoint random halves: one to fit on, and one that no model, sampler or baseline has seen."""

    train: Float[np.ndarray, "N D"]
    train_labels: Int[np.ndarray, " N"]
    heldout: Float[np.ndarray, "M D"]
    heldout_labels: Int[np.ndarray, " M"]


class Scaling(NamedTuple):
    """x = (pixels - mean) / std: the units in which a model sees an image."""

    mean: Float[np.ndarray, " D"]
    """The mean image."""
    std: float
    """One number for all pixels: a pixel that varies little stays small."""

    def standardise(self, pixels: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """From pixels to x."""
        return (pixels - self.mean) / self.std

    def pixels(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """From x to pixels, clipped to the range that images have."""
        return clip(np.asarray(x) * self.std + self.mean)


def digits(seed: int = 0) -> Split:
    """1797 handwritten digits of 8 x 8 pixels, 0 (paper) to 16 (ink), as rows of 64: 1000 to train, 797 held out.

    The seed chooses the halves. Both have the same share of every digit, up to rounding: a distance between halves
    would else be partly the luck of the split. Source: `load_digits` of scikit-learn; Alpaydin and Kaynak (1998).
    """
    images, labels = load_digits(return_X_y=True)
    found = f"{images.shape} in [{images.min()}, {images.max()}]"
    expected = images.shape == (1797, 64) and images.min() == PAPER and images.max() == INK
    require(expected, f"load_digits gave images {found}, not (1797, 64) in [{PAPER}, {INK}]")
    train, heldout = train_test_split(
        np.arange(len(images)), train_size=DIGITS_TRAIN, stratify=labels, random_state=seed
    )
    return Split(images[train], labels[train], images[heldout], labels[heldout])


def scaling(pixels: Float[np.ndarray, "N D"]) -> Scaling:
    """Return the scaling that gives these images a mean of 0 and a mean square of 1."""
    mean = pixels.mean(axis=0)
    return Scaling(mean, float(np.sqrt(np.mean((pixels - mean) ** 2))))


def clip(pixels: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Limit pixels to the range that images have."""
    return np.clip(pixels, PAPER, INK)

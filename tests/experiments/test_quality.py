"""The measure of images: its classifier, its baselines, and what it says of a goal."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rich.console import Console
from sklearn.neural_network import MLPClassifier

from experiments import data, quality

ROWS = [quality.Quality(3.0, 0.9, 0.7, 0.4), quality.Quality(4.0, 0.7, 0.9, 0.8)]
GOAL = {"frechet": 3.6, "coverage": 0.8, "nearest_neighbour_ratio": (0.5, 1.2)}


def enlarged(split, num, times=3, border=2):
    """Digits of 28 x 28 pixels, or of another size, 0 to 255."""
    side = 8 * times + 2 * border

    def grow(rows):
        large = np.kron(rows.reshape(-1, 8, 8), np.ones((times, times))) * (255 / 16)
        return np.pad(large, ((0, 0), (border, border), (border, border))).reshape(len(rows), side**2)

    return data.Split(
        grow(split.train[:num]),
        split.train_labels[:num],
        grow(split.heldout[:num]),
        split.heldout_labels[:num],
        (side, side),
        256,
        "enlarged",
    )


@pytest.fixture(scope="module")
def split():
    return data.digits()


def test_few_held_out_images_are_some_of_them_in_order(split):
    few = quality.few(np.random.default_rng(0), split, 100)
    assert few.heldout.shape == (100, 64) and few.heldout_labels.shape == (100,)
    place = {row.tobytes(): i for i, row in enumerate(split.heldout)}
    assert len(place) == len(split.heldout)
    found = np.array([place[row.tobytes()] for row in few.heldout])
    assert np.all(np.diff(found) > 0)
    assert_array_equal(few.heldout_labels, split.heldout_labels[found])
    assert_array_equal(few.train, split.train)
    other = quality.few(np.random.default_rng(1), split, 100)
    assert np.any(other.heldout != few.heldout)
    assert quality.few(np.random.default_rng(0), split, 797) is split


def test_a_mean_and_its_error():
    summary = quality.summarise(ROWS)
    assert summary["frechet"] == {"mean": 3.5, "standard_error": pytest.approx(0.5)}
    assert summary["coverage_pixels"]["mean"] == pytest.approx(0.8)
    assert quality.summarise(ROWS[:1])["coverage"] == {"mean": 0.9, "standard_error": None}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (True, False, True)),
        ({"frechet": 3.5}, (False, False, True)),
        ({"coverage": 0.79}, (True, True, True)),
        ({"nearest_neighbour_ratio": (0.7, 1.2)}, (True, False, False)),
        ({"nearest_neighbour_ratio": (0.1, 0.5)}, (True, False, False)),
    ],
)
def test_a_goal_is_reached_by_every_number_on_its_own(change, expected):
    found = quality.reached(quality.summarise(ROWS), GOAL | change)
    assert tuple(found[name] for name in ("frechet", "coverage", "nearest_neighbour_ratio")) == expected


def printed(table):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(table)
        return console.export_text()


def test_a_table_has_every_number_and_the_goal_if_there_is_one():
    summaries = {"a": quality.summarise(ROWS), "b": quality.summarise(ROWS[:1])}
    with_goal = printed(quality.tabulate(summaries, "title", GOAL))
    for shown in ("title", "3.5 ± 0.5", "0.8 ± 0.1", "0.6 ± 0.2", "< 3.6", "> 0.8", "0.5 to 1.2"):
        assert shown in with_goal
    last = next(line for line in with_goal.splitlines() if "│ b " in line)
    assert [cell.strip() for cell in last.split("│")[1:-1]] == ["b", "3", "0.9", "0.7", "0.4"]
    without = printed(quality.tabulate(summaries, "title", None))
    assert "goal" in with_goal and "goal" not in without and "3.5 ± 0.5" in without


def test_goals_are_for_data_sets_that_there_are():
    for name, goal in quality.GOALS.items():
        assert name in ("digits", "mnist", "fashion") and set(goal) == {"num_samples", *GOAL}


def test_a_goal_is_one_for_its_number_of_samples():
    assert quality.goal("digits", 797) == quality.GOALS["digits"]
    assert quality.goal("digits", 796) is quality.goal("idx", 797) is None


def test_larger_images_have_a_larger_classifier_that_reads_them(split):
    large = enlarged(split, 300)
    classifier = quality.fit_classifier(large)
    assert [weight.shape for weight, _ in classifier.layers] == [(784, 128), (128, 64), (64, 10)]
    assert classifier.features(large.heldout).shape == (300, 64)
    assert np.mean(classifier.labels(large.heldout) == large.heldout_labels) > 0.8


@pytest.mark.slow
def test_a_classifier_is_scikit_learns_and_takes_fewer_passes_over_more_images(split, monkeypatch):
    few = split._replace(train=split.train[:150], train_labels=split.train_labels[:150])
    classifier = quality.fit_classifier(few)
    mean, std = few.train.mean(), few.train.std()
    network = MLPClassifier((64, 32), max_iter=1000, random_state=0)
    with quality.single_threaded():
        network.fit((few.train - mean) / std, few.train_labels)
    assert_array_equal(classifier.labels(split.heldout), network.predict((split.heldout - mean) / std))

    passes = []
    monkeypatch.setattr(quality, "MLPClassifier", lambda sizes, *, max_iter, **_: passes.append(max_iter) or network)
    for num in (1000, 3000, 60_000):
        large = split._replace(train=np.tile(split.train[:10], (num // 10, 13))[:, :784], train_labels=None)
        monkeypatch.setattr(network, "fit", lambda x, labels: None)
        quality.fit_classifier(large)
    assert passes == [150, 50, 10]


@pytest.mark.parametrize("digits", [(7, 9), (3, 7, 9)])
def test_a_classifier_of_few_labels_tells_those(split, digits):
    chosen = np.isin(split.train_labels, digits)
    few = split._replace(train=split.train[chosen], train_labels=split.train_labels[chosen])
    classifier = quality.fit_classifier(few)
    assert np.mean(classifier.labels(few.train) == few.train_labels) > 0.99
    assert quality.classes_per_draw(classifier, [few.train]).nonzero()[0].tolist() == list(digits)


@pytest.mark.parametrize(("images", "side"), [(25, 8), (200, 4)])
def test_mixtures_of_more_components_than_there_are_are_left_out(split, images, side):
    few = split._replace(train=split.train[:images, : side**2])
    names = quality.baselines(np.random.default_rng(0), few, 10, 1)
    assert list(names) == ["training half", "copies", "one Gaussian", "independent pixels"]


def test_a_mixture_does_not_know_how_many_levels_of_grey_there_are(split):
    # A ridge in units of pixels would. Some images are the same. Sixteen times: so that rounding agrees.
    train = np.concatenate([split.train[:200], np.repeat(split.train[:1], 30, axis=0)])

    def draw(scale):
        sample = quality._mixture(np.random.default_rng(0), scale * train, 20, 8, 300)
        return sample(), sample()

    (first, second), (scaled, _) = draw(1.0), draw(16.0)
    assert first.shape == (300, 64) and np.isfinite(first).all() and np.any(first != second)
    assert_allclose(scaled, 16 * first, rtol=1e-9, atol=1e-9)
    # 300 images: the mean of a pixel has an error of at most 8 / 300^(1/2).
    assert_allclose(first.mean(axis=0), train.mean(axis=0), atol=4 * 8 / math.sqrt(300))


def test_baselines_are_as_many_as_asked_for_and_are_pixels(split, monkeypatch):
    monkeypatch.setattr(quality, "MIXTURES", ((3, 2), (4, 2)))
    for each, names in ((split, 5), (enlarged(split, 100, 1, 1), 6)):
        found = quality.baselines(np.random.default_rng(0), each, 70, 2)
        assert len(found) == names
        for images in found.values():
            assert len(images) == 2 and np.any(images[0] != images[1])
            for pixels in images:
                assert pixels.shape == (70, each.train.shape[1])
                assert pixels.min() >= 0 and pixels.max() <= each.levels - 1
        real, copies = found["training half"][0], found["copies"][0]
        assert len(np.unique(real, axis=0)) == 70 > len(np.unique(copies, axis=0))
        known = {row.tobytes() for row in np.asarray(each.train)}
        assert all(row.tobytes() in known for row in np.concatenate([real, copies]))
    again = quality.baselines(np.random.default_rng(0), each, 70, 2)
    for name, images in found.items():
        assert_array_equal(np.stack(again[name]), np.stack(images))

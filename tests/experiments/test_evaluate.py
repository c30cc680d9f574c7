"""Images of others: how they are read, what is said of files that hold none, and that their quality is the same."""

import functools
import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from experiments import data, evaluate, image_files, quality

ROOT = Path(__file__).parents[2]
GREY = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4) * 5
SHORT = {"draws": 2, "num_samples": 80}


def read(path):
    return image_files.read(path, (4, 4), 256)


def write_pngs(folder, images, mode=None):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image, mode).save(folder / f"{i:03}.png")
    return folder


def to_bytes(pixels, levels):
    """Pixels of a data set as somebody would save them: 0 to 255."""
    return np.rint(pixels * (255 / (levels - 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def split():
    return data.digits()


@pytest.fixture(scope="module", autouse=True)
def fitted_once():
    with pytest.MonkeyPatch.context() as patch:
        fit = quality.fit_classifier
        once = functools.cache(lambda: fit(data.digits()))
        patch.setattr(quality, "fit_classifier", lambda split: once())
        patch.setattr(quality, "MIXTURES", ((2, 2),))
        yield


def test_arrays_and_folders_of_the_same_images_are_the_same(tmp_path):
    rows = GREY.reshape(3, 16)
    np.save(tmp_path / "a.npy", GREY)
    np.save(tmp_path / "b.npy", rows.astype(np.float32))
    np.savez(tmp_path / "c.npz", samples=np.asfortranarray(GREY.astype(np.int64)))
    np.savez_compressed(tmp_path / "d.npz", rows.astype(">f8"))
    write_pngs(tmp_path / "grey", GREY)
    colour = np.repeat(GREY[..., None], 3, axis=-1)
    write_pngs(tmp_path / "colour", colour)
    write_pngs(tmp_path / "opaque", np.concatenate([colour, np.full((3, 4, 4, 1), 255, np.uint8)], axis=-1))
    # Other files are not looked at.
    (tmp_path / "grey" / "metrics.json").write_text("{}")
    (tmp_path / "grey" / "000.png").rename(tmp_path / "grey" / "000.PNG")
    for name in ("a.npy", "b.npy", "c.npz", "d.npz", "grey", "colour", "opaque"):
        assert_array_equal(read(tmp_path / name), rows)


def test_grey_of_a_png_becomes_the_nearest_level(tmp_path, split):
    images = split.train[:20].reshape(-1, 8, 8)
    write_pngs(tmp_path / "digits", to_bytes(images, 17))
    assert_array_equal(image_files.read(tmp_path / "digits", (8, 8), 17), split.train[:20])
    write_pngs(tmp_path / "every", np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    found = image_files.read(tmp_path / "every", (16, 16), 17)[0]
    assert_array_equal(found, np.rint(np.arange(256) / 255 * 16))


def changed(place, value):
    images = GREY.astype(float)
    images[place] = value
    return images


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (changed((1, 2, 3), np.nan), r"pixel \[1, 2, 3\] is nan; pixels are 0 to 255"),
        (changed((2, 0, 0), -1), r"pixel \[2, 0, 0\] is -1.0; pixels are 0 to 255"),
        (changed((0, 3, 3), np.inf), r"pixel \[0, 3, 3\] is inf"),
        (changed((0, 1, 0), 255.5), r"pixel \[0, 1, 0\] is 255.5"),
        (GREY[:, :3], r"shape \[3, 3, 4\]; \[N, 4, 4\] or \[N, 16\] is needed"),
        (GREY[..., None], r"shape \[3, 4, 4, 1\]"),
        (GREY[0, 0], r"shape \[4\]"),
        (GREY.reshape(-1), r"shape \[48\]"),
        (np.float64(3), r"shape \[\]"),
        (GREY[:0], r"shape \[0, 4, 4\] holds no images|not an array"),
        (GREY > 5, "pixels of type bool; real numbers are needed"),
        (GREY * 1j, "pixels of type complex128"),
        (GREY.astype(str), "pixels of type <U"),
        (np.full((3, 16), None), "not an array of pixels"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_an_array_that_holds_no_images(array, message, kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    (np.save if kind == "npy" else np.savez)(path, array, allow_pickle=True)
    with pytest.raises(ValueError, match=f"{path}: .*({message})"):
        read(path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GREY[0, :3], "3 x 4 pixels; 4 x 4 are needed"),
        (np.zeros((3, 5, 3), np.uint8), "3 x 5 pixels"),
        (GREY[0].astype(np.uint16), "pixels of mode I;16; 8 bits of grey"),
        (GREY[0] > 3, "pixels of mode 1;"),
        (
            np.stack([GREY[0], GREY[1], GREY[0]], axis=-1),
            r"pixel \[0, 0\] has the colour \[0, 80, 0\], which is no grey",
        ),
        (np.stack([GREY[0]] * 4, axis=-1), r"pixel \[0, 0\] is transparent"),
        (np.stack([GREY[0]] * 2, axis=-1), "pixels of mode LA"),
    ],
)
def test_a_png_of_another_kind_is_named(image, message, tmp_path):
    folder = write_pngs(tmp_path / "folder", [*GREY[:2], image])
    with pytest.raises(ValueError, match=f"{folder}/002.png: {message}"):
        read(folder)


def test_what_is_neither_folder_nor_array(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "more.npz").write_bytes(b"")
    np.savez(tmp_path / "two.npz", a=GREY, b=GREY)
    np.savez(tmp_path / "none.npz")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    for name, message in {
        "nothing": "there is no such file or folder",
        "empty": "there is no .png in this folder",
        "a.jpg": "it must be a folder of .png files, a .npy or a .npz file",
        "more.npz": "not an array of pixels",
        "two.npz": "it holds 'a.npy', 'b.npy'; one array is needed",
        "none.npz": "it holds nothing",
        "text.npz": "not an array of pixels",
    }.items():
        with pytest.raises(ValueError, match=f"{tmp_path / name}: .*{message}"):
            read(tmp_path / name)


def test_an_archive_of_more_than_can_be_held(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((1000, 16)))
    monkeypatch.setattr(image_files, "MOST", 10_000)
    with pytest.raises(ValueError, match="more than the 10000 that are read"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["npy", "npz", "png"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_a_damaged_file_is_read_or_is_a_value_error_that_names_it(kind, draw, tmp_path):
    """Cut short, or with a few bytes changed."""
    folder = tmp_path / "png"
    folder.mkdir(exist_ok=True)
    path = folder / "a.png" if kind == "png" else tmp_path / f"a.{kind}"
    if kind == "png":
        Image.fromarray(GREY[0]).save(path)
    else:
        (np.save if kind == "npy" else np.savez_compressed)(path, GREY)
    content = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(0, 3))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    path.write_bytes(content[: draw.draw(st.integers(0, len(content)))])
    try:
        found = read(folder if kind == "png" else path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert found.shape[1] == 16 and found.min() >= 0 and found.max() <= 255


@pytest.mark.slow
def test_images_that_are_held_out_have_the_quality_of_real_ones(split, tmp_path):
    np.savez(tmp_path / "held.npz", split.heldout.reshape(-1, 8, 8))
    record = evaluate.main(tmp_path / "held.npz", draws=2, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == record
    assert record["figures"] == ["samples.png", "neighbours.png"]
    for name in record["figures"]:
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
    metrics = record["metrics"]
    assert abs(metrics["frechet"]) < 1e-9
    for name in ("coverage", "coverage_pixels", "nearest_neighbour_ratio"):
        assert metrics[name] == pytest.approx(1)
    assert metrics["num_compared"] == metrics["num_images"] == 797 and metrics["draws_of_samples"] == 1
    assert metrics["goal_reached"] == {"frechet": True, "coverage": True, "nearest_neighbour_ratio": True}
    scatter, real = metrics["scatter_of_real_images"], metrics["table"]["training half"]
    for name in ("frechet", "coverage"):
        assert scatter[name] == pytest.approx(real[name]["standard_error"] * math.sqrt(2)) and scatter[name] > 0
    counts = np.bincount(split.heldout_labels)
    assert sum(metrics["classes_per_draw"]) == 797
    assert np.abs(np.array(metrics["classes_per_draw"]) - counts).max() < 15


@pytest.mark.slow
def test_a_folder_and_an_array_of_the_same_images_have_the_same_numbers(split, tmp_path, capsys):
    images = split.train[:200].reshape(-1, 8, 8)
    np.save(tmp_path / "a.npy", images)
    write_pngs(tmp_path / "pngs", to_bytes(images, 17))
    first = evaluate.main(tmp_path / "a.npy", **SHORT, out=tmp_path / "first")["metrics"]
    assert evaluate.main(tmp_path / "pngs", **SHORT, out=tmp_path / "second")["metrics"] == first
    # Two sets of 80 of the 200; training images are copies; a goal is for another number of images.
    assert first["num_compared"] == 80 and first["draws_of_samples"] == 2 and first["num_images"] == 200
    assert first["table"]["samples"]["frechet"]["standard_error"] > 0
    assert first["nearest_neighbour_ratio"] == 0 and first["goal"] is first["goal_reached"] is None
    shown = " ".join(capsys.readouterr().out.split())
    assert "One draw of real images scatters by" in shown and "the mean of 2 sets" in shown


def test_sets_are_chosen_at_random_and_have_no_common_image(split):
    images = np.arange(100.0)[:, None] * np.ones(64)
    sets = evaluate.groups(np.random.default_rng(0), images, 30, 5, split)
    chosen = np.concatenate([each[:, 0] for each in sets])
    assert [each.shape for each in sets] == [(30, 64)] * 3 and len(np.unique(chosen)) == 90
    assert np.any(np.diff(chosen) < 0)
    assert len(evaluate.groups(np.random.default_rng(0), images, 30, 2, split)) == 2


@pytest.mark.slow
def test_fewer_samples_than_held_out_images_are_compared_with_as_many(split, tmp_path, capsys):
    np.save(tmp_path / "few.npy", split.heldout[:70])
    metrics = evaluate.main(tmp_path / "few.npy", draws=1, out=tmp_path / "out")["metrics"]
    assert metrics["num_compared"] == sum(metrics["classes_per_draw_of_real_images"]) == 70
    assert set(metrics["scatter_of_real_images"].values()) == {None}
    assert "nothing is known of the scatter" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 63}, "num_samples must be at least 64, got 63"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"split_seed": -1}, "split_seed must be at least 0, got -1"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"data_set": "idx"}, "idx needs the folder"),
        ({}, "few.npy: 63 images; at least 64 are needed"),
    ],
)
def test_what_cannot_be_measured_is_refused_and_nothing_is_written(change, message, split, tmp_path):
    np.save(tmp_path / "few.npy", split.heldout[:63])
    with pytest.raises(ValueError, match=message):
        evaluate.main(tmp_path / "few.npy", **change, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["few.npy"]


@pytest.mark.slow
def test_a_command_line_that_cannot_be_ends_in_one_line(tmp_path):
    write_pngs(tmp_path / "images", GREY)
    command = [sys.executable, "-m", "experiments.evaluate", str(tmp_path / "images"), "--data-set", "digits"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip() == f"error: {tmp_path}/images/000.png: 4 x 4 pixels; 8 x 8 are needed"
    assert not (tmp_path / "out").exists()

"""npz files: what is written is safe to read, and what is not is refused."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

import dp
from dp import formats
from dp.dense import make_mdp
from dp.formats import Model
from dp.sparse import from_choices


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, content: dict[str, bytes], **sets) -> None:
    with zipfile.ZipFile(path, "w", **sets) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def array(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ragged model of two states and three choices, with names."""
    R, rows = np.array([1.0, 2.0, 0.0]), (np.array([0.5, 0.5, 1.0]), np.array([0, 1, 1]), np.array([0, 2, 3, 3]))
    mdp = from_choices(*rows, np.array([0, 2, 3]), R, 0.9)
    labels, rewards = {"goal": np.array([False, True])}, {"time": R}
    model = Model(mdp, np.array([True, False]), labels, rewards, ("a", "b"), ("x", "y", "z"))
    formats.write_npz(tmp_path / "model.npz", model)
    return tmp_path / "model.npz"


def test_a_file_needs_no_pickle_and_no_more_than_numpy(path: Path):
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["R"], [1, 2, 0])
        assert json.loads(archive["about"].tobytes())["states"] == ["a", "b"]


def test_a_bare_mdp_stays_one(tmp_path: Path):
    mdp = make_mdp(np.full((2, 2, 2), 0.5), np.zeros((2, 2)), 0.9, mask=np.array([[True, False], [True, True]]))
    formats.write_npz(tmp_path / "model", mdp)
    found = formats.read_npz(tmp_path / "model")
    assert type(found) is type(mdp)
    np.testing.assert_array_equal(found.mask, mdp.mask)


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        formats.read_npz(path)
    assert str(error.value).startswith(f"{path}: ") and reason in str(error.value)


def about(path: Path, **changed) -> bytes:
    said = json.loads(np.load(path)["about"].tobytes())
    return array(np.frombuffer(json.dumps(said | changed).encode(), np.uint8))


def test_a_member_is_never_larger_than_the_file(path: Path):
    content = members(path)
    pack(path, content, compression=zipfile.ZIP_DEFLATED)
    refused(path, "a member is compressed")
    bomb = content["R.npy"].replace(b"(3,), }" + b" " * 10, b"(99999999999,), }")
    assert len(bomb) == len(content["R.npy"])
    pack(path, content | {"R.npy": bomb})
    refused(path, "R.npy says shape [99999999999] of float64, 799999999992 bytes, but has 24")


def test_objects_are_not_read(path: Path):
    content = members(path)
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    pack(path, content | {"R.npy": file.getvalue()})
    refused(path, "R.npy is not an array of floats, integers or booleans")
    path.write_bytes(pickle.dumps({"P": 1}))
    refused(path, "not a whole npz file")


@pytest.mark.parametrize(
    ("name", "x", "reason"),
    [
        ("R", np.array([1.0, np.nan, 0.0]), "is not finite"),
        ("R", np.array([1.0, 2.0]), "rewards must have shape [3]"),
        ("R", np.array([1.0, 2.0, 0.0], np.float32), "not of one"),
        ("R", np.array([1, 2, 0]), "not of one"),
        ("gamma", np.array(1.5), "gamma must lie in [0, 1]"),
        ("data", np.array([0.5, 0.7, 1.0]), "sums to 1.2"),
        ("data", np.array([-0.5, 0.7, 1.0]), "negative probability"),
        ("indices", np.array([0, 2, 1]), "indices"),
        ("indptr", np.array([0, 2, 9, 3]), "indptr must begin with 0 and never fall"),
        ("choices", np.array([0, 2, 9]), "indptr must be integers of shape"),
        ("choices", np.array([0, 3, 3]), "R should have shape [4]"),
        ("initial", np.array([True]), "'initial' should be booleans of shape [2]"),
        ("label0", np.array([1, 0]), "'goal' should be booleans of shape [2]"),
        ("reward0", np.array([1.0, 2.0]), "the rewards 'time' should be finite numbers of the shape of R"),
        ("reward0", np.array([1.0, 2.0, np.inf]), "the rewards 'time' should be finite numbers of the shape of R"),
        ("mask", np.array([True]), "a ragged model has no mask"),
        ("more", np.array([True]), "the arrays should be"),
        ("R", np.array(["a", "b", "c"]), "is not an array of floats, integers or booleans"),
        ("R", np.asfortranarray(np.ones((3, 2))), "is not an array of floats, integers or booleans"),
    ],
)
def test_arrays_that_make_no_model_are_refused(path: Path, name: str, x: np.ndarray, reason: str):
    pack(path, members(path) | {f"{name}.npy": array(x)})
    refused(path, reason)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"format": "dp model 9"}, "not of the format 'dp model 1'"),
        ({"form": "cube"}, "the form 'cube' is none of dense, successors, ragged"),
        ({"form": "dense"}, "the arrays should be"),
        ({"states": ["a"]}, "there are 1 names of states, and 2 states"),
        ({"actions": ["a"]}, "there are 1 names of actions, and 3 actions"),
        ({"states": "ab"}, "does not say the names"),
        ({"labels": ["goal", "goal"]}, "does not say the names"),
        ({"labels": ["goal", "more"]}, "the arrays should be"),
        ({"rewards": [1]}, "does not say the names"),
        ({"bare": 1}, "does not say the names"),
        ({"more": 1}, "does not say the names"),
    ],
)
def test_names_that_do_not_fit_are_refused(path: Path, changed: dict, reason: str):
    pack(path, members(path) | {"about.npy": about(path, **changed)})
    refused(path, reason)


def test_archives_of_others_are_refused(path: Path):
    np.savez(path, P=np.eye(3))
    refused(path, "it has no readable member about.npy")
    np.savez(path, about=np.frombuffer(b"[" * 100_000, np.uint8))
    refused(path, "it has no readable member about.npy")
    pack(path, {"readme.txt": b"hello"})
    refused(path, "these members are not of write_npz")


def test_a_file_cut_off_anywhere_is_refused(path: Path):
    data = path.read_bytes()
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        refused(path, "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": {"a": np.array([1])}}, r"labels\['a'\] must be boolean with shape \[2\], got int64 with \[1\]"),
        ({"initial": np.ones(3, bool)}, r"initial must be boolean with shape \[2\], got bool with \[3\]"),
        ({"states": ("a", "b", "c")}, "states must hold 2 names, got 3"),
        ({"rewards": {"r": np.ones(2)}}, r"rewards\['r'\] must have shape \[2, 2\], got \[2\]"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, change, reason):
    mdp = dp.make_mdp(np.full((2, 2, 2), 0.5), np.ones((2, 2)), 0.9)
    with pytest.raises(ValueError, match=reason):
        dp.formats.write_npz(tmp_path / "model.npz", dp.formats.Model(mdp, np.ones(2, bool), {}, {})._replace(**change))

"""The record: what is written, when, and what a command line answers."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import record

ROOT = Path(__file__).parents[2]


def write(out, **changes):
    arguments = {"arguments": {"seed": 0}, "metrics": {"a": 1.0}, "figures": {"f": Figure()}, "dtype": "float32"}
    return record.write(out, clock=record.Clock(), **(arguments | changes))


def test_record_holds_what_a_reader_needs(tmp_path):
    found = write(tmp_path / "run", metrics={"x": jnp.arange(2.0), "bad": float("nan")}, pages={"index.html": "é"})
    on_disk = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert on_disk == found
    assert found["metrics"] == {"x": [0.0, 1.0], "bad": "nan"}
    assert set(found) == {
        "arguments", "metrics", "figures", "seconds", "dtype", "device", "backend", "versions", "git_commit"
    }  # fmt: skip
    assert found["versions"]["jax"] == jax.__version__
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["f.png", "index.html", "metrics.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]  # nothing staged is left behind


def test_second_run_replaces_the_first(tmp_path):
    write(tmp_path / "run", metrics={"a": 1})
    write(tmp_path / "run", metrics={"a": 2})
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"] == {"a": 2}


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write(tmp_path / "run", metrics={"unwritable": object()})
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot write"):
        record.require_run(0, tmp_path / "file" / "run")


def test_clock_separates_compiling_from_running():
    clock = record.Clock()
    run = clock.compile(lambda x: x + 1, jnp.zeros(3))
    assert clock.compile_seconds > 0 and clock.run_seconds == 0
    np.testing.assert_array_equal(run(jnp.ones(3)), 2 * np.ones(3))
    assert clock.run_seconds > 0


def test_impossible_argument_ends_in_one_line(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.space_exploration", "--iterations", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == "error: iterations must be at least 2, as in the exercise; got 1"
    assert not out.exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20])
def test_impossible_seeds(seed, tmp_path):
    with pytest.raises(ValueError, match="seed must be 0 to"):
        record.require_run(seed, tmp_path / "run")


def test_out_that_names_no_folder():
    with pytest.raises(ValueError, match="out must name a folder"):
        record.require_run(0, Path(""))


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(ValueError, match="is a file"):
        record.require_run(0, tmp_path / "run")


def test_out_where_nobody_can_write():
    with pytest.raises(ValueError, match="cannot write a folder inside /proc"):
        record.require_run(0, Path("/proc/nowhere/run"))

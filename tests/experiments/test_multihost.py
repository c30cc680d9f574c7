"""Several processes: they draw one model, come to one certificate, and none waits for the dead."""

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments import multihost_dp, multihost_worker

ROOT = Path(__file__).parents[2]
GARNET = {"states": 3000, "actions": 2, "successors": 3, "seed": 5}

# Deterministic moves mix slowly: a thousand sweeps, long enough to be killed among them.
SLOW = ["--states", "2400", "--actions", "2", "--successors", "1", "--gamma", "0.98", "--every", "100"]

# Within so many seconds of a death all others have ended.
ENDED = 30


@pytest.mark.parametrize("cuts", [[0, 3000], [0, 1, 3000], [0, 700, 1024, 2500, 3000]])
def test_the_model_does_not_depend_on_who_draws_what(cuts):
    whole = multihost_worker.rows(0, 3000, **GARNET)
    parts = [multihost_worker.rows(a, b, **GARNET) for a, b in itertools.pairwise(cuts)]
    for x, *pieces in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(pieces), x)


def test_rows_are_those_of_a_garnet():
    state, prob, R = multihost_worker.rows(0, 3000, **GARNET)
    assert state.shape == prob.shape == (3000, 2, 3) and R.shape == (3000, 2)
    np.testing.assert_allclose(prob.sum(-1), 1, rtol=1e-12)
    assert (np.diff(np.sort(state, axis=-1)) > 0).all() and state.min() >= 0 and state.max() < 3000
    assert abs(R.mean()) < 5 / np.sqrt(R.size) and abs(state.mean() / 1499.5 - 1) < 5 / np.sqrt(3 * state.size)
    # Blocks and seeds differ.
    assert len(np.unique(R)) == R.size
    assert not np.array_equal(multihost_worker.rows(0, 3000, **(GARNET | {"seed": 6}))[2], R)


@pytest.mark.parametrize(
    "bad",
    [
        {"processes": 0},
        {"states": 1001},
        {"actions": 0},
        {"successors": 0},
        {"gamma": 1.0},
        {"tol": 0.0},
        {"every": 0},
        {"process_id": 1},
        {"process_id": 2, "coordinator": "127.0.0.1:1"},
        {"seed": -1},
    ],
)
def test_arguments_that_make_no_sense(bad, tmp_path):
    with pytest.raises(ValueError, match=next(iter(bad))):
        multihost_dp.main(**({"states": 1000} | bad), out=tmp_path / "run")


def command(out: Path, processes: int, *words: str) -> list[str]:
    given = ["--processes", str(processes), "--out", str(out), *words]
    return [sys.executable, "-m", "experiments.multihost_dp", *given]


def solved(out: Path, processes: int, *words: str) -> dict:
    run = subprocess.run(command(out, processes, *words), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert len(re.findall(r"process \d: .* rows", run.stdout)) == processes
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))["metrics"]


def started(out: Path, processes: int, *words: str) -> list[subprocess.Popen]:
    """Start processes as on real hosts: nobody looks after them."""
    port = multihost_dp.free_port()
    children = []
    for i in range(processes):
        own = ["--process-id", str(i), "--coordinator", f"127.0.0.1:{port}"]
        with Path(f"{out}-{i}.log").open("w") as log:
            children.append(
                subprocess.Popen([*command(out, processes, *words), *own], cwd=ROOT, stdout=log, stderr=log)
            )
    return children


def wait_for(condition: Callable[[], bool], children: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and all(child.poll() is None for child in children)
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_have_the_certificate_of_one_and_half_the_model_each(tmp_path):
    words = ["--states", "40000", "--actions", "4", "--successors", "8"]
    one, two = (solved(tmp_path / str(n), n, *words) for n in (1, 2))
    assert one["certificate"] == two["certificate"]
    assert one["certificate"]["converged"] and one["certificate"]["largest_gap"] <= 1e-6
    assert [row["process"] for row in two["processes"]] == [0, 1]
    for row in two["processes"]:
        assert row["rows"] == 80_000 and row["iterations"] == one["processes"][0]["iterations"]
        assert 0.5 <= row["bytes"] / two["whole"]["kept"] < 0.55


@pytest.mark.slow
def test_no_process_needs_the_memory_of_the_whole(tmp_path):
    words = ["--states", "100000", "--actions", "8", "--successors", "16", "--gamma", "0.9"]
    one, two = (solved(tmp_path / str(n), n, *words) for n in (1, 2))
    alone = one["processes"][0]["peak"]
    assert max(row["peak"] for row in two["processes"]) < min(0.7 * alone, two["whole"]["to_build"])


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "others"), [(1, 1), (0, 3)])
def test_kill_9_of_one_ends_the_others_and_any_number_goes_on(victim, others, tmp_path):
    whole = solved(tmp_path / "whole", 1, *SLOW, "--folder", str(tmp_path / "undisturbed"))
    folder = tmp_path / "folder"
    children = started(tmp_path / "killed", 2, *SLOW, "--folder", str(folder))
    try:
        wait_for(lambda: folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir()), children)
        children[victim].kill()
        assert children[1 - victim].wait(timeout=ENDED) != 0
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert not (tmp_path / "killed").exists()
    again = solved(tmp_path / "again", others, *SLOW, "--folder", str(folder))
    assert again["certificate"] == whole["certificate"]
    assert again["processes"][0]["iterations"] == whole["processes"][0]["iterations"]


@pytest.mark.slow
def test_without_checkpoints_too_nobody_waits_for_the_dead(tmp_path):
    children = started(tmp_path / "killed", 2, *SLOW, "--tol", "1e-9", "--gamma", "0.9999")
    try:
        wait_for(lambda: "has its rows" in Path(f"{tmp_path / 'killed'}-0.log").read_text(), children)
        children[1].kill()
        assert children[0].wait(timeout=ENDED) != 0
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.slow
def test_several_processes_pass_over_a_damaged_checkpoint(tmp_path):
    folder = tmp_path / "folder"
    whole = solved(tmp_path / "whole", 2, *SLOW, "--folder", str(folder))
    newest = max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    data = max((newest / "arrays" / "d").iterdir(), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1])
    again = solved(tmp_path / "again", 2, *SLOW, "--folder", str(folder))
    assert again["certificate"] == whole["certificate"]

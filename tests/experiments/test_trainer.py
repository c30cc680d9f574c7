"""A run as a person sees it: its lines, its folder, and that neither kill -9 nor devices change where it ends."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsm import training
from experiments import multihost_dp, trainer

checkpoint = pytest.importorskip("dsm.checkpoint", reason="needs orbax-checkpoint")

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("trainer_worker.py")
worker = types.SimpleNamespace(**runpy.run_path(str(WORKER)))
SHORT = {"steps": 50, "every": 10}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nobody interrupts, and its folder."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return worker.train(folder, resume=False, **SHORT), folder


def lines(folder):
    """The lines without their times."""
    found = [json.loads(line) for line in (folder / trainer.LINES).read_text().splitlines()]
    assert all(line.pop("steps_per_second") > 0 for line in found)
    return found


def steps(folder):
    return sorted(int(path.name) for path in (folder / trainer.CHECKPOINTS).iterdir() if path.name.isdigit())


class Killed(Exception):
    pass


def killed(monkeypatch, folder, step, when, **changes):
    """Train until the checkpoint of a step is about to be written, or is there."""
    write = checkpoint.folders.write

    def deadly(manager, at, *given):
        if at == step and when == "before":
            raise Killed
        write(manager, at, *given)
        if at == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.folders, "write", deadly)
        with pytest.raises(OSError, match=f"of {step} steps could not be saved"):
            worker.train(folder, **(SHORT | changes))


def test_a_line_for_every_chunk(straight):
    found, folder = straight
    assert found.losses.shape == (50,) and found.losses.dtype == np.float32
    written = lines(folder)
    assert [line["step"] for line in written] == [10, 20, 30, 40, 50]
    for i, line in enumerate(written):
        assert line["loss"] == pytest.approx(found.losses[10 * i : 10 * i + 10].mean(dtype=float), rel=1e-15)
        assert line["grad_norm"] > 0
        # Every second chunk, and the last state.
        assert ("evaluation" in line) == (line["step"] in (20, 40, 50))
    i = np.asarray([9, 19, 29, 39, 49])
    rates = 3e-3 * np.where(i < 20, i / 20, 0.5 * (1 + np.cos(np.pi * (i - 20) / (worker.STEPS - 20))))
    np.testing.assert_allclose([line["learning_rate"] for line in written], rates, rtol=1e-6)
    assert [json.loads(line) for line in (folder / trainer.LINES).read_text().splitlines()] == found.lines
    # The least of the numbers on held-out data marks the best state, which is measured again.
    best = min((line["evaluation"]["heldout_loss"], line["step"]) for line in written if "evaluation" in line)
    state, numbers = checkpoint.restore(folder / trainer.CHECKPOINTS, found.state, best="heldout_loss")
    assert (numbers["heldout_loss"], int(state.step)) == best


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_a_run_that_goes_on_ends_with_the_same_bits_and_lines(when, straight, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    killed(monkeypatch, folder, 30, when)
    # The line of step 30 is written before its checkpoint; and a last line may be half written.
    assert [line["step"] for line in lines(folder)] == [10, 20, 30]
    assert steps(folder) == ([10, 20] if when == "before" else [10, 20, 30])
    with (folder / trainer.LINES).open("a") as file:
        file.write('{"step": 40, "lo')
    found = worker.train(folder, **SHORT)
    chex.assert_trees_all_equal(found.state, straight[0].state)
    assert len(found.losses) == (30 if when == "before" else 20)
    np.testing.assert_array_equal(found.losses, straight[0].losses[-len(found.losses) :])
    assert lines(folder) == lines(straight[1]) and steps(folder) == steps(straight[1])
    assert [line["step"] for line in found.lines] == [10, 20, 30, 40, 50]


def test_a_folder_that_holds_a_run_is_refused_without_resume(straight):
    with pytest.raises(ValueError, match="already holds a run: --resume to go on with it, or another folder"):
        worker.train(straight[1], resume=False, **SHORT)
    again = worker.train(straight[1], resume=True, **SHORT)
    assert len(again.losses) == 0 and lines(straight[1]) == [
        {name: x for name, x in line.items() if name != "steps_per_second"} for line in again.lines
    ]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("learning_rate", {"about": {"learning_rate": 1e-3}}),
        ("batch_size", {"batch_size": 16}),
        ("steps", {"steps": 60}),
        ("every", {"every": 5}),
    ],
)
def test_a_run_of_other_settings_is_refused_by_name(what, change, straight):
    with pytest.raises(ValueError, match=f"another run: {what} is .* there and .* here"):
        worker.train(straight[1], **(SHORT | change))
    assert [line["step"] for line in lines(straight[1])] == [10, 20, 30, 40, 50]


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write into it"):
        worker.train(tmp_path / "file" / "run", **SHORT)


@pytest.mark.slow
def test_without_a_folder_the_steps_are_the_same(straight):
    found = worker.train(None, **SHORT)
    chex.assert_trees_all_equal(found.state, straight[0].state)
    np.testing.assert_array_equal(found.losses, straight[0].losses)
    assert [line["loss"] for line in found.lines] == [line["loss"] for line in straight[0].lines]


def test_a_loss_that_is_no_number_ends_the_run_and_is_in_no_line(tmp_path):
    rate = lambda count: jnp.where(count < 25, 1e-3, jnp.inf)  # noqa: E731
    with pytest.raises(
        FloatingPointError, match=r"the loss of step 26 is nan.*the last checkpoint .* has 20 steps.*; seed 7$"
    ):
        worker.train(tmp_path / "run", optimizer=optax.sgd(rate), seed=7, **SHORT)
    assert [line["step"] for line in lines(tmp_path / "run")] == steps(tmp_path / "run") == [10, 20]


def test_the_optimiser_warms_up_cools_down_and_clips():
    optimizer = trainer.optimizer(0.5, 100, warmup=10, clip=2.0)
    state = training.init(jnp.zeros(2, jnp.float32), optimizer)
    gradient, rates, moments = jnp.array([30.0, 40.0], jnp.float32), [], []
    with jax.numpy_dtype_promotion("standard"):
        update, opt_state = jax.jit(optimizer.update), state.opt_state
        for _ in range(100):
            _, opt_state = update(gradient, opt_state, state.params)
            rates.append(float(trainer._rate(state._replace(opt_state=opt_state))))
            moments.append(optax.tree.get(opt_state, "mu"))
    i = np.arange(100)
    expected = np.where(i < 10, 0.05 * i, 0.25 * (1 + np.cos(np.pi * (i - 10) / 90)))
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    # 50 long, cut to 2; the first moment of Adam is a tenth of it.
    np.testing.assert_allclose(moments[0], [0.12, 0.16], rtol=1e-6)
    with jax.numpy_dtype_promotion("standard"):
        first, _ = trainer.optimizer(0.5, 100).update(gradient, trainer.optimizer(0.5, 100).init(state.params))
    np.testing.assert_allclose(first, [-0.5, -0.5], rtol=1e-5)


def test_an_optimiser_that_does_not_tell_its_rate_has_no_rate_in_its_lines():
    found = worker.train(None, optimizer=optax.sgd(0.01), steps=4, every=2)
    assert [sorted(line) for line in found.lines] == [
        ["grad_norm", "loss", "step", "steps_per_second"],
        ["evaluation", "grad_norm", "loss", "step", "steps_per_second"],
    ]


def test_evaluations_that_make_no_sense():
    bad = trainer.Evaluation(worker.heldout_loss, jax.random.key(0), jnp.ones((3, 2)), every=0)
    with pytest.raises(ValueError, match=r"evaluation\.every must be at least 1, got 0"):
        worker.train(None, evaluation=bad, **SHORT)


@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 devices")
def test_four_devices_take_the_steps_of_one():
    one, four = (worker.train(None, devices=devices, steps=200, every=50) for devices in (None, jax.devices()))
    assert len(four.state.params["params"]["Dense_0"]["kernel"].sharding.device_set) == 4
    np.testing.assert_allclose(four.losses, one.losses, rtol=1e-5)
    evaluations = (
        [line["evaluation"]["heldout_loss"] for line in run.lines if "evaluation" in line] for run in (one, four)
    )
    np.testing.assert_allclose(*evaluations, rtol=1e-5)


def started(folder, cache, *words):
    """Start the worker as a process of its own, with a cache of compiled programs: so that most of its life is work."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    # A cache entry that a killed process left half written is compiled anew, which JAX warns of.
    with Path(f"{folder}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), *words], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


def finish(children, folder):
    try:
        for child in children:
            assert child.wait(timeout=300) == 0, Path(f"{folder}.log").read_text()[-3000:]
    finally:
        for child in children:
            child.kill()
            child.wait()


def state_of(folder):
    like = training.init(
        worker.NETWORK.init(jax.random.key(0), jnp.zeros(2, jnp.float32)), trainer.optimizer(3e-3, 240, clip=1.0)
    )
    return checkpoint.restore(folder / trainer.CHECKPOINTS, like).state


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments_changes_no_bit(tmp_path):
    """Processes are killed at random moments of their lives; a folder goes on until it is done, then another begins."""
    cache, whole = tmp_path / "cache", tmp_path / "whole"
    for folder in (tmp_path / "warm", whole):
        since = time.monotonic()
        finish([started(folder, cache)], folder)
        life = time.monotonic() - since
    expected, rng, kills, folders, seen = state_of(whole), random.Random(0), 0, 0, []
    while kills < 20:
        folders += 1
        folder = tmp_path / f"killed{folders}"
        while True:
            child = started(folder, cache)
            if kills == 20:
                finish([child], folder)
                break
            try:
                child.wait(timeout=rng.uniform(0, life))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
            if child.wait() == 0:
                break
            assert child.returncode == -signal.SIGKILL, Path(f"{folder}.log").read_text()[-3000:]
            kills += 1
            seen.append(moment(folder))
        chex.assert_trees_all_equal(state_of(folder), expected)
        assert lines(folder) == lines(whole) and steps(folder) == steps(whole)
    sys.stdout.write(f"{kills} kills in {folders} runs of {life:.1f} s: {sorted(seen)}\n")


def moment(folder):
    """What a kill found: before the first line, while a checkpoint was written, sealed or deleted, or between two."""
    there = folder / trainer.CHECKPOINTS
    if not (folder / trainer.LINES).exists():
        return "starting"
    if any("tmp" in path.name for path in there.iterdir()):
        return "writing"
    if any(not (path / "seal.json").exists() for path in there.iterdir()):
        return "sealing or deleting"
    written = (folder / trainer.LINES).read_text().count("\n")
    return (
        "between a line and its checkpoint" if written * worker.EVERY > max(steps(folder), default=0) else "elsewhere"
    )


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_and_go_on_where_they_were_killed(tmp_path):
    cache, one, two, cut = (tmp_path / name for name in ("cache", "one", "two", "cut"))
    finish([started(one, cache)], one)
    finish(several(two, cache), two)
    losses = np.load(one / "losses-0.npy")
    assert losses.shape == (worker.STEPS,) and worker.STEPS >= 200
    for i in range(2):
        np.testing.assert_allclose(np.load(two / f"losses-{i}.npy"), losses, rtol=1e-5)
    assert len(lines(one)) == len(lines(two)) == worker.STEPS // worker.EVERY
    chex.assert_trees_all_close(state_of(two), state_of(one), rtol=1e-3, atol=1e-5)

    # Both killed at once, two go on to the bits of two.
    pair = several(cut, cache)
    try:
        wait_for(lambda: (cut / trainer.CHECKPOINTS).is_dir() and len(steps(cut)) >= 2, pair)
    finally:
        for child in pair:
            child.kill()
            child.wait()
    assert steps(cut)[-1] < worker.STEPS
    finish(several(cut, cache), cut)
    chex.assert_trees_all_equal(state_of(cut), state_of(two))
    assert lines(cut) == lines(two)


def several(folder, cache):
    port = multihost_dp.free_port()
    return [started(folder, cache, "2", str(i), f"127.0.0.1:{port}") for i in range(2)]


def wait_for(condition, children):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and all(child.poll() is None for child in children)
        time.sleep(0.01)

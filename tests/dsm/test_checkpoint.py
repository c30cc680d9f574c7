"""Checkpoints: training that was killed ends with the bits of training that was not, and no damage is believed."""

import builtins
import importlib
import json
import math
import os
import sys
import warnings
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from dsm import chunks, seal, training

checkpoint = pytest.importorskip("dsm.checkpoint", reason="needs orbax-checkpoint")

DATA = jnp.asarray(np.random.default_rng(0).normal(size=(40, 2)))
KEY = jax.random.key(7)
EVERY, STEPS = 5, 20


def noisy_distance(key, params, x):
    return jnp.sum((x + 0.1 * jax.random.normal(key, x.shape, x.dtype) - params["m"]) ** 2)


SETTINGS = {
    "batch_loss": training.per_example(noisy_distance),
    "optimizer": optax.adam(0.1),
    "batch_size": 8,
    "ema_decay": 0.9,
}


def fresh(optimizer=SETTINGS["optimizer"], size=2, dtype=jnp.float64):
    return training.init({"m": jnp.zeros(size, dtype)}, optimizer)


@pytest.fixture(scope="module")
def whole():
    """The end of one long fit, and its infos."""
    return training.fit(KEY, fresh(), DATA, num_steps=STEPS, **SETTINGS)


def run(folder, key=KEY, state=None, data=DATA, **changes):
    settings = {"num_steps": STEPS, "every": EVERY, **SETTINGS, **changes}
    return checkpoint.fit(key, fresh() if state is None else state, data, folder, **settings)


class Killed(Exception):
    pass


def after(num):
    """Return a `fit` that is killed when it is called for the last of num + 1 times."""
    left = iter(range(num))

    def fit(*given, **named):
        if next(left, None) is None:
            raise Killed
        return training.fit(*given, **named)

    return fit


def killed(folder, num, **changes):
    with pytest.raises(Killed):
        run(folder, fit=after(num), **changes)


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def quietly(folder, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run(folder, **changes)


@pytest.mark.parametrize("num", [0, pytest.param(1, marks=pytest.mark.slow), 3])
def test_an_interrupted_run_ends_with_the_bits_of_the_whole(num, whole, tmp_path):
    killed(tmp_path, num)
    assert steps(tmp_path) == [EVERY * (i + 1) for i in range(num)]
    chex.assert_trees_all_equal(quietly(tmp_path), whole[0])
    # A finished run is read and nothing else.
    chex.assert_trees_all_equal(run(tmp_path, fit=after(0)), whole[0])
    assert steps(tmp_path) == [10, 15, 20]


def test_what_is_reported_begins_where_the_run_goes_on(whole, tmp_path):
    seen = []

    def told(folder, **changes):
        seen.clear()
        evaluate = lambda state: {"m": state.ema["m"][0]}  # noqa: E731
        run(folder, report=lambda chunk: seen.append(chunk), evaluate=evaluate, **changes)

    with pytest.raises(Killed):
        told(tmp_path, fit=after(2))
    assert [int(chunk.state.step) for chunk in seen] == [0, 5, 10] and seen[0].numbers == {} and seen[0].infos is None
    numbers = seen[-1].numbers
    told(tmp_path, every=7)
    assert [int(chunk.state.step) for chunk in seen] == [10, 14, 20]
    assert seen[0].numbers == numbers == {"m": float(seen[0].state.ema["m"][0])}
    losses = np.concatenate([chunk.infos.loss for chunk in seen[1:]])
    np.testing.assert_array_equal(losses, whole[1].loss[10:])


@pytest.mark.slow
def test_a_run_can_be_made_longer_and_not_shorter(whole, tmp_path):
    run(tmp_path, num_steps=12)
    chex.assert_trees_all_equal(quietly(tmp_path), whole[0])
    with pytest.raises(ValueError, match="num_steps = 12: there are 20 steps already"):
        run(tmp_path, num_steps=12)


def damaged(folder, how):
    newest = folder / str(steps(folder)[-1])
    data = max((newest / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    if how == "cut":
        os.truncate(data, data.stat().st_size // 2)
    elif how == "a bit":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "gone":
        data.unlink()
    elif how == "never sealed":
        (newest / seal.NAME).unlink()
    elif how == "seal cut":
        os.truncate(newest / seal.NAME, 20)


DAMAGES = {
    "cut": "bytes instead of",
    "a bit": "does not hold what was written",
    "gone": "is missing",
    "never sealed": "it was not finished",
    "seal cut": "seal.json is damaged",
}


@pytest.mark.parametrize(
    "how", ["cut", "never sealed", *(pytest.param(x, marks=pytest.mark.slow) for x in ("a bit", "gone", "seal cut"))]
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(how, whole, tmp_path):
    killed(tmp_path, 2)
    damaged(tmp_path, how)
    message = rf"the checkpoint of 10 steps in .* is broken and deleted, .*{DAMAGES[how]}.*: going on from step 5"
    with pytest.warns(UserWarning, match=message):
        found = run(tmp_path)
    chex.assert_trees_all_equal(found, whole[0])


def test_where_all_are_damaged_nothing_is_begun_anew(tmp_path):
    killed(tmp_path, 1)
    damaged(tmp_path, "cut")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: state/.* bytes instead of"):
        run(tmp_path)
    assert steps(tmp_path) == [5]


def test_killed_before_the_first_seal_it_begins_anew(whole, tmp_path):
    killed(tmp_path, 1)
    damaged(tmp_path, "never sealed")
    with pytest.warns(UserWarning, match=r"of 5 steps .* it was not finished: beginning anew"):
        found = run(tmp_path)
    chex.assert_trees_all_equal(found, whole[0])


def test_killed_while_an_old_one_was_deleted_it_says_nothing(whole, tmp_path):
    killed(tmp_path, 3)
    (tmp_path / "5" / seal.NAME).unlink()
    chex.assert_trees_all_equal(quietly(tmp_path), whole[0])


@pytest.mark.slow
def test_the_best_is_kept_beside_the_last(tmp_path):
    found = {5: 3.0, 10: 1.0, 15: math.nan, 20: 1.0, 25: 2.0, 30: 2.0, 35: -math.inf, 40: 5.0}
    evaluate = lambda state: {"error": found[int(state.step)]} if int(state.step) != 35 else {}  # noqa: E731
    killed(tmp_path, 5, num_steps=40, keep=2, evaluate=evaluate, best="error")
    assert steps(tmp_path) == [10, 20, 25]
    # What was best is known after a restart, too.
    run(tmp_path, num_steps=40, keep=2, evaluate=evaluate, best="error")
    assert steps(tmp_path) == [10, 35, 40]
    state, numbers = checkpoint.restore(tmp_path, fresh(), best="error")
    assert int(state.step) == 10 and numbers == {"error": 1.0}
    expected, _ = training.fit(KEY, fresh(), DATA, num_steps=10, **SETTINGS)
    chex.assert_trees_all_equal(state, expected)
    assert int(checkpoint.restore(tmp_path, fresh()).state.step) == 40
    with pytest.raises(ValueError, match="no whole checkpoint with the number 'loss'"):
        checkpoint.restore(tmp_path, fresh(), best="loss")
    with pytest.raises(ValueError, match=r"shape of params\['m'\] is float64\[2\] there and float64\[3\] here"):
        checkpoint.restore(tmp_path, fresh(size=3))
    with pytest.raises(ValueError, match="there is none"):
        checkpoint.restore(tmp_path / "nowhere", fresh())


ANOTHER = {
    "key": {"key": jax.random.key(8)},
    "data": {"data": DATA.at[3, 1].add(1e-12)},
    "size of data": {"data": DATA[:-1]},
    "batch_size": {"batch_size": 4},
    "ema_decay": {"ema_decay": 0.99},
    "learning_rate": {"about": {"learning_rate": 0.2}},
    "widths": {"about": {"learning_rate": 0.1, "widths": (3, 4)}},
    r"shape of params\['m'\]": {"state": fresh(size=3)},
    r"shape of optimiser\[0\].count": {"state": training.init({"m": jnp.zeros(2)}, optax.sgd(0.1))},
}


@pytest.mark.parametrize("what", ANOTHER)
def test_the_checkpoint_of_another_run_is_refused_by_what_differs(what, tmp_path):
    about = {"learning_rate": 0.1}
    run(tmp_path, num_steps=5, about=about)
    with pytest.raises(ValueError, match=f"holds checkpoints of another run: {what} is .* there and .* here"):
        run(tmp_path, **({"about": about} | ANOTHER[what]))
    assert steps(tmp_path) == [5]


def test_no_key_is_stored(tmp_path):
    run(tmp_path, num_steps=5, key=jax.random.key(123456789))
    about = json.loads(next((tmp_path / "5" / "about").iterdir()).read_text())
    assert about["run"]["key"] != 123456789 and len(about["run"]["key"]) == 16
    assert not any(b"123456789" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_loss_that_is_no_number_names_its_step_and_is_not_saved(tmp_path):
    # Twice the distance a step: it doubles until float32 ends, at a step that a plain loop finds, too.
    optimizer = optax.sgd(1.5)
    settings = {"batch_loss": lambda key, params, batch: jnp.sum(params["m"] ** 2), "optimizer": optimizer}
    state = training.init({"m": jnp.ones(2, jnp.float32)}, optimizer)
    m, first = np.ones(2, np.float32), 0
    with np.errstate(over="ignore"):
        while np.isfinite(np.sum(m**2)):
            m, first = m - np.float32(1.5) * 2 * m, first + 1
    last = first // EVERY * EVERY
    message = (
        rf"the loss of step {first} is inf; .*fold_in\(key, {first}\) .*data \[0, 7\]; the last .* has {last} steps"
    )
    seen = []
    with pytest.raises(FloatingPointError, match=message):
        run(tmp_path, state=state, num_steps=500, report=lambda chunk: seen.append(int(chunk.state.step)), **settings)
    assert first % EVERY and steps(tmp_path) == [last - 10, last - 5, last] and seen[-1] == last
    # It would end there again.
    with pytest.raises(FloatingPointError, match=f"the loss of step {first} is inf"):
        run(tmp_path, state=state, num_steps=500, **settings)


def test_parameters_that_are_no_numbers_stop_a_run_whose_losses_are(tmp_path):
    # The derivative of sqrt at 0, met in the last step of the first chunk.
    def loss(key, params, batch):
        m = params["m"]
        return jnp.sum(jnp.where(m < 3.5, 0.0, jnp.sqrt(4 - m)) - m)

    optimizer = optax.sgd(1.0)
    state = training.init({"m": jnp.zeros(1)}, optimizer)
    with pytest.raises(
        FloatingPointError, match=r"parameters after step 4 are not finite \(its loss is -4.0.*no check"
    ):
        run(tmp_path, state=state, batch_loss=loss, optimizer=optimizer)
    assert steps(tmp_path) == []


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.slow), "in the middle", "after"])
def test_a_save_that_fails_leaves_the_last_one(when, whole, tmp_path, monkeypatch):
    saved, manager = [], checkpoint.ocp.CheckpointManager
    save = manager.save

    def full(self, step, **given):
        saved.append(step)
        if len(saved) < 3:
            return save(self, step, **given)
        if when == "in the middle":
            half = tmp_path / f"{step}.orbax-checkpoint-tmp" / "state"
            half.mkdir(parents=True)
            (half / "part").write_bytes(b"half")
        if when == "after":
            save(self, step, **given)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manager, "save", full)
        message = r"the checkpoint of 15 steps could not be saved \(.*No space left.*\); the last .* has 10 steps"
        with pytest.raises(OSError, match=message):
            run(tmp_path)
    assert seal.broken(tmp_path / "10") is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if when == "after" else "error")
        found = run(tmp_path)
    chex.assert_trees_all_equal(found, whole[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "15", "20"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder", Path("/proc/nothing")):
        with pytest.raises(ValueError, match=r"folder = .*: cannot write into it"):
            run(folder, fit=after(0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"every": 0}, "every = 0"),
        ({"keep": 1}, "keep = 1"),
        ({"best": "error"}, "best = 'error': it needs evaluate"),
        ({"about": {"data": 3}}, "'data' is compared anyway"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"data": DATA.at[2, 1].set(jnp.nan)}, r"data\[2, 1\] = nan"),
    ],
)
def test_arguments_that_make_no_sense(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **bad)


@pytest.mark.slow
def test_float32_and_16_bits_come_back_as_they_were(tmp_path):
    optimizer = optax.adam(0.1, mu_dtype=jnp.bfloat16)
    state = training.init({"m": jnp.zeros(2, jnp.float32)}, optimizer)
    given = {"state": state, "data": DATA.astype(jnp.float32), "optimizer": optimizer}
    expected = run(tmp_path / "whole", **given)
    killed(tmp_path / "again", 2, **given)
    found = run(tmp_path / "again", **given)
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal_dtypes(found, expected)
    assert {str(x.dtype) for x in jax.tree.leaves(found)} == {"int32", "float32", "bfloat16"}


@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 devices")
def test_a_run_goes_on_on_another_number_of_devices(whole, tmp_path):
    mesh = Mesh(np.asarray(jax.devices()), ("devices",))
    shared = {"batch_loss": training.per_example(noisy_distance, mesh=mesh)}
    straight = run(tmp_path / "straight", **shared)
    killed(tmp_path / "mesh", 2, **shared)
    found = quietly(tmp_path / "mesh", **shared)
    chex.assert_trees_all_equal(found, straight)
    assert len(found.params["m"].sharding.device_set) == 4
    killed(tmp_path / "fewer", 2, **shared)
    fewer = quietly(tmp_path / "fewer")
    chex.assert_trees_all_close(fewer, whole[0], rtol=1e-12)
    assert len(fewer.params["m"].sharding.device_set) == 1


def test_chunks_without_checkpoints_are_the_steps_of_fit(whole):
    losses = []
    save = lambda chunk: losses.append(chunk.infos.loss)  # noqa: E731
    state = chunks.fit(KEY, fresh(), DATA, num_steps=STEPS, every=EVERY, save=save, **SETTINGS)
    chex.assert_trees_all_equal(state, whole[0])
    np.testing.assert_array_equal(np.concatenate(losses), whole[1].loss)


def test_the_seal_is_that_of_dp():
    # The packages do not import each other; what one of them learns about seals the other should know.
    dsm, dp = (Path(importlib.util.find_spec(f"{name}.seal").origin).read_text() for name in ("dsm", "dp"))
    assert dsm == dp


def test_without_orbax_it_says_what_to_install(monkeypatch):
    there = builtins.__import__

    def without(name, *given, **named):
        if name.startswith("orbax"):
            raise ImportError(name)
        return there(name, *given, **named)

    monkeypatch.delitem(sys.modules, "dsm.checkpoint")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'dsm-dp\[checkpoint\]'"):
        importlib.import_module("dsm.checkpoint")

"""Checkpoints: a solve that was killed goes on to the same answer, and nothing that was damaged is believed."""

import functools
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dp
from dp import seal
from dp.fingerprint import digest, fingerprint

checkpoint = pytest.importorskip("dp.checkpoint", reason="needs orbax-checkpoint")

ROOT = Path(__file__).parents[2]
MODEL = {"states": 48, "actions": 3, "successors": 2, "gamma": 0.99, "seed": 1, "dense": False}
EVERY = 40


@pytest.fixture(scope="module")
def mdp() -> dp.MDP:
    return dp.problems.garnet(**MODEL)


@pytest.fixture(scope="module")
def whole(mdp, tmp_path_factory) -> dp.Solution:
    """The answer of a run that nobody interrupted."""
    return run(mdp, tmp_path_factory.mktemp("whole"))


def run(mdp: dp.MDP, folder: Path, **changes) -> dp.Solution:
    return checkpoint.solve(mdp, folder, **({"every": EVERY, "tol": 1e-8} | changes))


class Killed(Exception):
    pass


def until(chunks: int):
    """Return value iteration that is killed after so many chunks."""
    left = iter(range(chunks))

    def solver(mdp, start, **given):
        if next(left, None) is None:
            raise Killed
        return dp.value_iteration(mdp, start, **given)

    return solver


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def certified(solution: dp.Solution, exact: dp.Solution) -> bool:
    return bool(jnp.all(solution.lower <= exact.upper) & jnp.all(exact.lower <= solution.upper))


def test_chunks_come_to_a_certificate_that_holds(mdp, whole):
    exact = dp.policy_iteration(mdp, tol=1e-9)
    assert whole.converged and float(jnp.max(whole.upper - whole.lower)) <= 1e-8
    assert certified(whole, exact)
    assert int(whole.iterations) > 4 * EVERY


@pytest.mark.parametrize("chunks", [0, pytest.param(1, marks=pytest.mark.slow), 3])
def test_an_interrupted_run_ends_with_the_same_bits(mdp, whole, chunks, tmp_path):
    with pytest.raises(Killed):
        run(mdp, tmp_path, solver=until(chunks))
    assert steps(tmp_path) == [EVERY * k for k in range(1, chunks + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(mdp, tmp_path)
    assert digest(found) == digest(whole)


@pytest.mark.slow
def test_only_as_many_checkpoints_as_asked_for_are_kept(mdp, tmp_path):
    run(mdp, tmp_path, keep=2, max_iters=90)
    assert steps(tmp_path) == [80, 90]


@pytest.mark.slow
def test_max_iters_counts_those_before_a_restart(mdp, tmp_path):
    with pytest.raises(Killed):
        run(mdp, tmp_path, solver=until(2))
    found = run(mdp, tmp_path, max_iters=85)
    assert int(found.iterations) == 85 and not found.converged


@pytest.mark.slow
def test_a_finished_run_is_certified_anew(mdp, whole, tmp_path):
    first = run(mdp, tmp_path)
    again = run(mdp, tmp_path)
    assert int(again.iterations) == int(first.iterations) + 1 and again.converged
    assert certified(again, whole)


@pytest.mark.slow
def test_values_on_disk_are_where_to_begin_and_not_what_is_claimed(mdp, whole, tmp_path):
    # A checkpoint of soft values is a bad start for hard ones: it costs sweeps, not truth.
    run(mdp, tmp_path, solver=functools.partial(dp.soft_value_iteration, temperature=5.0))
    found = run(mdp, tmp_path)
    assert found.converged and certified(found, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [dp.modified_policy_iteration, dp.inexact_policy_iteration, dp.policy_iteration, dp.anderson_iteration]
)
def test_other_solvers_go_on_too(mdp, whole, solver, tmp_path):
    run(mdp, tmp_path, solver=solver, every=1, max_iters=2)
    found = run(mdp, tmp_path, solver=solver, every=2, max_iters=3000)
    assert found.converged and certified(found, whole) and int(found.iterations) > 2


@pytest.mark.slow
def test_a_tolerance_that_rounding_forbids_ends(mdp, tmp_path):
    found = run(mdp, tmp_path, tol=1e-300, every=500)
    assert not found.converged and int(found.iterations) < 20_000


FORMS = {
    "dense": dp.as_dense,
    "ragged": dp.as_choices,
    "matrix-free": lambda mdp: dp.from_step(
        lambda s, a, e: ((s * 5 + a + e) % 16, (s + a).astype(jnp.float64)), np.array([0.5, 0.5]), 16, 2, 0.9
    ),
    "numpy": lambda mdp: jax.tree.map(np.asarray, mdp),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_model_has_checkpoints(mdp, form, tmp_path):
    model = FORMS[form](mdp)
    run(model, tmp_path, max_iters=10)
    found = run(model, tmp_path)
    assert found.converged and certified(found, dp.solve(model, tol=1e-8))


def damaged(folder: Path, how: str) -> None:
    newest = folder / str(steps(folder)[-1])
    data = max((newest / "arrays").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
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


@pytest.mark.parametrize(
    "how",
    ["cut", *(pytest.param(how, marks=pytest.mark.slow) for how in ("a bit", "gone", "never sealed", "seal cut"))],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(mdp, whole, how, tmp_path):
    with pytest.raises(Killed):
        run(mdp, tmp_path, solver=until(2))
    damaged(tmp_path, how)
    with pytest.warns(UserWarning, match=r"the checkpoint of iteration 80 .* is broken .*: going on from iteration 40"):
        found = run(mdp, tmp_path)
    assert digest(found) == digest(whole)


def test_where_all_are_damaged_nothing_is_begun_anew(mdp, tmp_path):
    with pytest.raises(Killed):
        run(mdp, tmp_path, solver=until(1))
    damaged(tmp_path, "cut")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: arrays/.* bytes instead of"):
        run(mdp, tmp_path)
    assert steps(tmp_path) == [40]


def test_killed_before_the_first_seal_it_begins_anew(mdp, whole, tmp_path):
    with pytest.raises(Killed):
        run(mdp, tmp_path, solver=until(1))
    damaged(tmp_path, "never sealed")
    with pytest.warns(UserWarning, match=r"iteration 40 .* it was not finished: beginning anew"):
        found = run(mdp, tmp_path)
    assert digest(found) == digest(whole)


def altered(mdp: dp.MDP, what: str) -> dp.MDP:
    nudge = {"P": mdp.P._replace(prob=mdp.P.prob.at[0, 5, 1].mul(1 - 2**-50)), "R": mdp.R.at[3, 1].add(1e-12)}
    return {
        "P": lambda: mdp._replace(P=nudge["P"]),
        "R": lambda: mdp._replace(R=nudge["R"]),
        "gamma": lambda: mdp._replace(gamma=mdp.gamma - 1e-9),
        "mask": lambda: mdp._replace(mask=jnp.ones(mdp.R.shape, bool).at[0, 0].set(False)),
        "number of states": lambda: dp.problems.garnet(**(MODEL | {"states": 50})),
        "dtype": lambda: jax.tree.map(lambda x: x.astype("f4") if x.dtype == np.float64 else x, mdp),
        "form of P": lambda: dp.as_dense(mdp),
    }[what]()


@pytest.mark.parametrize(
    "what",
    [
        "P",
        "gamma",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("R", "mask", "number of states", "dtype", "form of P")),
    ],
)
def test_the_checkpoint_of_another_model_is_refused_by_what_differs(mdp, what, tmp_path):
    run(mdp, tmp_path, max_iters=5)
    with pytest.raises(ValueError, match=f"another model: {what} is"):
        run(altered(mdp, what), tmp_path, tol=1e-3)


@pytest.mark.parametrize("bad", [{"every": 0}, {"keep": 1}, {"max_iters": 0}, {"tol": 0.0}])
def test_arguments_that_make_no_sense(mdp, bad, tmp_path):
    with pytest.raises(ValueError, match=next(iter(bad))):
        run(mdp, tmp_path, **bad)


def test_digests_tell_arrays_apart():
    x = np.arange(24.0)
    seen = {
        digest(y)
        for y in (x, x[::-1].copy(), x.reshape(4, 6), -x, x.astype("f4"), x.astype(int), x > 3, x[:-1], (x, x), None)
    }
    assert len(seen) == 10
    swapped = x.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert digest(swapped) not in seen


@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 devices")
def test_a_fingerprint_does_not_depend_on_how_a_model_is_laid_out(mdp):
    dense = dp.as_dense(mdp)
    assert fingerprint(dp.shard(dense)) == fingerprint(dense)
    for exchange in ("gather", "halo"):
        assert fingerprint(dp.shard(mdp, exchange=exchange)) == fingerprint(mdp)


@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 devices")
def test_a_run_goes_on_on_another_number_of_devices(mdp, whole, tmp_path):
    with pytest.raises(Killed):
        run(mdp, tmp_path, solver=until(2))
    with pytest.raises(Killed):
        run(dp.shard(mdp, exchange="gather"), tmp_path, solver=until(1))
    assert steps(tmp_path) == [40, 80, 120]
    assert digest(run(mdp, tmp_path).v) == digest(whole.v)


CHILD = """
import sys, time
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
import dp
from dp import checkpoint

def slowly(*given, **named):
    time.sleep(0.5)
    return dp.value_iteration(*given, **named)

mdp = dp.problems.garnet(**eval(sys.argv[3]))
mdp = mdp if sys.argv[2] == "1" else dp.shard(mdp)
print("begun", flush=True)
checkpoint.solve(mdp, sys.argv[1], solver=slowly, every=int(sys.argv[4]), tol=1e-8)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_and_other_numbers_of_devices_change_no_bit(mdp, whole, tmp_path):
    """Kill between two checkpoints, as soon as one is being written, and as soon as it has its name."""
    being_written = lambda: any("tmp" in path.name for path in tmp_path.glob("*"))  # noqa: E731
    moments = {
        1: lambda known: len(steps(tmp_path)) > known,
        2: lambda known: being_written(),
        4: lambda known: any(not (tmp_path / str(step) / seal.NAME).exists() for step in steps(tmp_path)),
    }
    for devices, moment in moments.items():
        known = len(steps(tmp_path))
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, str(tmp_path), str(devices), repr(MODEL), str(EVERY)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        deadline = time.monotonic() + 60
        while not moment(known) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "it ended before it was killed"
        child.stdout.close()
    assert len(steps(tmp_path)) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # killed before its seal, a checkpoint is passed over with a warning
        found = run(mdp, tmp_path)
    assert digest(found) == digest(whole)

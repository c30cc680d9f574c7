"""Memory foreseen: what does not fit is refused before it is made, in words that help, and nothing else is."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import dp
from dp import memory

ROOT = Path(__file__).parents[2]

DOORS = {
    "make_mdp": lambda: dp.make_mdp(np.full((10, 2, 10), 0.1), np.zeros((10, 2)), 0.9),
    "from_dynamics": lambda: dp.from_dynamics(np.full((10, 2, 10, 1), 0.1), np.zeros(1), 0.9),
    "from_successors": lambda: dp.from_successors(np.zeros((10, 2, 1), int), np.ones((10, 2, 1)), np.zeros(10), 0.9),
    "from_choices": lambda: dp.from_choices(
        np.ones(10), np.zeros(10, int), np.arange(11), np.arange(11), np.zeros(10), 0.9
    ),
    "from_step": lambda: dp.from_step(lambda s, a, e: (s, jnp.float64(0)), np.ones(1), 10, 2, 0.9),
    "garnet": lambda: dp.problems.garnet(10, 2, 2, gamma=0.9, seed=0),
    "random_dense": lambda: dp.problems.random_dense(10, 2, gamma=0.9, seed=0),
}


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


MEMINFO = "MemTotal: 24000 kB\nMemFree: 100 kB\nMemAvailable:   16000 kB\n"


@pytest.mark.parametrize("door", DOORS)
def test_a_model_above_the_limit_is_refused_with_both_numbers_and_the_switch(door):
    with (
        memory.limit(100),
        pytest.raises(MemoryError, match=r"takes about .* and the limit is 100 bytes: .*memory\.limit"),
    ):
        DOORS[door]()


def test_conversions_are_refused_too():
    mdp = dp.problems.garnet(10, 2, 2, gamma=0.9, seed=0, dense=False)
    for convert in (dp.as_dense, dp.as_successors, dp.as_choices):
        with memory.limit(100), pytest.raises(MemoryError):
            convert(mdp)


def test_more_than_any_host_has_is_refused_before_anything_is_allocated():
    with pytest.raises(MemoryError, match="takes about 7,040 TB at its peak"):
        dp.problems.garnet(10**13, 4, 4, gamma=0.9, seed=0)
    mdp = dp.problems.garnet(1_000_000, 1, 2, gamma=0.9, seed=0, dense=False)
    with pytest.raises(MemoryError, match=r"P of shape \[1000000, 1, 1000000\] takes about 25 TB .*this host has"):
        dp.as_dense(mdp)


def test_a_limit_that_is_not_reached_changes_nothing():
    free = DOORS["garnet"]()
    with memory.limit(1e6):
        np.testing.assert_array_equal(DOORS["garnet"]().P, free.P)


def test_none_refuses_nothing_and_limits_nest():
    with memory.limit(1):
        with memory.limit(None):
            DOORS["make_mdp"]()
            memory.require(10**30, "everything", "")
        with pytest.raises(MemoryError):
            DOORS["make_mdp"]()
    DOORS["make_mdp"]()


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_a_limit_is_a_number_of_bytes(bad):
    with pytest.raises(ValueError, match="limit must be"), memory.limit(bad):
        pass


def test_the_host_is_asked_for_what_it_has(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    memory.require(10**9, "a model", "")
    with pytest.raises(MemoryError, match=r"a model takes about 1\.1 GB at its peak and this host has 1 GB: buy more"):
        memory.require(11 * 10**8, "a model", "buy more")


def test_without_control_groups_it_is_what_the_kernel_says(tmp_path):
    assert memory.available(write(tmp_path, proc__meminfo=MEMINFO)) == 16000 * 1024


def test_unknown_systems_refuse_nothing(tmp_path, monkeypatch):
    assert memory.available(tmp_path) is None
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require(10**30, "everything", "")


def test_a_control_group_of_version_2_counts_with_all_above_it(tmp_path):
    root = write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/a/b\n",
        sys__fs__cgroup__a__b__memory_dot_max="max\n",
        sys__fs__cgroup__a__b__memory_dot_current="5\n",
        sys__fs__cgroup__a__memory_dot_max="9000\n",
        sys__fs__cgroup__a__memory_dot_current="5000\n",
        sys__fs__cgroup__a__memory_dot_stat="anon 4000\ninactive_file 700\n",
    )
    assert memory.available(root) == 9000 - 5000 + 700


def test_inside_a_container_the_limit_lies_at_the_mount(tmp_path):
    root = write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/not/visible/here\n",
        sys__fs__cgroup__memory_dot_max="1000\n",
        sys__fs__cgroup__memory_dot_current="2000\n",
    )
    assert memory.available(root) == 0


def test_a_control_group_of_version_1_counts(tmp_path):
    folder = tmp_path / "sys/fs/cgroup/memory/job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("8000\n")
    (folder / "memory.usage_in_bytes").write_text("3000\n")
    (folder / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 50\n")
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="4:cpu,memory:/job\n1:name=systemd:/\n0::/\n")
    assert memory.available(tmp_path) == 8000 - 3000 + 50


PEAK = """
import sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import dp
from dp import memory

def status(name):
    return next(1024 * int(x.split()[1]) for x in open("/proc/self/status") if x.startswith(name))

S, A, K, M = 2000, 4, 10, 200_000
rng = np.random.default_rng(0)
P, R = np.full((S, A, S), 1 / S), np.zeros((S, A))
state, prob, rewards = rng.integers(0, M, (M, A, K), np.int32), np.full((M, A, K), 1 / K), np.zeros((M, A))
rows = prob.ravel(), state.ravel(), K * np.arange(M * A + 1), A * np.arange(M + 1), rewards.ravel()
build, estimate = {
    "dense": (lambda: dp.make_mdp(P, R, 0.9), memory.dense(P.size, 8)),
    "successors": (lambda: dp.from_successors(state, prob, rewards, 0.9), memory.successors(prob.size, 8)),
    "choices": (lambda: dp.from_choices(*rows, 0.9), memory.choices(prob.size, M * A, 8)),
}[sys.argv[1]]
jax.block_until_ready(dp.problems.garnet(5000, 4, 4, gamma=0.9, seed=0, dense=False))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
jax.block_until_ready(build())
print((status("VmHWM") - before) / estimate)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak that Linux counts")
@pytest.mark.parametrize("door", ["dense", "successors", "choices"])
def test_estimates_are_right_to_a_quarter(door):
    run = subprocess.run([sys.executable, "-c", PEAK, door], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.75 < float(run.stdout) < 1.25, run.stdout

"""The model of a sharded sweep: what it counts is what moves, and its sums are those of its equation."""

import math

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import dp
from experiments import bench_sharding as bench


def mesh(devices):
    return Mesh(np.asarray(jax.devices()[:devices]), ("states",))


def read_of_others(mdp, devices):
    """The longest list, and all lists together, of states that one part reads of another."""
    state = np.asarray(mdp.P.state)
    n = mdp.size // devices
    parts = [set(state[:, j * n : (j + 1) * n].ravel().tolist()) for j in range(devices)]
    lists = [len({s for s in parts[j] if s // n == i}) for j in range(devices) for i in range(devices) if i != j]
    return max(lists), np.mean(lists) / n


def test_a_grid_in_slabs_reads_a_row_of_each_neighbour():
    mdp = dp.problems.gridworld(8, 8, gamma=0.9, slip=0.2, dense=False)
    does = bench.work(dp.shard(mdp, mesh(4), exchange="halo"), random=False)
    assert does.longest == 8
    assert does.seen == 16 + 4 * 8
    # Lists of all pairs of devices are filled up to the longest, of neighbours or not.
    assert bench.exchanged(does) == 4 * 3 * 8 * 8


def test_a_gather_moves_all_values_to_all_other_devices():
    mdp = dp.problems.gridworld(8, 8, gamma=0.9, slip=0.2, dense=False)
    does = bench.work(dp.shard(mdp, mesh(4), exchange="gather"), random=False)
    assert (does.longest, does.seen, does.rows, does.pairs) == (0, 64, 256, 3 * 256)
    assert bench.exchanged(does) == 8 * 3 * 64


@pytest.mark.parametrize(("actions", "successors"), [(1, 1), (1, 2), (2, 4)])
def test_a_part_of_a_garnet_reads_all_but_a_power_of_e_of_any_other(actions, successors):
    mdp = dp.problems.garnet(8192, actions, successors, gamma=0.9, seed=0, dense=False)
    longest, share = read_of_others(mdp, 4)
    assert share == pytest.approx(1 - math.exp(-actions * successors / 4), abs=0.01)
    assert bench.work(dp.shard(mdp, mesh(4), exchange="halo"), random=True).longest == longest


def test_a_curve_goes_through_its_points_and_is_a_power_between_them():
    curve = bench.Curve([10.0, 1000.0], [2.0, 8.0])
    np.testing.assert_allclose([curve.at(x) for x in (1, 10, 100, 1000, 5000)], [2, 2, 4, 8, 8], rtol=1e-12)


def test_the_parts_of_a_sweep_are_its_counts_over_the_rates():
    flat = [bench.Curve([1.0], [rate]) for rate in (4.0, 3.0, 2.0)]
    rates = bench.Rates(*flat, link=5.0, empty={"gather": 7.0, "halo": 9.0})
    does = bench.Work(states=8, rows=16, pairs=32, devices=2, seen=8, longest=0, random=True)
    touched = 12 * 32 + 24 * 16 + 8 * 8
    expected = {"P": touched / 4, "gathers": 96.0, "exchange": 64 / 5, "empty": 7.0}
    assert bench.predict(does, rates) == pytest.approx(expected, rel=1e-12)
    halo = does._replace(seen=6, longest=1, random=False)
    expected = {"P": (touched + 16 * 12 + 12 * 4) / 4, "gathers": 2.0 * (32 + 4), "exchange": 16 / 5, "empty": 9.0}
    assert bench.predict(halo, rates) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_a_small_run_measures_every_layout(tmp_path):
    found = bench.main(states=(256,), devices=(2,), repeats=1, out=tmp_path / "run")
    sweeps = found["metrics"]["sweeps"]
    assert [(row["model"], row["exchange"]) for row in sweeps] == [
        ("grid", "gather"),
        ("grid", "halo"),
        ("garnet", "gather"),
        ("garnet", "halo"),
    ]
    assert [row["exchanged"] for row in sweeps[:2]] == [8 * 256, 8 * 2 * 16]
    for row in sweeps:
        assert row["seconds"] > 0
        assert row["predicted"] == pytest.approx(sum(row["parts"].values()))
        assert row["error"] == pytest.approx(row["predicted"] / row["seconds"] - 1)
    assert (tmp_path / "run" / "sharding.png").exists()


def test_states_that_are_no_square_or_do_not_divide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="states must be squares, got 12"):
        bench.main(states=(12,), out=tmp_path)
    with pytest.raises(ValueError, match="states must be multiples of devices, got 9 and 2"):
        bench.main(states=(9,), devices=(2,), out=tmp_path)

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsm
from experiments import bench_dsm, bench_dsm_peers


@pytest.mark.slow
def test_the_reference_score_is_that_of_the_smoothed_mixture():
    target = dsm.eight_gaussians(bench_dsm_peers.RADIUS, bench_dsm_peers.STD).smooth(bench_dsm_peers.SIGMA)
    x = bench_dsm_peers.check_points()[:20].astype(float)
    expected = jax.vmap(target.score)(jnp.asarray(x))
    # The means are stored in single precision.
    np.testing.assert_allclose(bench_dsm_peers.smoothed_score(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_small_run_times_and_judges(tmp_path):
    found = bench_dsm.main(
        tasks=("denoising-256", "mala-mixture"), peers=("blackjax",), processors=(1,), rounds=1, out=tmp_path
    )
    rows = found["metrics"]["rows"]
    assert [row["library"] for row in rows] == ["dsm", "blackjax"] * 2
    assert rows[1]["failed"] == "does not train"
    # 500 steps from nothing learn something; chains are where they belong.
    assert rows[0]["error"] < 0.9
    assert rows[2]["error"] < 5
    assert 0 < rows[0]["floor"] < rows[0]["seconds"]
    assert [goal["task"] for goal in found["metrics"]["goals"]] == ["mala-mixture"]
    assert json.loads((tmp_path / "metrics.json").read_text())["figures"] == ["ratios.png"]


def test_bad_arguments_are_refused_by_name(tmp_path):
    for name, value in (("tasks", ("paint",)), ("peers", ("dsm",)), ("processors", (99,)), ("rounds", 0)):
        with pytest.raises(ValueError, match=name):
            bench_dsm.main(**{name: value}, out=tmp_path)

"""The experiment of Section 1(c), small: its numbers agree with each other, and impossible arguments are refused."""

import jax
import pytest

from experiments import score_matching

TINY = {"steps": 60, "batch_size": 64, "width": 16, "train_size": 500, "chains": 50, "langevin_steps": 5}


@pytest.fixture(autouse=True)
def default_settings():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
def test_score_matching(tmp_path):
    record = score_matching.main(**TINY, out=tmp_path / "run")
    rows = record["metrics"]["scores"]
    assert rows["exact smoothed score"]["fisher_divergence"] == 0
    # Equation (2) ranks scores by their distance from the smoothed score: on 20,000 points its excess over the floor is
    # the Fisher divergence up to an error of a few per cent.
    for name in ("exact data score", "energy", "score network"):
        assert rows[name]["excess_over_floor"] == pytest.approx(rows[name]["fisher_divergence"], rel=0.2, abs=0.1)
    # The exact floor, against its estimate from 20,000 points, each with a scatter of about 1 / sigma^2.
    found = record["metrics"]
    assert abs(found["floor_of_equation_2"] - found["floor_on_the_sample"]) < 4 / 0.3**2 / 20_000**0.5
    assert record["metrics"]["kernel_score_against_grad"] < 1e-5
    assert record["dtype"] == "float32"
    assert {p.stem for p in (tmp_path / "run").glob("*.png")} == {"score_field", "density", "samples", "training"}


@pytest.mark.parametrize(
    ("name", "value"), [("sigma", 0.0), ("sigma", -1.0), ("steps", 0), ("step_size", 0.0), ("chains", 1), ("width", 0)]
)
def test_impossible_arguments(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be"):
        score_matching.main(**{name: value}, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []

"""The bias of ULA: the expansion in h against the kernel on a grid, and both against the closed form of a Gaussian."""

import json

import jax
import numpy as np
import pytest

from experiments import langevin_bias
from experiments import langevin_bias_predictions as theory
from experiments import langevin_bias_report as report

TINY = {"steps": (0.1, 0.3), "chains": 200, "draws": 5, "burn_in": 10, "thin": 4, "grid": 401}


@pytest.fixture(autouse=True)
def default_settings():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("h", [0.05, 0.3])
def test_the_kernel_on_a_grid_knows_a_gaussian(h):
    line = theory.on_a_line(theory.targets()["Gaussian"], 601)
    q = theory.stationary(line, h)
    variance = 1 / (1 - h / 2)
    np.testing.assert_allclose(q, np.exp(-(line.x**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance), atol=1e-10)
    predicted = theory.predictions(line, h)
    assert predicted["kernel"]["second_moment"] == pytest.approx(variance - 1, abs=1e-9)
    assert predicted["first order"]["second_moment"] == pytest.approx(h / 2, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Gaussian", "two modes"])
def test_the_expansion_is_the_slope_of_the_kernels_density(name):
    line = theory.on_a_line(theory.targets()[name], 901)
    # What is left after the first order is of second order: a half of h leaves a quarter.
    left = [np.abs(theory.stationary(line, h) - line.p * (1 + h * line.change)).max() for h in (0.02, 0.01)]
    assert left[0] < 0.05 * line.p.max()
    assert left[0] / left[1] == pytest.approx(4, rel=0.15)
    assert np.sum(line.p * line.change) * line.weight == pytest.approx(0, abs=1e-10)


@pytest.mark.slow
def test_measures_of_exact_draws_and_of_wider_ones():
    line = theory.on_a_line(theory.targets()["Gaussian"], 601)
    x = np.random.default_rng(0).normal(size=(2000, 20))
    row = report.measure(x, line, report.signs(1.2 * x, line))
    assert abs(row["second_moment"]) < 4 * row["second_moment_se"]
    assert abs(row["total_variation"]) < 4 * row["total_variation_se"]
    # N(0, 1.44) against N(0, 1): they cross at |x| = r, and half the distance is the mass between.
    row = report.measure(1.2 * x, line, report.signs(1.2 * x, line))
    p, q = line.p, np.exp(-(line.x**2) / 2.88) / np.sqrt(2 * np.pi * 1.44)
    exact = np.abs(p - q).sum() * line.weight / 2
    assert abs(row["second_moment"] - 0.44) < 4 * row["second_moment_se"]
    # Bins merge a little of the difference.
    assert abs(row["total_variation"] - exact) < 4 * row["total_variation_se"] + 0.003


def test_a_bias_below_the_noise_of_its_bins_keeps_its_total_variation():
    # N(0, 1.0101), as ULA samples N(0, 1) at h = 0.02: a tenth of the noise in a bin, so signs of its own are a guess.
    line = theory.on_a_line(theory.targets()["Gaussian"], 601)
    rng, scale = np.random.default_rng(1), 0.99**-0.5
    largest = report.signs(rng.normal(size=(4000, 50)) * 0.84**-0.5, line)
    rows = [report.measure(rng.normal(size=(400, 50)) * scale, line, largest) for _ in range(200)]
    exact = theory.predictions(line, 0.02)["kernel"]["total_variation"]
    found = np.array([row["total_variation"] for row in rows])
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert error < exact / 8
    assert abs(found.mean() - exact) < 4 * error
    # What a run calls its standard error is the scatter of the runs.
    assert np.mean([row["total_variation_se"] for row in rows]) == pytest.approx(found.std(), rel=0.3)


def test_without_a_bias_the_total_variation_is_zero_within_its_error():
    line = theory.on_a_line(theory.targets()["Gaussian"], 601)
    rng = np.random.default_rng(2)
    draw = lambda: rng.normal(size=(400, 50))  # noqa: E731
    rows = [report.measure(draw(), line, report.signs(draw(), line)) for _ in range(300)]
    z = np.array([row["total_variation"] / row["total_variation_se"] for row in rows])
    assert abs(z.mean()) < 4 / np.sqrt(300)
    # 20 batches: Student's t with 19 degrees of freedom has the variance 19 / 17.
    assert z.var() == pytest.approx(19 / 17, rel=4 * np.sqrt(2 / 300))


@pytest.mark.parametrize("name", ["Gaussian", pytest.param("two modes", marks=pytest.mark.slow)])
def test_the_signs_of_the_bias_at_the_largest_step_are_those_at_all(name):
    line = theory.on_a_line(theory.targets()[name], 601)
    small, large = (theory.stationary(line, h) - line.p for h in (0.02, 0.32))
    assert np.sum(np.sign(large) * small) > 0.98 * np.abs(small).sum()


def test_the_slope_of_a_power():
    h = [0.1, 0.2, 0.4]
    found = report.slope(h, [3 * v**2 for v in h], [1e-4] * 3)
    assert found is not None
    order, error = found
    assert order == pytest.approx(2) and 0 < error < 0.1
    assert report.slope(h, [1e-5] * 3, [1e-4] * 3) is None


@pytest.mark.slow
def test_writes_the_record_and_the_figure(tmp_path):
    record = langevin_bias.main(**TINY, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == record
    assert record["figures"] == ["bias.png"]
    for rows in record["metrics"].values():
        assert set(rows["measured"]) == {"ULA", "MALA", "BAOAB", "BAOAB, high friction"}
        assert all(0.5 < row["acceptance"] < 1 for row in rows["measured"]["MALA"])
        for row, predicted in zip(rows["measured"]["ULA"], rows["predicted"], strict=True):
            off = row["second_moment"] - predicted["kernel"]["second_moment"]
            assert abs(off) < 4 * row["second_moment_se"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": (0.1,)}, "steps must hold at least two"),
        ({"steps": (0.2, 0.1)}, "steps must ascend between 0 and 0.7"),
        ({"steps": (0.1, 0.8)}, "steps must ascend between 0 and 0.7"),
        ({"steps": (0.0, 0.1)}, "steps must ascend between 0 and 0.7"),
        ({"steps": (1e-4, 0.1)}, "grid must be finer for h = 0.0001"),
        ({"chains": 39}, "chains must be at least 40"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"burn_in": -1}, "burn_in must be at least 0"),
        ({"thin": 0}, "thin must be at least 1"),
        ({"grid": 100}, "grid must be at least 200"),
    ],
)
def test_impossible_arguments_write_nothing(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        langevin_bias.main(**(TINY | bad), out=tmp_path / "new")
    assert not list(tmp_path.iterdir())

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dsm
from dsm import metrics
from experiments import (
    low_density,
    low_density_models,
    low_density_report,
    low_density_statistics,
    low_density_truth,
)

TINY = {"seeds": 2, "steps": 3, "batch_size": 8, "train_size": 20, "width": 4, "nodes": 16, "num_points": 100}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "low_density"
    return out, low_density.main(sigmas=(1.0, 0.5), out=out, **TINY)


@pytest.mark.slow
def test_writes_the_record_and_the_figures(run):
    out, record = run
    assert json.loads((out / "metrics.json").read_text()) == record
    assert {path.name for path in out.iterdir()} == {"metrics.json", *record["figures"]}
    assert record["figures"] == ["error_by_density.png", "error_by_sigma.png", "densities.png", "error_maps.png"]


@pytest.mark.slow
def test_reports_every_model_and_set_of_points(run):
    metrics = run[1]["metrics"]
    at_one_sigma, others = ["equation 2, σ = 0.5", "equation 2, σ = 1"], ["denoising over levels", "persistent CD"]
    models = ["equation 1", *at_one_sigma, *others]
    assert list(metrics["density"]) == models
    for points in low_density_truth.POINTS:
        assert list(metrics["error"][points]) == models
        assert list(metrics["error_from_smoothed_score"][points]) == models[1:-1]
        assert list(metrics["equation_2_minus_equation_1"][points]) == at_one_sigma
        assert list(metrics["others_minus_equation_1"][points]) == others
        assert list(metrics["bias_of_smoothing"][points]) == at_one_sigma
        assert all(len(row["mean"]) == len(row["half_width"]) == 10 for row in metrics["error"][points].values())
        assert metrics["median_log_density"][points] == sorted(metrics["median_log_density"][points])
        # More smoothing takes the target further from the data in the tail.
        less, more = metrics["bias_of_smoothing"][points].values()
        assert less[0] < more[0] < metrics["data_score"][points][0]
        assert sum(f"Points {points}:" in sentence for sentence in metrics["verdict"]) == 2
    for name in ("Denoising over levels", "Persistent CD"):
        (sentence,) = (s for s in metrics["verdict"] if s.startswith(f"{name} minus equation 1"))
        assert sentence.count("s.e.") == len(low_density_truth.POINTS)


@pytest.mark.slow
def test_truth_by_quadrature(run):
    metrics = run[1]["metrics"]
    assert abs(metrics["truth"]["mass_outside_box"]) < 1e-5
    assert metrics["quadrature_error"]["all models, compared"] < 1e-4
    # Binomial: a hundred points choose the quantile.
    assert metrics["truth"]["sparse_mass"] < 0.08
    for row in metrics["density"].values():
        assert row["kl"]["mean"] > 0
        assert 0 < row["sparse_mass"]["mean"] < 1


@pytest.mark.slow
def test_the_truth_itself_has_no_error():
    with jax.enable_x64(False):
        setting = low_density_truth.make_setting(jax.random.key(1), num_points=200, nodes=40)
        target = setting.target
        evaluate = jax.jit(
            lambda sigma: low_density_truth.evaluate(lambda x: 3.0 - target.logdensity(x), setting, sigma)
        )
        found = evaluate(jnp.asarray(0.5))
        truth = low_density_truth.describe(setting, [0.5])
    # Float32 scores reach 30, and errors are squared.
    assert found.to_data.max() < 1e-6
    assert abs(found.kl) < 1e-5
    np.testing.assert_allclose(found.log_partition, -3.0, atol=1e-5)
    np.testing.assert_allclose(found.nll, truth.entropy, atol=1e-5)
    np.testing.assert_allclose(found.sparse_mass, truth.sparse_mass, atol=1e-6)
    # Against its own target, the data's score errs by exactly what smoothing does to it.
    bias = np.stack(
        [low_density_truth.rms_by_decile(*pair) for pair in zip(found.to_smoothed, truth.decile, strict=True)]
    )
    np.testing.assert_allclose(bias, truth.bias[0], rtol=1e-4)


@pytest.mark.parametrize("num", [100, 101, 109])
def test_deciles_partition_the_values_in_order(num):
    values = np.random.default_rng(num).normal(size=num)
    decile = low_density_truth.deciles(values)
    sizes = np.bincount(decile, minlength=10)
    assert sizes.sum() == num and sizes.max() - sizes.min() <= 1
    for d in range(9):
        assert values[decile == d].max() < values[decile == d + 1].min()


def test_deciles_split_ties():
    assert np.bincount(low_density_truth.deciles(np.zeros(50))).tolist() == [5] * 10


def test_rms_by_decile_against_a_loop():
    rng = np.random.default_rng(0)
    squares, values = rng.exponential(size=(2, 3, 60)), rng.normal(size=60)
    found = low_density_truth.rms_by_decile(squares, low_density_truth.deciles(values))
    order = sorted(range(60), key=lambda n: values[n])
    for i in range(2):
        for j in range(3):
            for d in range(10):
                total = 0.0
                for n in order[6 * d : 6 * d + 6]:
                    total += squares[i, j, n] / 6
                assert found[i, j, d] == pytest.approx(total**0.5)


@pytest.mark.slow
def test_the_deciles_are_the_bins_of_the_library():
    target = low_density_truth.three_modes()
    x = jax.random.normal(jax.random.key(5), (57, 2)) * 3
    found = metrics.score_error_by_density(jnp.zeros_like, target, x, num_bins=10)
    decile = low_density_truth.deciles(np.asarray(jax.vmap(target.logdensity)(x)))
    squares = np.sum(np.asarray(jax.vmap(target.score)(x)) ** 2, axis=1)
    np.testing.assert_allclose(found.rms_error, low_density_truth.rms_by_decile(squares, decile), rtol=1e-5)


def test_interval_is_students():
    values = np.random.default_rng(3).normal(size=7)
    lower, upper = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert low_density_statistics.interval(values) == pytest.approx((values.mean(), lower, upper))


def test_comparison_names_what_it_decides():
    rng = np.random.default_rng(4)
    baseline = rng.normal(10, 3, size=(8, 10))
    shift = np.array([-1.0] * 4 + [0.0] * 3 + [1.0] * 3)
    # Paired: the seeds scatter by 3, the differences by 0.1 around the shift; the middle is symmetric about 0.
    noise = np.tile([[0.1], [-0.1]], (4, 10))
    found = low_density_statistics.compare(baseline + shift + noise, baseline)
    assert (found["better_in"], found["worse_in"], found["sparsest_is"]) == ([1, 2, 3, 4], [8, 9, 10], "better")
    assert found["sparsest"]["mean"] == pytest.approx(-1)
    assert found["sparsest_standard_error"] == pytest.approx(0.1 / np.sqrt(7))


def test_runs():
    assert low_density_report.runs([1, 2, 3, 5, 9, 10]) == "1-3, 5, 9-10"
    assert low_density_report.runs([]) == ""


def test_box_holds_the_data():
    target = low_density_truth.three_modes()
    assert isinstance(target, dsm.GaussianMixture)
    spread = np.sqrt(np.diagonal(target.covariances, axis1=1, axis2=2))
    assert (np.abs(target.means) + 4.9 * spread < low_density_truth.HALF_WIDTH).all()


def test_the_spread_is_that_of_the_data():
    target = low_density_truth.three_modes()
    mean = target.weights @ target.means
    second = target.weights @ (target.means**2 + np.diagonal(target.covariances, axis1=1, axis2=2))
    np.testing.assert_allclose(np.sqrt(np.mean(second - mean**2)), low_density_truth.SPREAD, rtol=0.05)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"seeds": 1}, "seeds must be at least 2, got 1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"num_points": 99}, "num_points must be at least 100"),
        ({"nodes": 15}, "nodes must be at least 16"),
        ({"sigmas": ()}, "at least one noise scale"),
        ({"sigmas": (0.5, 0.0)}, "sigmas must be positive and finite, got 0.0"),
        ({"sigmas": (float("nan"),)}, "sigmas must be positive and finite, got nan"),
        ({"sigmas": (0.5, 0.5)}, "sigmas must differ"),
        ({"ladder_size": 1}, "ladder_size must be at least 2, got 1"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
    ],
)
def test_impossible_arguments_write_nothing(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        low_density.main(**(TINY | bad), out=tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_loss_that_overflows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seed 0, equation 2, σ = 1e-30: the loss is not finite"):
        low_density.main(sigmas=(1e-30,), out=tmp_path / "new", **TINY)
    assert not list(tmp_path.iterdir())


def test_models_that_differ_by_sigma_alone_share_a_program():
    budget = {"ladder_size": 3, "steps": 2, "batch_size": 4, "learning_rate": 1e-3}
    # The smallest scale may lie above the spread of the data.
    for levels in ([0.5, 1.0], [3.0, 4.0]):
        models = low_density_models.make_models(dsm.EnergyMLP(widths=(4, 4)), levels, **budget)
        likelihood, *fixed, over_levels, chains = models
        assert [model.name for model in models] == low_density_models.names_of(levels)
        assert [model.sigma for model in models] == [0.0, *levels, levels[0], 0.0]
        assert len({model.train for model in fixed}) == 1
        assert len({likelihood.train, fixed[0].train, over_levels.train, chains.train}) == 4
        assert {model.energy for model in models} == {likelihood.energy, over_levels.energy}


def test_the_model_over_levels_is_judged_at_its_smallest_scale():
    network = dsm.EnergyMLP(widths=(4, 4))
    *_, model, _ = low_density_models.make_models(
        network, [0.5, 1.0], ladder_size=3, steps=2, batch_size=4, learning_rate=1e-3
    )
    conditional = dsm.ConditionalEnergyMLP(widths=(4, 4), sigma_data=low_density_truth.SPREAD)
    x = jnp.asarray([0.3, -1.2])
    params = conditional.init(jax.random.key(0), x, 1.0)
    assert model.energy(params)(x) == conditional.apply(params, x, 0.5)
    assert model.energy(params)(x) != conditional.apply(params, x, 1.0)

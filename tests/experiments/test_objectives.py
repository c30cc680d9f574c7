"""The study of objectives, small: its numbers agree with each other, and impossible arguments are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsm
from experiments import objectives, objectives_errors, objectives_losses, objectives_noise, objectives_report

TINY = {
    "seeds": 1,
    "targets": ("ring",),
    "objectives": (objectives_losses.DENOISING, objectives_losses.PERSISTENT, objectives_losses.NOISE_CONTRASTIVE),
    "steps": 30,
    "batch_size": 16,
    "width": 8,
    "train_size": 500,
    "test_size": 2000,
    "nodes": 16,
    "cd_steps": 2,
    "chains": 30,
    "chain_steps": 5,
    "sigmas": (0.01, 0.1),
    "dims": (1, 2),
    "examples": 64,
    "half_steps": 5,
}


@pytest.fixture(autouse=True)
def default_settings():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
def test_objectives(tmp_path):
    record = objectives.main(**TINY, out=tmp_path / "run")
    metrics = record["metrics"]
    rows = metrics["targets"]["ring"]
    assert set(rows) == {*TINY["objectives"], objectives_report.TRUTH}
    for name in TINY["objectives"]:
        row = {key: value["seeds"][0] for key, value in rows[name].items()}
        # Equation (2) is its floor plus the Fisher divergence.
        error = 4 * row["denoising_excess_error"]
        assert row["denoising_excess"] == pytest.approx(row["fisher_divergence"], abs=error)
        assert row["kl"] > 0
    assert rows[objectives_report.TRUTH]["fisher_divergence"]["mean"] < 1e-6
    assert rows[objectives_report.TRUTH]["kl"]["mean"] == pytest.approx(0, abs=1e-4)
    noise = metrics["noise_by_sigma"]["objectives"]
    assert noise[objectives_losses.DENOISING]["slope_of_trace"] == pytest.approx(-2, abs=0.3)
    assert noise[objectives_losses.VARIATE]["slope_of_trace"] == pytest.approx(0, abs=0.3)
    # In one dimension a direction is a sign, and slicing leaves nothing out.
    first = {name: row["trace"][0] for name, row in metrics["noise_by_dimension"]["objectives"].items()}
    for name in (objectives_losses.SLICED, objectives_losses.REDUCED):
        assert first[name] == pytest.approx(first[objectives_losses.IMPLICIT], rel=1e-3)
    assert {p.stem for p in (tmp_path / "run").glob("*.png")} == {"errors", "densities", "gradient_noise", "time"}


@pytest.mark.slow
def test_objectives_for_one_example_are_averaged_over_perturbed_data():
    network = dsm.EnergyMLP((4,))
    x = jnp.array([[0.3, -0.2], [1.0, 0.5]])
    params = objectives_losses.parameters(network, jax.random.key(0), x[0])
    context = objectives_noise.context_of(dsm.ring(), 0.3)
    table = objectives_losses.lifted(network, 1)
    assert tuple(table) == objectives_losses.NAMES

    @jax.jit
    def both(params, x):
        names = objectives_losses.DENOISING, objectives_losses.EXPLICIT
        losses = [table[name](jax.random.key(1), params, x, context, None) for name in names]
        keys, _ = (jax.random.split(k, 2) for k in jax.random.split(jax.random.key(1)))
        x_tilde = jax.vmap(dsm.perturb, (0, 0, None))(keys, x, 0.3)
        s = jax.vmap(dsm.score_of(lambda x: network.apply(params["network"], x)))(x_tilde)
        aims = -(x_tilde - x) / 0.3**2, jax.vmap(dsm.ring().smooth(0.3).score)(x_tilde)
        return losses, [0.5 * jnp.mean(jnp.sum((s - aim) ** 2, axis=1)) for aim in aims]

    found, expected = both(params, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_moments_are_unbiased():
    # For rows of N(m, I): E trace = P and E mean_squared = |m|².
    rng = np.random.default_rng(0)
    m = np.array([0.3, -0.1, 0.2])
    found = [objectives_noise.moments(m + rng.normal(size=(5, 3))) for _ in range(1000)]
    for name, truth in (("trace", 3.0), ("mean_squared", m @ m)):
        values = np.array([row[name] for row in found])
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))


def test_a_power_law_has_its_exponent_for_slope():
    x = np.array([1.0, 2.0, 5.0, 7.0])
    assert objectives_noise.slope(x, 3 * x**-1.5) == pytest.approx(-1.5)


def test_the_box_of_quadrature_holds_a_smoothed_target():
    q = objectives.TARGETS["ring"]().smooth(0.2)
    _, fine = objectives_errors.grids(q, 24)
    mass = jax.jit(lambda grid: jnp.exp(dsm.log_partition(lambda x: -q.logdensity(x), grid)))(fine)
    assert float(mass) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seeds", 0),
        ("steps", 0),
        ("sigma", 0.0),
        ("bandwidth", -1.0),
        ("step_size", float("nan")),
        ("nodes", 2),
        ("targets", ("square",)),
        ("targets", ()),
        ("objectives", ("guessing",)),
        ("sigmas", (0.05, 0.2)),
        ("sigmas", (0.1, 0.05)),
        ("dims", (4,)),
        ("dims", (4, 2)),
    ],
)
def test_impossible_arguments(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must"):
        objectives.main(**{name: value}, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []

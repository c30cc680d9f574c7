"""Likelihood of tables: a network that is a Gaussian against scipy, baselines, what is chosen on what, the record."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.model_selection import KFold

import dsm

pytest.importorskip("dsm.checkpoint", reason="needs orbax-checkpoint")
flow = pytest.importorskip("dsm.flow", reason="needs diffrax")

from experiments import tables, tables_models, tables_report  # noqa: E402

TINY = {"splits": 2, "folds": 2, "networks": 1, "width": 4, "num_blocks": 1, "steps": 4, "batch_size": 8}
TINY |= {"sigmas": (0.3, 0.6), "checkpoints": 2}
NETWORK = dsm.ScoreMLP(width=4, num_blocks=1)
DENSITY = jax.jit(partial(tables_models.log_density, network=NETWORK))


@pytest.fixture(autouse=True)
def default_settings():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def few(monkeypatch):
    """Few mixtures to choose from."""
    mixtures = {"n_components": [1, 2], "covariance_type": ["full"], "reg_covar": [1e-2]}
    monkeypatch.setattr(tables_models, "MIXTURES", mixtures)
    monkeypatch.setattr(tables_models, "BANDWIDTHS", {"bandwidth": [0.3, 1.0]})


def init(views, networks):
    return jax.jit(lambda key: tables_models.init(key, NETWORK, 3, views, networks))(jax.random.key(0))


def skewed(rng, num):
    """Rows of three columns that depend on each other, in units far apart."""
    u = rng.normal(size=(num, 3))
    return np.column_stack([u[:, 0], u[:, 0] + 0.1 * u[:, 1], 100 * np.exp(0.5 * u[:, 2])])


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "skewed.csv"
    np.savetxt(path, skewed(np.random.default_rng(0), 40), delimiter=",")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("sigma_min", [0.1, 0.6])
def test_an_untrained_network_is_the_smoothed_gaussian(sigma_min):
    x = skewed(np.random.default_rng(1), 30)
    x[:, 2] /= 100
    own = tables_models.coordinates(x, 0.0)
    # The ridge, 1e-6, beside the least variance.
    assert_allclose(np.cov(own.of(x).T, bias=True), np.eye(3), atol=1e-3)
    params = init(1, 2)
    z, t_min = jnp.asarray(own.of(x), jnp.float32), jnp.float32(tables_models.t_of(sigma_min))
    own_params = jax.tree.map(lambda p: p[0], params)
    found = DENSITY(own_params, z, t_min) + own.log_jacobian
    covariance = np.cov(x.T, bias=True) + 1e-6 * np.eye(3)
    exact = multivariate_normal(x.mean(axis=0), (1 + sigma_min**2) * covariance)
    # The solver's tolerance.
    assert_allclose(found, exact.logpdf(x), atol=1e-3)
    assert_allclose(tables_models.gaussian(own, sigma_min).logpdf(x), exact.logpdf(x), rtol=1e-9)
    # t_of is where the SDE has that much noise.
    alpha, std = tables_models.SDE.marginal(t_min)
    assert_allclose(std / alpha, sigma_min, rtol=1e-5)


def test_the_flow_of_a_gaussian_score_in_other_coordinates():
    """The score -inv(S + sigma^2 I) x without coordinates of its own, by the flow that all use."""
    x = skewed(np.random.default_rng(2), 20)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    covariance, sigma_min = np.cov(x.T, bias=True), 0.2
    values, vectors = (jnp.asarray(a, jnp.float32) for a in np.linalg.eigh(covariance))

    def score(x, sigma):
        return -vectors @ ((vectors.T @ x) / (values + sigma**2))

    def score_t(x, t):
        alpha, std = tables_models.SDE.marginal(t)
        return score(x / alpha, std / alpha) / alpha

    t_min = tables_models.t_of(sigma_min)
    run = lambda x: flow.log_likelihood(None, score_t, x, tables_models.SDE, num_probes=None, t_min=t_min).value  # noqa: E731
    found = jax.jit(jax.vmap(run))(jnp.asarray(x, jnp.float32))
    exact = multivariate_normal(np.zeros(3), covariance + sigma_min**2 * np.eye(3)).logpdf(x)
    assert_allclose(found, exact, atol=1e-3)


@pytest.mark.slow
def test_a_fold_is_kept_from_its_networks():
    x = skewed(np.random.default_rng(3), 21)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    cut = KFold(3, shuffle=True, random_state=0)
    views = tables_models.views(x, cut)
    assert views.rows.shape == (21, 4, 4) and views.rows.dtype == np.float32
    for k, (train, rest) in enumerate(cut.split(x)):
        np.testing.assert_array_equal(np.flatnonzero(views.rows[:, k, -1] == 0), rest)
        # Coordinates too are those of the others, whatever the rows of the fold may be.
        own = tables_models.coordinates(x[train], views.shrinkage)
        assert_allclose(views.rows[:, k, :-1], own.of(x), atol=1e-5)
        assert_allclose(views.log_jacobians[k], own.log_jacobian, rtol=1e-6)
    np.testing.assert_array_equal(views.rows[:, -1, -1], 1)
    params = init(4, 2)
    # Output layers that are not 0, so that what lies below has a gradient.
    params = jax.tree.map(lambda p: p + 0.1, params)
    loss = partial(tables_models.loss, network=NETWORK, mean=0.0, std=1.0)
    gradient = jax.jit(jax.grad(loss, argnums=1))(jax.random.key(1), params, jnp.asarray(views.rows[0]))
    size = sum(np.abs(g).sum(axis=tuple(range(2, g.ndim))) for g in map(np.asarray, jax.tree.leaves(gradient)))
    np.testing.assert_array_equal(size == 0, np.repeat(views.rows[0, :, -1:] == 0, 2, axis=1))


@pytest.mark.slow
def test_validation_is_by_the_networks_that_have_not_seen_a_row():
    x = skewed(np.random.default_rng(4), 12)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    cut, sigmas = KFold(2, shuffle=True, random_state=0), (0.3, 0.6)
    views = tables_models.views(x, cut)
    params = init(3, 1)
    held = (jnp.asarray(views.rows), jnp.asarray(views.log_jacobians))
    validate = jax.jit(partial(tables_models.validate, network=NETWORK, sigmas=sigmas))
    found = validate(jax.random.key(1), params, held)
    for sigma in sigmas:
        logs = [
            tables_models.gaussian(tables_models.coordinates(x[train], views.shrinkage), sigma).logpdf(x[rest])
            for train, rest in cut.split(x)
        ]
        assert_allclose(found[f"sigma_min {sigma:g}"], -np.concatenate(logs).mean(), atol=2e-3)
    assert float(found["validation"]) == min(float(found[f"sigma_min {sigma:g}"]) for sigma in sigmas)


def test_baselines_are_what_their_names_say(few):
    rng = np.random.default_rng(5)
    x, heldout = rng.normal(size=(30, 2)) @ [[1.0, 0.5], [0.0, 0.4]], rng.normal(size=(7, 2))
    folds = KFold(3, shuffle=True, random_state=0)
    own = tables_models.views(x, folds)._replace(coordinates=tables_models.coordinates(x, 0.0), shrinkage=0.0)
    found, chosen = tables_models.baselines(x, heldout, folds, own, 0)
    covariance = np.cov(x.T, bias=True) + 1e-6 * np.eye(2)
    gauss = multivariate_normal(x.mean(axis=0), covariance).logpdf(heldout)
    assert_allclose(found[tables_models.GAUSSIAN], gauss, rtol=1e-9)
    for name, kernel in ((tables_models.KERNELS, np.eye(2)), (tables_models.WHITENED, covariance)):
        width = chosen[name]["bandwidth"]
        logs = [multivariate_normal(row, width**2 * kernel).logpdf(heldout) for row in x]
        assert_allclose(found[name], logsumexp(logs, axis=0) - math.log(len(x)), rtol=1e-5)
    assert set(chosen[tables_models.MIXTURE]) == {"n_components", "covariance_type", "reg_covar"}


def test_kernels_are_whitened_without_the_fold_that_chooses_their_width(monkeypatch):
    # Where a fold has a say in the whitening its rows look nearer than new ones.
    x = np.random.default_rng(0).normal(size=(12, 3)) * [1.0, 5.0, 0.1]
    widths, folds = [0.2, 0.4, 0.8, 1.2, 1.6], KFold(3, shuffle=True, random_state=0)
    monkeypatch.setattr(tables_models, "MIXTURES", {"n_components": [1]})
    monkeypatch.setattr(tables_models, "BANDWIDTHS", {"bandwidth": widths})
    own = tables_models.views(x, folds)._replace(coordinates=tables_models.coordinates(x, 0.0), shrinkage=0.0)

    def left_out(width, whole):
        logs = []
        for train, rest in folds.split(x):
            covariance = np.cov((x if whole else x[train]).T, bias=True) + 1e-6 * np.eye(3)
            each = [multivariate_normal(row, width**2 * covariance).logpdf(x[rest]) for row in x[train]]
            logs.append(logsumexp(each, axis=0))
        return np.concatenate(logs).mean()

    best, leaky = (max(widths, key=lambda width: left_out(width, whole)) for whole in (False, True))
    assert tables_models.baselines(x, x, folds, own, 0)[1][tables_models.WHITENED] == {"bandwidth": best}
    assert best > leaky


@pytest.mark.slow
def test_every_row_is_validated_by_a_probe_of_its_own():
    x = skewed(np.random.default_rng(4), 6)
    views = tables_models.views((x - x.mean(axis=0)) / x.std(axis=0), KFold(2, shuffle=True, random_state=0))
    noise = iter(jax.random.split(jax.random.key(2), 100))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(noise), p.shape), init(3, 1))
    rows = jnp.repeat(jnp.asarray(views.rows)[:1], 200, axis=0)
    validate = jax.jit(partial(tables_models.validate, network=NETWORK, sigmas=(0.6,)))

    def found(rows):
        keys = jax.random.split(jax.random.key(3), 8)
        return np.array([validate(key, params, (rows, jnp.asarray(views.log_jacobians)))["validation"] for key in keys])

    one, many = found(rows[:1]), found(rows)
    # The error of a mean over 200 probes; that of one probe for all rows would be as large as of one.
    assert one.std() > 0.01 and many.std() < 0.3 * one.std()


def test_the_errors_of_splits_that_share_rows():
    found = tables_report.summary([np.asarray([1.0, 3.0]), np.asarray([5.0, 7.0])], 0.25)
    assert found["mean"] == 4.0 and found["standard_error"] == pytest.approx(2.0)
    assert found["corrected_error"] == pytest.approx(math.sqrt(8.0) * math.sqrt(0.5 + 0.25))
    one = tables_report.summary([np.asarray([1.0, 3.0, 5.0])], 0.25)
    assert one["standard_error"] == one["corrected_error"] == pytest.approx(2.0 / math.sqrt(3))
    assert tables_report.summary([np.asarray([1.0])], 0.25)["corrected_error"] is None


@pytest.mark.slow
def test_a_tiny_run_writes_its_record_goes_on_and_is_repeatable(table, tmp_path, few):
    out = tmp_path / "first"
    record = tables.main(**TINY, table=str(table), out=out)
    assert json.loads((out / "metrics.json").read_text()) == record
    assert {path.name for path in out.iterdir()} == {"metrics.json", "likelihood.png", "split 0", "split 1"}
    metrics = record["metrics"]
    levels = metrics["nats_per_row"]
    assert set(levels) == {tables_report.NETWORK} | set(metrics["ahead"]) and len(levels) == 5
    for name, ahead in metrics["ahead"].items():
        assert_allclose(ahead["mean"], levels[tables_report.NETWORK]["mean"] - levels[name]["mean"], atol=1e-9)
        assert len(ahead["each_split"]) == 2 and ahead["corrected_error"] > ahead["standard_error"] > 0
    for chosen in metrics["chosen"]:
        assert chosen[tables_report.NETWORK]["steps"] in (2, 4) and chosen[tables_report.NETWORK]["sigma_min"] in (
            0.3,
            0.6,
        )
    with pytest.raises(ValueError, match="already holds a run"):
        tables.main(**TINY, table=str(table), out=out)
    again = tables.main(**TINY, table=str(table), out=out, resume=True)
    anew = tables.main(**TINY, table=str(table), out=tmp_path / "second")
    for name in ("nats_per_row", "ahead", "chosen"):
        assert again["metrics"][name] == metrics[name] == anew["metrics"][name]


@pytest.mark.slow
def test_the_network_is_ahead_of_the_gaussian_where_there_is_none(tmp_path):
    """Two clusters: a Gaussian loses about log 2 and more, and the network must win most of it back."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 2)) + 4 * rng.integers(0, 2, size=(300, 1))
    path = tmp_path / "clusters.npz"
    np.savez(path, x=x)
    settings = {"splits": 1, "folds": 2, "networks": 2, "width": 32, "num_blocks": 1, "steps": 1500, "checkpoints": 3}
    found = tables.main(**settings, table=str(path), out=tmp_path / "out")["metrics"]
    gaussian, mixture = (found["ahead"][name]["mean"] for name in (tables_models.GAUSSIAN, tables_models.MIXTURE))
    # The mixture, which is of the right kind, leads by all that there is to win.
    lead = gaussian - mixture
    assert lead > 0.25
    assert gaussian > 0.7 * lead


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("splits", 0),
        ("folds", 1),
        ("folds", 33),
        ("networks", 0),
        ("width", 0),
        ("num_blocks", 0),
        ("steps", 0),
        ("batch_size", 0),
        ("checkpoints", 0),
        ("learning_rate", 0.0),
        ("noise_std", math.inf),
        ("noise_mean", math.nan),
        ("ema_decay", 1.0),
        ("heldout", 1.0),
        ("sigmas", ()),
        ("sigmas", (0.3, 0.3)),
        ("sigmas", (0.0, 0.3)),
        ("seed", -1),
    ],
)
def test_impossible_arguments_write_nothing(name, value, table, tmp_path):
    with pytest.raises(ValueError, match=name):
        tables.main(**(TINY | {"table": str(table), name: value}), out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["skewed.csv"]


def test_a_table_that_brings_its_split_is_split_once(tmp_path):
    x = skewed(np.random.default_rng(7), 30)
    np.savez(tmp_path / "own.npz", train=x[:20], heldout=x[20:])
    with pytest.raises(ValueError, match=r"splits must be 1 for .*own\.npz"):
        tables.main(**TINY, table=str(tmp_path / "own.npz"), out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]

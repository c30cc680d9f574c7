"""The README's programs run as they stand, and the map from equations to functions names functions that are there."""

import importlib
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dp

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def program(tmp_path):
    """A function that runs the i-th program as a user would, in JAX's default settings, and returns its variables."""

    def run(i):
        path = tmp_path / "program.py"
        path.write_text(PROGRAMS[i], encoding="utf-8")
        with (
            jax.enable_x64(False),
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
        ):
            return runpy.run_path(str(path))

    return run


def test_dynamic_programming(program):
    found = program(0)
    np.testing.assert_array_equal(found["solution"].v, [3.5, 2.5, 0])
    assert found["solution"].policy[:2].tolist() == [1, 0]
    assert found["solution"].converged
    assert found["many"].converged.all()
    # Exploring at F and conserving at L, v(F) - v(L) = 1 and v(F) = 2 + gamma (v(F) - 1/2).
    gamma = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(found["many"].v[:, 0], (2 - gamma / 2) / (1 - gamma), atol=1e-3)
    np.testing.assert_allclose(found["slope"], 6, rtol=1e-5)


def test_over_devices(program):
    found = program(1)
    assert found["solution"].converged
    assert len(found["solution"].v.sharding.device_set) == len(jax.devices()) == 4
    np.testing.assert_allclose(found["solution"].v, dp.solve(found["mdp"], tol=1e-3).v, atol=1e-3)


@pytest.mark.slow
def test_without_a_discount(program):
    found = program(2)
    np.testing.assert_allclose(found["win"].v[25:100:25], [4 / 25, 2 / 5, 16 / 25], atol=1e-6)
    assert found["win"].converged


@pytest.mark.slow
def test_denoising_score_matching(program):
    found = program(3)
    from dsm import metrics

    exact = found["smoothed"].score
    divergence = metrics.fisher_divergence(found["score"](found["state"].ema), exact, found["noisy"])
    assert divergence < 0.1  # the score itself: 1/2 E |s|^2 = 3.6
    assert found["samples"].shape == (1000, 2)
    # Exact samples from which chains start stay what they are: 1000 of them know the variance 2.18 to about 4 %.
    np.testing.assert_allclose(found["samples"].var(axis=0), 2 + 0.3**2 + 0.3**2, rtol=0.2)


@pytest.mark.slow
def test_all_noise_scales(program):
    pytest.importorskip("diffrax")
    found = program(4)
    target, unseen = found["target"], found["unseen"]
    learned, exact = jax.vmap(found["logp"])(unseen), jax.vmap(target.logdensity)(unseen)
    assert abs(learned.mean() - exact.mean()) < 0.1
    # The mean square of a coordinate is 2.09; 1000 samples know it to about 5 %, and a network is not exact.
    np.testing.assert_allclose((found["samples"] ** 2).mean(axis=0), 2 + 0.3**2, rtol=0.2)
    np.testing.assert_array_equal(found["completed"][:, 1], np.full(1000, 2, np.float32))
    # By symmetry. Of the law given the second coordinate, three quarters lie there; so few resamples reach half of it.
    first = np.asarray(found["completed"][:, 0])
    assert abs(first.mean()) < 4 * first.std() / np.sqrt(1000)
    assert np.mean(np.abs(first) < 0.7) > 0.4


def test_batches_and_chains_over_devices(program):
    found = program(5)
    assert len(found["x"].sharding.device_set) == found["batch_loss"].mesh.size == len(jax.devices()) == 4
    assert found["x"].shape == (1000, 2) and float(jnp.abs(found["x"]).max()) > 1


@pytest.mark.slow
def test_chains_and_what_they_are_worth(program):
    found = program(6)
    summary, target = found["found"], found["target"]
    # Within 5 of its own standard errors of a mean that is 0.
    assert np.all(np.abs(summary.mean) < 5 * summary.mcse)
    assert np.all(summary.r_hat < 1.05)
    np.testing.assert_allclose(summary.std**2, np.diag(target.covariance()), rtol=0.2)
    assert abs(found["history"].infos.accepted.mean() - 0.574) < 0.1
    assert np.all(found["history"].diverged_at == -1)


def test_map_names_what_exists():
    names = re.findall(r"`((?:dp|dsm)\.[A-Za-z_.]+)`", README.read_text(encoding="utf-8"))
    assert len(set(names)) > 20
    for name in set(names):
        package, *path = name.split(".")
        found = importlib.import_module(package)
        for i, part in enumerate(path):
            # What needs an extra is not imported with its package.
            if not hasattr(found, part) and part != path[-1]:
                importlib.import_module(".".join([package, *path[: i + 1]]))
            assert hasattr(found, part), f"README names {name}"
            found = getattr(found, part)


def test_figures_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / path).is_file(), path

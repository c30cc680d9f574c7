"""The pictures of models: they are drawn, and what is drawn is what was found."""

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import dp
from experiments import diagrams, models


@pytest.fixture(autouse=True)
def default_settings():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
def test_models(tmp_path):
    found = models.main(size=7, iterations=60, out=tmp_path / "run")["metrics"]
    np.testing.assert_allclose(found["grids"]["cliff"]["slip 0"], -(1 - 0.98**13) / 0.02)
    assert found["models"]["space exploration, γ = 1/2"]["v"] == [3.5, 2.5, 0.0]
    needed = found["iterations_needed"]["garnet, 100 states, γ = 0.95"]
    assert needed["policy iteration"] < needed["modified policy iteration, 20 sweeps"] < needed["value iteration"] < 60
    for name in ("grids", "diagrams", "convergence"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 20_000
    assert "F      3.5000" in (tmp_path / "run" / "tables.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("bad", [{"size": 8}, {"size": 5}, {"slip": 1.5}, {"iterations": 0}, {"seed": -1}])
def test_figures_that_are_none(bad, tmp_path):
    with pytest.raises(ValueError, match=next(iter(bad))):
        models.main(**bad, out=tmp_path / "run")


def test_a_grid_has_an_arrow_for_every_best_action():
    # 1 2 *: only to the right, but from the second cell of the row below both up and right are best.
    v = np.array([-1.9, -1.0, 0.0, -2.71, -1.9, -1.0])
    q = np.stack([v - (np.arange(6) != 4), v - 1, v - 1, v], axis=1)
    q[4] = [-1.9, -3, -3, -1.9]
    zero = jax.numpy.zeros(())
    solution = dp.Solution(*map(jax.numpy.asarray, (v, q, q.argmax(1), v, v)), zero.astype(int), zero, zero == 0)
    ax = Figure().subplots()
    diagrams.draw_grid(ax, solution, (2, 3), terminals=[(0, 2)], walls=[(0, 0)])
    arrows = [text for text in ax.texts if not text.get_text()]
    assert len(arrows) == 5
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["-1.0", "-2.7", "-1.9", "-1.0"]


def test_a_diagram_has_every_choice_and_every_probability():
    ax = Figure().subplots()
    diagrams.draw_diagram(ax, dp.problems.space_exploration(), states="FLD", actions="CE")
    texts = sorted(text.get_text() for text in ax.texts)
    assert texts == sorted(["F", "L", "D", "C  +1", "E  +2", "C  +1", "E  -10", *["0.5"] * 4])


def test_gaps_are_those_of_the_solver():
    mdp = dp.problems.forest()
    gap = diagrams.gaps(dp.value_iteration, mdp, 300)
    first = dp.value_iteration(mdp, max_iters=3)
    np.testing.assert_allclose(gap[2], float((first.upper - first.lower).max()), rtol=1e-12)
    needed = int(dp.value_iteration(mdp).iterations)
    assert np.isfinite(gap[:needed]).all() and np.isnan(gap[needed:]).all() and gap[needed - 1] <= 1e-6

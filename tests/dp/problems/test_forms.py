"""Dense or sparse: the form of a problem changes none of its numbers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.problems import bus_engine, garnet, gridworld, perishable_inventory
from dp.problems.garnet import _distinct
from dp.successors import Successors
from dp.table import tabulate

GRID = {"gamma": 0.9, "slip": 0.3, "walls": [(1, 1)], "wind": [0, 1, 0, -1], "gust": 0.2, "terminals": [(2, 3)]}


@pytest.mark.parametrize(
    "build",
    [
        lambda **form: garnet(6, 3, 4, gamma=0.9, seed=1, **form),
        lambda **form: gridworld(
            3, 4, step_reward=-1.0, wall_reward=-0.5, jumps={(0, 0): ((2, 2), 1.0)}, **GRID, **form
        ),
    ],
)
def test_both_forms_are_the_same_model(build):
    dense, sparse = tabulate(build()), tabulate(build(dense=False))
    assert isinstance(build(dense=False).P, Successors)
    for name, x in dense._asdict().items():
        assert_allclose(getattr(sparse, name), x, rtol=1e-15, atol=1e-15, err_msg=name)


def test_large_models_are_sparse_and_small_ones_arrays():
    assert gridworld(32, 32, gamma=0.9).P.shape == (1024, 4, 1024)
    large = gridworld(25, 41, gamma=0.9, slip=0.1)
    assert large.P.state.shape == (3, 1025, 4)
    assert gridworld(25, 41, gamma=0.9).P.state.shape == (1, 1025, 4)
    assert isinstance(perishable_inventory(3).P, Successors)
    assert isinstance(bus_engine(2000).P, Successors)
    assert_allclose(large.P.mass(), 1, rtol=1e-14)


def test_a_large_garnet_has_distinct_successors():
    mdp = garnet(3000, 4, 6, gamma=0.95, seed=0)
    state, prob = np.asarray(mdp.P.state), np.asarray(mdp.P.prob)
    assert state.shape == (6, 3000, 4)
    assert (np.diff(np.sort(state, axis=0), axis=0) > 0).all()
    assert_allclose(prob.sum(0), 1, rtol=1e-14)
    # Uniform points cut [0, 1] into lengths of mean 1/6 and variance 5/252.
    assert_allclose(prob.var(), 5 / 252, rtol=0.02)
    assert abs(prob.mean() - 1 / 6) < 1e-12
    assert abs(np.asarray(mdp.R).mean()) < 4 / np.sqrt(12_000)
    assert_array_equal(mdp.R, garnet(3000, 4, 6, gamma=0.5, seed=0).R)


def test_every_set_of_successors_is_as_likely():
    n = 60_000
    chosen = np.sort(_distinct(np.random.default_rng(0), (n,), 5, 3), axis=1)
    sets, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(sets) == 10
    assert np.abs(counts - n / 10).max() <= 4.5 * np.sqrt(n * 0.1 * 0.9)


def test_the_garnets_of_old_are_the_same():
    # Drawn by the same generator in the same order as ever.
    mdp = garnet(4, 1, 2, gamma=0.9, seed=0)
    rng = np.random.default_rng(0)
    kept = np.argsort(rng.random((4, 1, 4)), axis=-1)[..., :2]
    cut = rng.random((4, 1, 1))
    P = np.asarray(mdp.P)
    for s in range(4):
        assert set(np.flatnonzero(P[s, 0])) == set(kept[s, 0])
        assert_allclose(np.sort(P[s, 0])[2:], np.sort([cut[s, 0, 0], 1 - cut[s, 0, 0]]), rtol=1e-15)
    assert_array_equal(mdp.R, rng.standard_normal((4, 1)))


def test_a_large_grid_is_solved():
    # Without slipping -v_* counts the steps to the corner, discounted.
    solution = dp.solve(gridworld(40, 50, gamma=0.9, step_reward=-1.0, terminals=[(0, 0)]))
    steps = np.add.outer(np.arange(40), np.arange(50)).ravel()
    assert solution.converged
    assert_allclose(solution.v, -(1 - 0.9**steps) / 0.1, atol=1e-6)

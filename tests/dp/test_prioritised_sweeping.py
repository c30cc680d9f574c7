"""Prioritised sweeping: priorities bound residuals, and the right state comes first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.prioritised_sweeping import _dense_predecessors, _update


def test_predecessors_are_the_largest_probabilities_of_getting_there(random_mdp):
    mask = np.ones((4, 3), bool)
    mask[2, 1] = False
    mdp = random_mdp(0, mask=mask)
    found = _dense_predecessors(mdp)
    for s in range(4):
        for s_next in range(4):
            assert found[s_next, s] == max(mdp.P[s, a, s_next] for a in range(3) if mask[s, a])


def test_priorities_are_never_below_the_residuals(random_mdp):
    mdp = random_mdp(1, gamma=0.95, mask=np.arange(12).reshape(4, 3) % 4 != 2)
    predecessors = _dense_predecessors(mdp)
    v = jnp.asarray(np.random.default_rng(1).normal(size=4) * 10)
    priority = jnp.abs(dp.optimality(mdp, v) - v)
    update, first = jax.jit(_update), priority.max()
    for _ in range(50):
        s = int(jnp.argmax(priority))
        backed_up = dp.optimality(mdp, v)
        v, priority = update(mdp, predecessors, v, priority)
        assert_allclose(v[s], backed_up[s], rtol=1e-14)
        assert (priority >= jnp.abs(dp.optimality(mdp, v) - v) - 1e-12).all()
    assert jnp.abs(dp.optimality(mdp, v) - v).max() < first / 10


def test_value_flows_back_from_the_prize_by_itself():
    # Against the order of the states a sweep moves the prize one step; by priority, a good part of the way.
    mdp = dp.problems.corridor(50, gamma=0.9, slip=0.0)
    solution = dp.prioritised_sweeping(mdp)
    assert solution.converged
    assert 5 * solution.iterations < dp.value_iteration(mdp, order=jnp.arange(50)).iterations
    assert_array_equal(solution.policy, np.ones(50))


@pytest.mark.parametrize("updates", [1, 3, 40])
def test_any_number_of_updates_converges(random_mdp, updates):
    mdp = random_mdp(2)
    solution = dp.prioritised_sweeping(mdp, updates=updates)
    assert solution.converged
    assert_allclose(solution.v, dp.policy_iteration(mdp).v, atol=1e-6)


def test_tol_beneath_the_floor_ends_soon():
    mdp = jax.tree.map(lambda x: x.astype(np.float32), dp.problems.garnet(32, 2, 3, gamma=0.95, seed=0))
    reached = dp.prioritised_sweeping(mdp, tol=1e-9)
    # A little less than it reaches is out of reach, and not yet beneath the floor.
    again = dp.prioritised_sweeping(mdp, tol=0.98 * float((reached.upper - reached.lower).max()))
    assert not reached.converged
    assert again.converged or again.iterations < 3000


def test_bad_settings(random_mdp):
    with pytest.raises(ValueError, match=r"updates must be at least 1, got 0"):
        dp.prioritised_sweeping(random_mdp(0), updates=0)
    with pytest.raises(ValueError, match=r"tol must be positive.*, got 0"):
        dp.prioritised_sweeping(random_mdp(0), tol=0.0)

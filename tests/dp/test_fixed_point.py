"""The loops: each reason to stop, on processes small enough to follow by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import dp
from dp.bounds import Bounds
from dp.checks import tolerance
from dp.fixed_point import PATIENCE, history, until_certified
from dp.solution import Backup, conclude


def backup_of_gap(gap: jax.Array, floor: float = 0.0) -> Backup:
    """A backup whose values are its own gap: the loop reads gap and floor alone."""
    v = gap[None]
    return Backup(v, v, jnp.zeros(1, int), gap, jnp.asarray(floor))


def run(gaps: list[float], *, tol: float = 1e-3, floor: float = 0.0, max_iters: int = 10_000):
    """Let the gaps pass by; the last one stays. Returns the gap at the end and the number of iterations."""
    table = jnp.array(gaps)

    def back_up(v, policy):
        return backup_of_gap(v[0], floor)

    def advance(k, backup, memory):
        return table[jnp.minimum(k, len(gaps) - 1)][None], memory

    end, iterations = until_certified(advance, back_up, back_up(table[:1], None), tol=tol, max_iters=max_iters)
    return float(end.gap), int(iterations)


def test_stops_at_the_first_gap_that_meets_tol():
    assert run([4.0, 2.0, 1.0, 0.5, 0.25], tol=1.0) == (1.0, 3)


def test_a_start_that_is_good_enough_is_the_end():
    assert run([0.5, 0.1], tol=0.5) == (0.5, 1)


def test_stops_within_twice_the_floor_when_tol_is_beneath_it():
    assert run([8.0, 4.0, 2.0, 1.5, 1.0], tol=0.1, floor=1.0) == (2.0, 3)


def test_goes_on_to_tol_when_the_floor_is_beneath_it():
    assert run([8.0, 4.0, 2.0, 1.5, 1.0], tol=1.0, floor=0.9) == (1.0, 5)


def test_stops_after_max_iters():
    assert run([8.0, 4.0, 2.0, 1.0], max_iters=3) == (2.0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_stops_when_the_gap_is_not_finite(bad):
    gap, iterations = run([8.0, bad, 1.0, 0.0])
    assert iterations == 2
    assert not np.isfinite(gap)


def test_patience_ends_a_cycle_of_rounding():
    assert run([8.0, 4.0, *[5.0, 4.0] * PATIENCE]) == (4.0, 2 + PATIENCE)


def test_a_new_best_renews_patience():
    plateau = [1.0] * (PATIENCE - 1)
    assert run([8.0, *plateau, 0.5, *[0.5] * (PATIENCE - 2), 0.0])[0] == 0.0


def test_history_stacks_every_state():
    states = history(lambda k, state: (state[0] + k, 2 * state[1]), (jnp.asarray(0), jnp.ones(2)), 4)
    assert_array_equal(states[0], [0, 0, 1, 3, 6])
    assert_array_equal(states[1], [[1, 1], [2, 2], [4, 4], [8, 8], [16, 16]])


def test_history_of_nothing_is_the_start():
    (only,) = history(lambda k, state: state, (jnp.arange(3),), 0)
    assert_array_equal(only, [[0, 1, 2]])


def test_tolerance():
    assert tolerance(None, jnp.dtype("float64")) == 1e-6
    assert tolerance(None, jnp.dtype("float32")) == 1e-3
    assert tolerance(0.25, jnp.dtype("float32")) == 0.25
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"tol must be positive.*got {bad}"):
            tolerance(bad, jnp.dtype("float64"))


def test_conclude_reports_the_midpoint_and_its_backup():
    mdp = dp.problems.space_exploration()
    v = jnp.array([3.0, 2.0, 0.0])
    policy = jnp.array([1, 0, 0])
    bounds = Bounds(v - 1, v, v + 1, jnp.asarray(2.0), jnp.asarray(0.0))
    solution = conclude(mdp, bounds, policy, jnp.asarray(7), 1.0)
    assert_array_equal(solution.v, v)
    assert_array_equal(solution.q, dp.action_values(mdp, v))
    assert_array_equal(solution.policy, policy)
    assert solution.iterations == 7
    # q(F, E) = 2 + 3/4 + 2/4 = 3.25 and q(L, C) = 1 + 3/4 + 2/4 = 2.25.
    assert solution.residual == 0.25
    assert not solution.converged
    assert conclude(mdp, bounds, policy, jnp.asarray(7), 2.0).converged


def test_a_start_far_away_does_not_end_the_loop():
    # There rounding is coarse and the gap soon small beside it; near v_* the tolerance is within reach.
    with jax.enable_x64(False):
        mdp = dp.problems.garnet(20, 3, 4, gamma=0.95, seed=0)
        assert dp.value_iteration(mdp, jnp.full(20, 1e4)).converged


@pytest.mark.slow
def test_direct_solutions_are_polished_to_what_sweeps_can_certify():
    with jax.enable_x64(False):
        mdp = dp.problems.garnet(300, 3, 2, gamma=0.9, seed=0)
        reachable = 1.2 * float(dp.bounds(mdp, dp.value_iteration(mdp, tol=1e-7).v).gap)
        solution = dp.policy_iteration(mdp, tol=reachable)
        assert solution.converged
        assert dp.evaluate(mdp, solution.policy, tol=reachable).converged


def test_residual_is_that_of_the_returned_values():
    mdp = dp.problems.garnet(4, 3, 2, gamma=0.9, seed=21)
    for max_iters in (1, 2, 3):
        for solve in (dp.value_iteration, dp.policy_iteration):
            solution = solve(mdp, max_iters=max_iters)
            residual = jnp.abs(dp.optimality(mdp, solution.v) - solution.v).max()
            assert solution.residual == pytest.approx(float(residual), rel=1e-12)

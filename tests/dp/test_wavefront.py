"""Passes along the flow of value: right whatever the order, and few where values have far to go."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.levels import Levels, levels
from dp.wavefront import _track

N = 24


def grid(slip=0.1, gamma=0.99, *, restart, seed=None, dtype=np.float64):
    """N x N cells, four moves that slip to either side; the last cell pays 1, and is left for the first or never."""
    row, column = np.divmod(np.arange(N * N), N)
    clip = lambda x: np.clip(x, 0, N - 1)  # noqa: E731
    step = np.stack([clip(row + i) * N + clip(column + j) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))], 1)
    state = np.stack([step, step[:, [2, 2, 0, 0]], step[:, [3, 3, 1, 1]]], 2)
    prob = np.broadcast_to([1 - slip, slip / 2, slip / 2], state.shape).copy()
    state[-1], prob[-1] = (0 if restart else N * N - 1), [1, 0, 0]
    R = np.zeros((N * N, 4)) if seed is None else np.random.default_rng(seed).standard_normal((N * N, 4))
    R[-1] = 1
    return dp.from_successors(state, prob.astype(dtype), R.astype(dtype), gamma)


def test_levels_are_distances():
    mdp = grid(restart=True)
    found = levels(mdp)
    state, prob = np.asarray(mdp.P.state), np.asarray(mdp.P.prob)
    before = collections.defaultdict(set)
    for k, s, a in np.argwhere(prob > 0):
        before[state[k, s, a]].add(s)
    distance, front = {N * N - 1: 0}, [N * N - 1]
    while front:
        front = [u for s in front for u in before[s] if distance.setdefault(u, distance[s] + 1) == distance[s] + 1]
        front = list(dict.fromkeys(front))
    width = np.diff(found.start)
    assert_array_equal(np.repeat(np.arange(len(width)), width), [distance[s] for s in found.order])
    assert sorted(found.order) == list(range(N * N))


def test_states_that_lead_nowhere_come_last():
    # Ninety in a row that lead to the reward, and ten that do not.
    state = np.append(np.arange(1, 90), np.append(89, np.full(10, 95)))[:, None, None]
    R = np.zeros((100, 1))
    R[89] = 1
    found = levels(dp.from_successors(state, np.ones((100, 1, 1)), R, 0.9))
    assert_array_equal(found.order, [*range(89, -1, -1), *range(90, 100)])
    assert_array_equal(found.start, [*range(91), 100])


def test_a_room_without_a_way_out():
    # Steps cost 1, so that 0 is too much for all; in the room of two cells it would come down by gamma a sweep.
    walls = [(0, 2), (1, 0), (1, 1)]
    mdp = dp.problems.gridworld(
        N, N, gamma=0.999, step_reward=-1.0, slip=0.2, walls=walls, terminals=[(N - 1, N - 1)], dense=False
    )
    found = dp.wavefront_iteration(mdp)
    assert found.converged
    assert found.iterations <= 12
    assert_allclose(found.v[:2], -1000, rtol=1e-9)
    assert_allclose(found.v, dp.policy_iteration(mdp).v, atol=1e-6)


def test_one_bad_state_does_not_decide_where_to_start():
    state = np.minimum(np.arange(300) + 1, 299)[:, None, None]
    R = np.zeros((300, 1))
    R[150] = -1
    found = dp.wavefront_iteration(dp.from_successors(state, np.ones((300, 1, 1)), R, 0.999))
    assert found.converged
    assert found.iterations <= 10
    assert_allclose(found.v[:151], -(0.999 ** np.arange(150, -1, -1)), rtol=1e-9)
    assert_allclose(found.v[151:], 0, atol=1e-9)


def test_where_all_states_are_near_there_are_no_levels():
    assert levels(dp.problems.garnet(5000, 4, 4, gamma=0.9, seed=0, dense=False)) is None
    assert levels(dp.as_dense(grid(restart=False))) is None
    with pytest.raises(ValueError, match=r"do not flow through this model in levels"):
        dp.wavefront_iteration(dp.problems.garnet(500, 4, 4, gamma=0.9, seed=0, dense=False))


def test_a_block_holds_states_of_one_level_and_a_pass_comes_to_all():
    rng = np.random.default_rng(0)
    width = np.array([1, 5, 17, 3, 40, 8])
    along = Levels(rng.permutation(width.sum()), np.append(0, np.cumsum(width)))
    size, (order, place, visits) = _track(along)
    level = np.empty(width.sum(), int)
    level[along.order] = np.repeat(np.arange(len(width)), width)
    assert all(len(set(level[block])) == 1 for block in np.asarray(order).reshape(-1, size))
    assert_array_equal(order[place], np.arange(width.sum()))
    assert set(np.asarray(visits)) == set(range(len(order) // size))


def test_without_slip_the_value_is_known():
    # From a cell n steps from the last one: γ^n, and all again after the 2 (N - 1) + 1 steps of a round.
    for restart in (False, True):
        solution = dp.wavefront_iteration(grid(0.0, restart=restart))
        steps = 2 * (N - 1) - np.add(*np.divmod(np.arange(N * N), N))
        v = 0.99**steps / (1 - 0.99 ** (2 * N - 1 if restart else 1))
        assert solution.converged
        assert_allclose(solution.v, v, atol=1e-6)
        assert solution.iterations <= 6


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
@pytest.mark.parametrize("restart", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_agrees_with_policy_iteration(restart, dtype):
    mdp = grid(0.3, restart=restart, seed=1, dtype=dtype)
    solution = dp.wavefront_iteration(mdp, tol=0.1 if dtype == np.float32 else 1e-6)
    other = dp.policy_iteration(dp.as_dense(grid(0.3, restart=restart, seed=1)))
    assert solution.converged and solution.v.dtype == dtype
    assert np.all(np.asarray(solution.lower) <= np.asarray(other.upper))
    assert np.all(np.asarray(other.lower) <= np.asarray(solution.upper))
    assert_allclose(solution.q, dp.action_values(mdp, solution.v), rtol=1e-5 if dtype == np.float32 else 1e-8)


@pytest.mark.slow
def test_any_order_is_right(random_mdp):
    mdp = dp.as_successors(random_mdp(3))
    S = mdp.size
    along = Levels(np.arange(S)[::-1].copy(), np.array([0, 1, S]))
    solution = dp.wavefront_iteration(mdp, along=along)
    assert solution.converged
    assert_allclose(solution.v, dp.policy_iteration(mdp).v, atol=1e-6)


@pytest.mark.slow
def test_ragged_models_and_masks():
    sparse = grid(0.3, restart=True, seed=2)
    mask = np.random.default_rng(3).random((N * N, 4)) < 0.7
    mask[:, 0] = True
    masked = sparse._replace(mask=jnp.asarray(mask))
    ragged = dp.as_choices(masked)
    one, other = dp.wavefront_iteration(masked), dp.wavefront_iteration(ragged)
    assert one.converged and other.converged
    assert_allclose(one.v, other.v, atol=1e-6)
    assert_allclose(one.v, dp.policy_iteration(dp.as_dense(masked)).v, atol=1e-6)


def test_solve_goes_along_the_flow_and_on_where_that_is_slow():
    # Where moves slip nine times in ten values diffuse, and no order helps much.
    for mdp in (grid(0.1, 0.999, restart=True), grid(0.9, 0.9999, restart=True)):
        solution, other = dp.solve(mdp), dp.policy_iteration(dp.as_dense(mdp))
        assert solution.converged
        assert np.all(solution.lower <= other.upper) and np.all(other.lower <= solution.upper)
    limited = dp.solve(mdp, max_iters=2)
    assert not limited.converged and limited.iterations == 2
    assert np.all(limited.lower <= other.upper) and np.all(other.lower <= limited.upper)


def test_levels_that_do_not_fit_are_refused():
    mdp = grid(restart=True)
    for along, message in (
        (Levels(np.arange(5), np.array([0, 5])), "along.order must name each of the states 0 to 575 once"),
        (Levels(np.zeros(N * N, int), np.array([0, N * N])), "along.order must name"),
        (Levels(np.arange(N * N), np.array([0, 9, 9, N * N])), "along.start must rise from 0 to 576"),
    ):
        with pytest.raises(ValueError, match=message):
            dp.wavefront_iteration(mdp, along=along)


@pytest.mark.slow
def test_a_model_that_jit_closes_over_is_solved():
    mdp = grid(restart=True)
    v = dp.solve(mdp).v
    assert_allclose(jax.jit(lambda: dp.solve(mdp))().v, v, atol=1e-6)
    assert_allclose(jax.jit(lambda tol: dp.solve(mdp, tol=tol))(1e-7).v, v, atol=1e-6)
    many = jax.vmap(lambda v: dp.solve(mdp, v))(jnp.stack([v, jnp.zeros(N * N)]))
    assert_allclose(many.v, jnp.stack([v, v]), atol=1e-6)


@pytest.mark.slow
def test_what_a_forbidden_row_holds_does_not_count():
    mdp = grid(0.3, restart=True, seed=2)
    mask = np.ones((N * N, 4), bool)
    mask[:, 1] = False
    spoilt = mdp._replace(
        P=mdp.P._replace(prob=mdp.P.prob.at[:, :, 1].set(jnp.nan)),
        R=mdp.R.at[:, 1].set(jnp.nan),
        mask=jnp.asarray(mask),
    )
    v = dp.policy_iteration(dp.as_dense(mdp._replace(mask=jnp.asarray(mask)))).v
    for solution in (
        dp.wavefront_iteration(spoilt, along=levels(grid(restart=True))),
        dp.inexact_policy_iteration(spoilt),
    ):
        assert solution.converged and np.isfinite(solution.residual)
        assert_allclose(solution.v, v, atol=1e-6)
        assert np.isneginf(solution.q[:, 1]).all() and np.isfinite(solution.q[:, 0]).all()


@pytest.mark.slow
def test_inside_jit_levels_have_to_be_given():
    mdp = grid(0.1, 0.9, restart=True)
    along = levels(mdp)
    inside = jax.jit(lambda mdp: dp.wavefront_iteration(mdp, along=along))(mdp)
    assert_allclose(inside.v, dp.wavefront_iteration(mdp).v, atol=1e-6)
    with pytest.raises(ValueError, match="traced"):
        jax.jit(dp.wavefront_iteration)(mdp)
    assert jax.jit(dp.solve)(mdp).converged


@pytest.mark.slow
def test_it_is_differentiable():
    mdp = grid(0.1, 0.9, restart=True)
    along = levels(mdp)
    slope = jax.grad(lambda gamma: dp.wavefront_iteration(mdp._replace(gamma=gamma), along=along, tol=1e-11).v[0])(0.9)
    h = 1e-4
    up, down = (dp.solve(mdp._replace(gamma=jnp.asarray(0.9 + x)), tol=1e-12).v[0] for x in (h, -h))
    assert_allclose(slope, (up - down) / (2 * h), rtol=1e-5)

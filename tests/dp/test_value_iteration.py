"""Value iteration: its histories against loops, its limits against a closed form, and how it ends when it must."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp import bellman

S, A = 4, 3


def backup(mdp: dp.MDP, v: np.ndarray, s: int) -> float:
    """T v(s), with loops."""
    P, R, gamma = np.asarray(mdp.P), np.asarray(mdp.R), float(mdp.gamma)
    return max(R[s, a] + gamma * sum(P[s, a, t] * v[t] for t in range(S)) for a in range(A))


def gauss_seidel(mdp: dp.MDP, v: np.ndarray, sweeps: list) -> list[np.ndarray]:
    """One array, overwritten state by state."""
    v = v.copy()
    states = [v.copy()]
    for sweep in sweeps:
        for s in sweep:
            v[s] = backup(mdp, v, s)
        states.append(v.copy())
    return states


# Histories


def test_history_is_the_operator_repeated(random_mdp):
    mdp, v0 = random_mdp(0), np.array([3.0, -1.0, 0.0, 2.0])
    history = dp.value_iteration_history(mdp, jnp.asarray(v0), 5)
    assert history.v.shape == history.policy.shape == (6, S)
    assert history.q.shape == (6, S, A)
    assert_array_equal(history.v[0], v0)
    for k in range(5):
        assert_allclose(history.v[k + 1], [backup(mdp, np.asarray(history.v[k]), s) for s in range(S)], rtol=1e-14)
        assert_array_equal(history.policy[k], dp.greedy(mdp, history.v[k]))
        assert_allclose(history.q[k], dp.action_values(mdp, history.v[k]), rtol=1e-14)


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [0, 0, 2, 0], [[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 1, 1]]])
def test_history_in_place_is_gauss_seidel(random_mdp, order):
    mdp, v0 = random_mdp(1), np.array([3.0, -1.0, 0.0, 2.0])
    cycle = np.atleast_2d(order).tolist()
    history = dp.value_iteration_history(mdp, jnp.asarray(v0), 7, order=jnp.array(order))
    assert_allclose(history.v, gauss_seidel(mdp, v0, [cycle[k % len(cycle)] for k in range(7)]), rtol=1e-13)


def test_history_starts_from_zero_and_needs_no_discount(random_mdp):
    mdp = random_mdp(2)._replace(gamma=jnp.asarray(1.0))
    history = dp.value_iteration_history(mdp, None, 0)
    assert_array_equal(history.v, np.zeros((1, S)))
    assert_array_equal(history.q[0], mdp.R)


def test_solver_in_place_follows_the_history(random_mdp):
    # After n iterations the certificate is about the n - 1st sweep.
    mdp, order = random_mdp(3), jnp.array([[0, 1, 2, 3], [3, 1, 2, 0]])
    bounds = jax.jit(dp.bounds)(mdp, jnp.asarray(gauss_seidel(mdp, np.zeros(S), [*order, order[0]])[-1]))
    solution = dp.value_iteration(mdp, order=order, max_iters=4)
    assert solution.iterations == 4
    assert_allclose(solution.lower, bounds.lower, rtol=1e-13)
    assert_allclose(solution.upper, bounds.upper, rtol=1e-13)


# Convergence


@pytest.mark.parametrize(
    "order", [None, [[0, 1, 2, 3]] * 2, [[3, 2, 1, 0], [0, 2, 1, 3]], [[0, 0, 3, 3], [1, 2, 1, 2]]], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_solution_of_a_cycle_in_closed_form(dtype, order):
    # A ring of four with a reward of 1 on leaving state 0, and a worse action: v(s) = γ^(4 - s mod 4) / (1 - γ^4).
    P = np.stack([np.roll(np.eye(S), 1, axis=1), np.eye(S), np.eye(S)], axis=1).astype(dtype)
    R = np.zeros((S, A), dtype)
    R[0, 0] = 1
    solution = dp.value_iteration(dp.make_mdp(P, R, 0.75), order=None if order is None else jnp.array(order))
    v = 0.75 ** np.array([0, 3, 2, 1]) / (1 - 0.75**4)
    assert solution.converged
    assert solution.v.dtype == solution.lower.dtype == solution.q.dtype == solution.residual.dtype == dtype
    tol = 1e-6 if dtype == np.float64 else 1e-3
    assert (solution.upper - solution.lower).max() <= tol
    assert_allclose(solution.v, v, atol=0.51 * tol)
    assert_array_equal(solution.policy, np.zeros(S))


def test_residual_is_that_of_v(random_mdp):
    solution = dp.value_iteration(random_mdp(4), max_iters=5)
    assert_allclose(solution.q, dp.action_values(random_mdp(4), solution.v), rtol=1e-14)
    attained = bellman.state_values(solution.q, solution.policy)
    assert_allclose(solution.residual, jnp.abs(attained - solution.v).max(), rtol=1e-14)


def test_a_good_start_saves_the_work(random_mdp):
    mdp = random_mdp(5)
    cold = dp.value_iteration(mdp, jnp.zeros(S))
    assert dp.value_iteration(mdp, cold.v).iterations == 1 < cold.iterations


def test_a_state_that_never_comes_up_is_not_certified(random_mdp):
    mdp = random_mdp(6)
    solution = dp.value_iteration(mdp, order=jnp.array([0, 1, 2, 0]))
    v = dp.policy_iteration(mdp).v
    assert not solution.converged
    assert (solution.lower <= v).all() and (v <= solution.upper).all()


def test_a_state_that_comes_up_rarely_is_waited_for():
    # State 1 comes up once in 1,200 sweeps: until then nothing seems to improve.
    order = np.zeros((1200, 2), int)
    order[-1] = 1
    mdp = dp.make_mdp(np.eye(2)[:, None], np.array([1.0, 3.0]), 0.5)
    solution = dp.value_iteration(mdp, order=jnp.asarray(order), max_iters=100_000)
    assert solution.converged
    assert_allclose(solution.v, [2, 6], atol=1e-6)


def test_tol_beneath_the_floor_ends_soon_and_says_so(random_mdp):
    mdp = random_mdp(7, gamma=0.95, dtype=np.float32)
    solution = dp.value_iteration(mdp, tol=1e-12)
    wide = jax.tree.map(lambda x: x.astype(np.float64), mdp)
    v = np.asarray(dp.policy_iteration(wide, tol=1e-9).v)
    assert not solution.converged
    assert solution.iterations < 2000
    assert (np.asarray(solution.lower) <= v).all() and (v <= np.asarray(solution.upper)).all()
    assert (solution.upper - solution.lower).max() < 1e-2


# Many at once

SOLVERS = {
    "synchronous": dp.value_iteration,
    "in place": lambda mdp: dp.value_iteration(mdp, order=jnp.array([2, 0, 3, 1])),
    "exact": dp.policy_iteration,
    "modified": lambda mdp: dp.policy_iteration(mdp, sweeps=3),
}
AXES = {
    "gamma": dp.MDP(None, None, 0, None),
    "rewards": dp.MDP(None, 0, None, None),
    "everything": dp.MDP(0, 0, 0, None),
}
NUM = 9


@functools.cache
def vmapped(solver: str, axis: str):
    return jax.jit(jax.vmap(SOLVERS[solver], in_axes=(AXES[axis],)))


def stacked(mdps: list[dp.MDP]) -> dp.MDP:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *mdps)


def assert_equals_the_loop(together: dp.Solution, alone: list[dp.Solution]) -> None:
    for n, one in enumerate(alone):
        here = jax.tree.map(lambda x, n=n: x[n], together)
        assert_array_equal(here.policy, one.policy)
        assert here.iterations == one.iterations
        assert here.converged == one.converged
        assert (here.lower <= one.v).all() and (one.v <= here.upper).all()
        assert (one.lower <= here.v).all() and (here.v <= one.upper).all()


@pytest.mark.parametrize(
    ("solver", "axis"),
    [
        ("synchronous", "gamma"),
        ("synchronous", "everything"),
        ("in place", "everything"),
        ("exact", "rewards"),
        ("exact", "everything"),
        ("modified", "everything"),
    ],
)
def test_vmap_equals_the_loop(random_mdp, solver, axis):
    mdps = [random_mdp(10 + n, gamma=n / (NUM + 1)) for n in range(NUM)]
    fixed = mdps[-1]
    mixed = [
        dp.MDP(*(one if ax is None else own for own, one, ax in zip(mdp, fixed, AXES[axis], strict=True)))
        for mdp in mdps
    ]
    batch = dp.MDP(
        *(one if ax is None else many for many, one, ax in zip(stacked(mdps), fixed, AXES[axis], strict=True))
    )
    alone = [SOLVERS[solver](mdp) for mdp in mixed]
    assert solver == "exact" or len({int(one.iterations) for one in alone}) > 1
    assert_equals_the_loop(vmapped(solver, axis)(batch), alone)


def test_vmap_needs_no_jit(random_mdp):
    mdps = [random_mdp(n, gamma=gamma) for n, gamma in enumerate([0.0, 0.5, 0.9])]
    assert_equals_the_loop(jax.vmap(dp.value_iteration)(stacked(mdps)), [dp.value_iteration(mdp) for mdp in mdps])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_bad_neighbour_fails_alone(random_mdp, solver):
    good = random_mdp(20)
    bad = [
        good._replace(R=good.R.at[1, 1].set(jnp.nan)),
        good._replace(R=good.R.at[0, 2].set(jnp.inf)),
        good._replace(R=good.R.at[0].set(-jnp.inf)),
        good._replace(P=good.P.at[3, 0, 0].set(jnp.nan)),
        good._replace(gamma=jnp.asarray(1.0)),
        good._replace(gamma=jnp.asarray(jnp.nan)),
        good._replace(gamma=jnp.asarray(-0.5)),
    ]
    together = vmapped(solver, "everything")(stacked([good, *bad, good]))
    assert_array_equal(together.converged, [True, *[False] * len(bad), True])
    for n in range(1, 1 + len(bad)):
        assert_array_equal(together.lower[n], np.full(S, -np.inf))
        assert_array_equal(together.upper[n], np.full(S, np.inf))
    alone = SOLVERS[solver](good)
    assert_equals_the_loop(jax.tree.map(lambda x: x[jnp.array([0, -1])], together), [alone, alone])


def test_one_shape_compiles_once_within_jit(random_mdp):
    chex.clear_trace_counter()
    solve = jax.jit(chex.assert_max_traces(dp.value_iteration, n=1))
    for seed in range(4):
        solve(random_mdp(seed, gamma=0.5 + seed / 10))


@pytest.mark.parametrize("solver", ["synchronous", "exact"])
def test_one_shape_compiles_once(random_mdp, monkeypatch, solver):
    # The library's own jit: action_values runs in Python only while something is traced.
    traced = []
    action_values = bellman.action_values
    monkeypatch.setattr(bellman, "action_values", lambda mdp, v: traced.append(1) or action_values(mdp, v))
    SOLVERS[solver](random_mdp(0, S=5))
    once = len(traced)
    for seed in range(1, 4):
        SOLVERS[solver](random_mdp(seed, S=5, gamma=0.5 + seed / 10))
    assert len(traced) == once > 0


# Refused


@pytest.mark.parametrize(
    ("message", "order"),
    [
        ("order must name states 0 to 3", [0, 4]),
        ("order must name states 0 to 3", [[0, 1], [-1, 2]]),
        ("order must name states 0 to 3", np.zeros((0,), int)),
        ("order must name states 0 to 3", np.zeros((0, 4), int)),
        ("order must be integers of shape [N] or [M, N], got float64 with [4]", np.arange(4.0)),
        ("order must be integers of shape [N] or [M, N], got bool with [4]", np.ones(4, bool)),
        ("order must be integers of shape [N] or [M, N], got int64 with []", 0),
        ("order must be integers of shape [N] or [M, N], got int64 with [1, 1, 4]", np.zeros((1, 1, 4), int)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_orders(random_mdp, message, order):
    for solve in (dp.value_iteration, lambda mdp, order: dp.value_iteration_history(mdp, None, 1, order=order)):
        with pytest.raises(ValueError, match=re.escape(message)):
            solve(random_mdp(0), order=jnp.asarray(order))


def test_bad_settings(random_mdp):
    mdp = random_mdp(0)
    with pytest.raises(ValueError, match=r"value_iteration needs gamma < 1, got gamma = 1"):
        dp.value_iteration(mdp._replace(gamma=jnp.asarray(1.0)))
    for tol in (0.0, -1e-6, float("nan")):
        with pytest.raises(ValueError, match=f"tol must be positive.*, got {tol}"):
            dp.value_iteration(mdp, tol=tol)


@pytest.mark.usefixtures("unchecked")
def test_v0_of_another_shape_is_refused(random_mdp):
    with pytest.raises(ValueError, match=re.escape("v0 must have shape [4], got [3]")):
        dp.value_iteration(random_mdp(0), jnp.zeros(3))

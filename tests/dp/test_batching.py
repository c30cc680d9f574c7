"""Many MDPs in one call: every lane gets the answer that it gets alone, whatever its neighbours need or suffer from."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp import bellman

S = 4

SOLVERS = {
    "synchronous": dp.value_iteration,
    "in place": lambda mdp: dp.value_iteration(mdp, order=jnp.array([2, 0, 3, 1])),
    "prioritised": lambda mdp: dp.prioritised_sweeping(mdp, updates=9),
    "anderson": lambda mdp: dp.anderson_iteration(mdp, memory=3),
    "exact": dp.policy_iteration,
    "modified": lambda mdp: dp.modified_policy_iteration(mdp, sweeps=3),
    "adaptive": dp.modified_policy_iteration,
    "gmres": dp.inexact_policy_iteration,
    "bicgstab": lambda mdp: dp.inexact_policy_iteration(mdp, method="bicgstab"),
    "soft": lambda mdp: dp.soft_value_iteration(mdp, temperature=0.1),
    "soft, exact": lambda mdp: dp.soft_policy_iteration(mdp, temperature=0.1),
}
RARE = ("prioritised", "adaptive", "gmres", "soft")  # for these compiling takes long
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
        assert_allclose(here.policy, one.policy, atol=1e-5)  # actions, or probabilities
        assert here.iterations == one.iterations
        assert here.converged == one.converged
        assert (here.lower <= one.v).all() and (one.v <= here.upper).all()
        assert (one.lower <= here.v).all() and (here.v <= one.upper).all()


@pytest.mark.parametrize(
    ("solver", "axis"),
    [
        pytest.param("synchronous", "gamma", marks=pytest.mark.slow),
        ("synchronous", "everything"),
        pytest.param("in place", "everything", marks=pytest.mark.slow),
        pytest.param("exact", "rewards", marks=pytest.mark.slow),
        ("exact", "everything"),
        ("modified", "everything"),
        *(pytest.param(name, "everything", marks=pytest.mark.slow) for name in RARE),
        *(pytest.param(name, "everything", marks=pytest.mark.slow) for name in ("anderson", "bicgstab")),
        pytest.param("soft, exact", "everything", marks=pytest.mark.slow),
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


@pytest.mark.parametrize(
    "solver", [pytest.param(name, marks=pytest.mark.slow if name in RARE else []) for name in SOLVERS]
)
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


@pytest.mark.parametrize("solver", ["synchronous", "exact", "anderson"])
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

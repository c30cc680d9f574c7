"""All solvers, brute force over every policy, and linear programming: one answer, within the certificates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import dp

S, A = 4, 3
POLICIES = np.array(list(itertools.product(range(A), repeat=S)))
SLACK = 1e-9  # what rounding and the LP solver may add to the reference


def solutions(mdp: dp.MDP, policy: jax.Array, v0: jax.Array, orders: jax.Array) -> dict[str, dp.Solution]:
    """Arguments of the same shapes throughout, so that each solver compiles once."""
    return {
        "synchronous": dp.value_iteration(mdp, jnp.zeros(S)),
        "from elsewhere": dp.value_iteration(mdp, v0),
        "in place": dp.value_iteration(mdp, v0, order=jnp.broadcast_to(jnp.arange(S), orders.shape)),
        "in random orders": dp.value_iteration(mdp, v0, order=orders),
        "policy iteration": dp.policy_iteration(mdp, policy),
        "in blocks": dp.value_iteration(mdp, v0, order=orders, block=3),
        "prioritised": dp.prioritised_sweeping(mdp, v0),
        "anderson": dp.anderson_iteration(mdp, v0),
        "modified, 1": dp.modified_policy_iteration(mdp, (policy, v0), sweeps=1),
        "modified, 3": dp.modified_policy_iteration(mdp, (policy, v0), sweeps=3),
        "modified, adaptive": dp.modified_policy_iteration(mdp, (policy, v0)),
        "inexact, gmres": dp.inexact_policy_iteration(mdp, (policy, v0), method="gmres"),
        "inexact, bicgstab": dp.inexact_policy_iteration(mdp, (policy, v0), method="bicgstab"),
        "solve": dp.solve(mdp, (policy, v0)),
    }


@jax.jit
def values(mdp: dp.MDP, policies: jax.Array) -> dp.Solution:
    return jax.vmap(lambda policy: dp.evaluate(mdp, policy))(policies)


def linear_program(mdp: dp.MDP) -> np.ndarray:
    """`min Σ_s v(s)  subject to  v(s) >= R(s, a) + γ Σ_s' p(s'|s, a) v(s')` for the allowed actions."""
    P, R, mask = np.asarray(mdp.P), np.asarray(mdp.R), np.asarray(mdp.mask)
    rows = (float(mdp.gamma) * P - np.eye(S)[:, None])[mask]
    return scipy.optimize.linprog(np.ones(S), A_ub=rows, b_ub=-R[mask], bounds=(None, None)).x


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_all_agree(random_mdp, seed):
    rng = np.random.default_rng(100 + seed)
    mask = rng.random((S, A)) < 0.7
    mask[np.arange(S), rng.integers(A, size=S)] = True
    terminal = np.arange(S) == (seed if seed < S else -1)
    mdp = random_mdp(seed, gamma=[0.3, 0.8, 0.95][seed % 3], mask=mask, terminal=terminal)
    allowed = np.ones((S, A), bool) if mdp.mask is None else np.asarray(mdp.mask)
    mdp = mdp._replace(mask=jnp.asarray(allowed))

    possible = allowed[np.arange(S), POLICIES].all(1)
    every = values(mdp, jnp.asarray(POLICIES))
    assert np.array_equal(every.converged, possible)
    v_star = np.asarray(every.v)[possible].max(0)
    assert np.abs(v_star - linear_program(mdp)).max() < SLACK

    some = POLICIES[possible][0]
    orders = np.array([rng.permutation(S) for _ in range(5)])
    found = solutions(mdp, jnp.asarray(some), jnp.asarray(rng.normal(size=S)), jnp.asarray(orders))
    for name, solution in found.items():
        assert solution.converged, name
        assert (solution.upper - solution.lower).max() <= 1e-6, name
        assert (solution.lower <= v_star + SLACK).all() and (v_star - SLACK <= solution.upper).all(), name
        assert allowed[np.arange(S), solution.policy].all(), name
        attained = np.asarray(every.v)[(np.asarray(solution.policy) == POLICIES).all(1)][0]
        assert (attained >= solution.lower - SLACK).all(), name


@pytest.mark.parametrize(("S", "A"), [(1, 1), (1, 3)])
def test_the_smallest_problems(random_mdp, S, A):
    mdp = random_mdp(0, S=S, A=A)
    P, R = np.asarray(mdp.P), np.asarray(mdp.R)
    every = [np.array(policy) for policy in itertools.product(range(A), repeat=S)]
    v = np.max([np.linalg.solve(np.eye(S) - 0.9 * P[range(S), pi], R[range(S), pi]) for pi in every], axis=0)
    for solution in (dp.value_iteration(mdp), dp.policy_iteration(mdp)):
        assert solution.converged
        assert np.abs(solution.v - v).max() <= 1e-6


def test_solve_above_the_size_that_it_eliminates():
    # 40 states go to the inexact solver, 20 to the exact one; both know v_*(s) of the corridor in closed form.
    for S in (20, 40):
        solution = dp.solve(dp.problems.corridor(S, gamma=0.95))
        c = 0.95 * 0.9 / (1 - 0.95 * 0.1)
        assert solution.converged
        assert np.abs(solution.v - c ** (S - np.arange(S)) / 0.95).max() <= 5e-7

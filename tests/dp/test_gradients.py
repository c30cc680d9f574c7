"""Derivatives of the answers: against finite differences, unrolled iterations and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp import bellman, gradients, linear

S, A = 4, 3
TOL = 1e-11
TAU = 0.3
PI = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(A), size=S))
ACTIONS = jnp.array([2, 0, 1, 1])

SOLVERS = {
    "value iteration": functools.partial(dp.value_iteration, tol=TOL),
    "in place": functools.partial(dp.value_iteration, order=np.arange(S), block=3, tol=TOL),
    "prioritised": functools.partial(dp.prioritised_sweeping, tol=TOL),
    "anderson": functools.partial(dp.anderson_iteration, tol=TOL),
    "policy iteration": functools.partial(dp.policy_iteration, tol=TOL),
    "modified": functools.partial(dp.modified_policy_iteration, tol=TOL),
    "inexact": functools.partial(dp.inexact_policy_iteration, tol=TOL),
    "evaluate": lambda mdp: dp.evaluate(mdp, ACTIONS, tol=TOL),
    "evaluate, sweeps": lambda mdp: dp.evaluate(mdp, PI, method="sweeps", tol=TOL),
    "soft value iteration": functools.partial(dp.soft_value_iteration, temperature=TAU, tol=TOL),
    "soft policy iteration": functools.partial(dp.soft_policy_iteration, temperature=TAU, tol=TOL),
}
BACKUPS = {
    "hard": dp.optimality,
    "evaluate": lambda mdp, v: dp.expectation(mdp, ACTIONS, v),
    "evaluate, sweeps": lambda mdp, v: dp.expectation(mdp, PI, v),
    "soft": lambda mdp, v: dp.soft_optimality(mdp, v, TAU),
}


def scalar(mdp: dp.MDP, v: jax.Array, q: jax.Array) -> jax.Array:
    """A smooth function of v and q, of which no entry is left out."""
    return jnp.sum(jnp.sin(v) * jnp.arange(1.0, S + 1)) + jnp.sum(q**2 * jnp.arange(1.0, A + 1)[None, :])


def loss(solver: str, mdp: dp.MDP) -> jax.Array:
    solution = SOLVERS[solver](mdp)
    return scalar(mdp, solution.v, solution.q)


@functools.cache
def through_sweeps(backup: str):
    """The gradient of the same loss through 400 sweeps, each of which is differentiated."""
    back_up = BACKUPS[backup]

    def unrolled(mdp: dp.MDP) -> jax.Array:
        v, _ = jax.lax.scan(lambda v, _: (back_up(mdp, v), None), jnp.zeros(S), length=400)
        return scalar(mdp, v, dp.action_values(mdp, v))

    return jax.jit(jax.grad(unrolled))


def direction(seed: int) -> dp.MDP:
    """A change of R, P (rows keep their sums) and γ."""
    rng = np.random.default_rng(seed)
    dP = rng.normal(size=(S, A, S))
    return dp.MDP(jnp.asarray(dP - dP.mean(-1, keepdims=True)), jnp.asarray(rng.normal(size=(S, A))), jnp.asarray(0.1))


def moved(mdp: dp.MDP, along: dp.MDP, step: float) -> dp.MDP:
    return jax.tree.map(lambda x, dx: x + step * dx, mdp, along)


@functools.cache
def value_and_gradient(solver: str):
    return jax.jit(jax.value_and_grad(functools.partial(loss, solver)))


@functools.cache
def forward(solver: str):
    return jax.jit(lambda mdp, along: jax.jvp(functools.partial(loss, solver), (mdp,), (along,))[1])


def pairing(gradient: dp.MDP, along: dp.MDP) -> float:
    return float(sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True)))


# All solvers conclude in the same place: everyday, one of each kind.
EVERYDAY = ("value iteration", "evaluate")


@pytest.mark.parametrize(
    "solver", [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.slow) for name in SOLVERS]
)
def test_against_finite_differences_and_unrolled_sweeps(random_mdp, solver):
    mdp, h = random_mdp(3, gamma=0.8), 1e-4
    both = value_and_gradient(solver)
    gradient = both(mdp)[1]
    unrolled = through_sweeps(solver if solver in BACKUPS else solver.split()[0] if "soft" in solver else "hard")(mdp)
    for got, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(unrolled), strict=True):
        assert_allclose(got, expected, rtol=1e-8, atol=1e-8)
    for seed in range(3):
        along = direction(seed)
        f = [float(both(moved(mdp, along, n * h))[0]) for n in (-2, -1, 1, 2)]
        slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)  # error of order h^4
        assert_allclose(pairing(gradient, along), slope, rtol=1e-6)
    # Forward mode is the same number.
    if solver in ("policy iteration", "soft policy iteration", "evaluate"):
        assert_allclose(forward(solver)(mdp, along), pairing(gradient, along), rtol=1e-10)


def test_in_closed_form():
    # v_*(F) = (2 + γ/2 v(L)) / (1 - γ/2), v_*(L) = (1 + γ/2 v(F)) / (1 - γ/2): at γ = 1/2 the slope of v(F) + v(L)
    # = 3 / (1 - γ) is 3 / (1 - γ)^2 = 12, and its second derivative 6 / (1 - γ)^3 = 48.
    def total(gamma):
        return dp.policy_iteration(dp.problems.space_exploration()._replace(gamma=gamma)).v.sum()

    slope, curvature = jax.jit(jax.value_and_grad(jax.grad(total)))(0.5)  # reverse over reverse
    assert_allclose([slope, curvature], [12, 48], rtol=1e-12)

    # Under the optimal policy the rewards that count are R(F, E) and R(L, C): d v(F) / d R is the expected discounted
    # number of visits, (I - γ P)^{-1} = [[3, 1], [1, 3]] / 2.
    def first(R):
        return dp.policy_iteration(dp.problems.space_exploration()._replace(R=R)).v[0]

    visits = jax.jit(jax.grad(first))(dp.problems.space_exploration().R)
    assert_allclose(visits, [[0, 1.5], [0.5, 0], [0, 0]], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["policy iteration", "soft policy iteration", "evaluate"])
def test_second_derivatives(random_mdp, solver):
    mdp, h, along = random_mdp(3, gamma=0.8), 1e-4, direction(5)
    slope = forward(solver)
    f = [float(slope(moved(mdp, along, n * h), along)) for n in (-2, -1, 1, 2)]
    expected = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)

    @jax.jit
    def curvature(mdp):
        return jax.jvp(lambda m: pairing_traced(jax.grad(functools.partial(loss, solver))(m), along), (mdp,), (along,))

    def pairing_traced(gradient, along):
        return sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))

    assert_allclose(curvature(mdp)[1], expected, rtol=1e-6)


def test_in_the_probabilities_of_a_policy(random_mdp):
    # The policy gradient theorem: d v(s0) / d π(a|s) = d_π(s) q_π(s, a), d_π the discounted visits from s0.
    mdp = random_mdp(4, gamma=0.8)
    gradient = jax.jit(jax.grad(lambda pi: dp.evaluate(mdp, pi, tol=TOL).v[1]))(PI)
    P = np.einsum("sa,sat->st", PI, mdp.P)
    visits = np.linalg.inv(np.eye(S) - 0.8 * P)[1]
    assert_allclose(gradient, visits[:, None] * dp.evaluate(mdp, PI, tol=TOL).q, rtol=1e-10)


@pytest.mark.slow
def test_in_the_temperature(random_mdp):
    mdp, h = random_mdp(5, gamma=0.8, mask=np.arange(12).reshape(4, 3) % 5 != 1), 1e-4

    @jax.jit
    def value(tau):
        return dp.soft_policy_iteration(mdp, temperature=tau, tol=TOL).v[2]

    f = [float(value(TAU + n * h)) for n in (-2, -1, 1, 2)]
    assert_allclose(jax.jit(jax.grad(value))(TAU), (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h), rtol=1e-6)


def test_masks_and_ends_leave_no_nan(random_mdp):
    mask = np.ones((S, A), bool)
    mask[1, 0] = mask[2, 1:] = False
    mdp = random_mdp(6, mask=mask, terminal=np.arange(S) == 3)
    for solver in ("value iteration", "soft value iteration"):

        def total(P, R, gamma, solver=solver):
            return SOLVERS[solver](dp.MDP(P, R, gamma, mdp.mask)).v.sum()

        slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*mdp[:3])
        for slope in slopes:
            assert np.isfinite(slope).all()
            assert np.abs(slope).max() > 0
        assert_array_equal(slopes[1][~np.asarray(mdp.mask)], 0)


def test_at_a_tie_the_derivative_is_that_of_the_returned_policy():
    # Two actions in one state, both worth 1 / (1 - γ): v_* = max(R) / (1 - γ) has a kink.
    mdp = dp.make_mdp(np.ones((1, 2, 1)), np.ones((1, 2)), 0.5)

    def value(R):
        return dp.policy_iteration(mdp._replace(R=R)).v[0]

    from_start = jax.jit(jax.grad(lambda R, start: dp.policy_iteration(mdp._replace(R=R), start).v[0]))
    for start, slopes in [(0, [2, 0]), (1, [0, 2])]:
        assert_allclose(from_start(mdp.R, jnp.array([start]))[0], slopes, atol=1e-12)
    # Of both actions the first: right in every direction in which it stays the best.
    assert_allclose(jax.jit(jax.grad(value))(mdp.R)[0], [2, 0], atol=1e-12)
    up = jnp.array([[1e-6, 0.0]])
    assert_allclose((value(mdp.R + up) - value(mdp.R)) / 1e-6, 2, rtol=1e-6)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_through_vmap_and_jit(random_mdp, mode):
    mdps = [random_mdp(n, gamma=gamma) for n, gamma in enumerate([0.2, 0.8, 0.95])]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *mdps)
    f = functools.partial(loss, "policy iteration")
    slope = jax.grad(f) if mode == "reverse" else lambda mdp: jax.jvp(f, (mdp,), (direction(0),))[1]
    together = jax.jit(jax.vmap(slope))(stacked)
    alone = jax.jit(slope)
    for n, mdp in enumerate(mdps):
        for got, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone(mdp)), strict=True):
            assert_allclose(got[n], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_memory_does_not_grow_with_iterations():
    # γ near 1: thousands of sweeps. Their values alone would fill num * S floats.
    mdp, num = dp.problems.garnet(100, 2, 3, gamma=0.9999, seed=0), 100_000

    def memory(f):
        return jax.jit(jax.grad(f)).lower(mdp).compile().memory_analysis().temp_size_in_bytes

    def total(mdp):
        return dp.value_iteration(mdp, max_iters=num).v.sum()

    def swept(mdp, num):
        v, _ = jax.lax.scan(lambda v, _: (dp.optimality(mdp, v), None), jnp.zeros(100), length=num)
        return v.sum()

    model = sum(x.nbytes for x in jax.tree.leaves(mdp))
    assert memory(total) < 6 * model
    assert memory(functools.partial(swept, num=num)) > 8 * 100 * num


def test_bounds_and_counts_have_no_derivative(random_mdp):
    mdp = random_mdp(7)

    def others(mdp):
        solution = dp.value_iteration(mdp)
        return solution.lower.sum() + solution.upper.sum() + solution.residual

    assert all((x == 0).all() for x in jax.tree.leaves(jax.jit(jax.grad(others))(mdp)))


@pytest.mark.slow
def test_large_models_are_differentiated_by_krylov(random_mdp, monkeypatch):
    mdp, v = random_mdp(8), jnp.asarray(dp.evaluate(random_mdp(8), ACTIONS, tol=TOL).v)

    def total(mdp):
        return (gradients.fixed_point(gradients.EXPECTATION, (mdp, ACTIONS), v) * jnp.arange(1.0, S + 1)).sum()

    direct = jax.jit(jax.grad(total))(mdp)
    monkeypatch.setattr(linear, "DIRECT", 0)
    iterated = jax.jit(lambda mdp: jax.grad(total)(mdp))(mdp)
    for one, other in zip(jax.tree.leaves(direct), jax.tree.leaves(iterated), strict=True):
        assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    forward = jax.jit(lambda mdp, along: jax.jvp(total, (mdp,), (along,))[1])(mdp, direction(0))
    assert_allclose(forward, pairing(direct, direction(0)), rtol=1e-9)


def test_a_linear_system_without_solution_is_not_answered(monkeypatch):
    # γ = 1 and a chain that never ends: (I - P) is singular.
    monkeypatch.setattr(linear, "DIRECT", 0)
    assert np.isnan(linear.solve(dp.MRP(jnp.eye(3), jnp.ones(3), jnp.asarray(1.0)))).all()


def test_float32_gradients_are_float32(random_mdp):
    mdp = random_mdp(9, dtype=np.float32)
    slope = jax.jit(jax.grad(lambda mdp: dp.value_iteration(mdp).v.sum()))
    gradient = slope(mdp)
    assert {x.dtype for x in jax.tree.leaves(gradient)} == {np.dtype(np.float32)}
    reference = slope(jax.tree.map(lambda x: x.astype(float), mdp))
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True):
        assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_of_a_fixed_point_of_ones_own(random_mdp):
    # The rule serves any monotone operator with a policy behind it: here T_π with rewards halved.
    operator = gradients.Operator(
        apply=lambda theta, v: bellman.sweep(dp.induce(theta, ACTIONS)._replace(r=0.5 * theta.R[:, 0]), v),
        chain=lambda theta, v: dp.induce(theta, ACTIONS),
    )
    mdp = random_mdp(10)
    v = np.linalg.solve(np.eye(S) - 0.9 * np.asarray(mdp.P)[range(S), ACTIONS], 0.5 * np.asarray(mdp.R)[:, 0])
    slope = jax.jit(jax.grad(lambda mdp: gradients.fixed_point(operator, mdp, jnp.asarray(v))[0]))(mdp)
    P = np.asarray(mdp.P)[range(S), ACTIONS]
    assert_allclose(slope.R[:, 0], 0.5 * np.linalg.inv(np.eye(S) - 0.9 * P)[0], rtol=1e-10)


# Average reward


@pytest.mark.slow
def test_gain_and_bias_against_finite_differences():
    mdp, h = dp.problems.taxicab(), 1e-4
    P = jnp.where(mdp.P > 0, 1.0, 0)
    along = dp.MDP(P - mdp.P * P.sum(-1, keepdims=True), direction(0).R[:3], jnp.asarray(0.0), None)
    pi = jnp.asarray(np.where(mdp.mask, 1.0, 0) / np.asarray(mdp.mask).sum(1, keepdims=True))

    def scalar(P, R, pi):
        solved = dp.average_policy_iteration(mdp._replace(P=P, R=R), tol=1e-11)
        given = dp.evaluate_average(mdp._replace(P=P, R=R), pi, tol=1e-11)
        return jnp.stack([solved.gain, jnp.sin(solved.bias).sum(), given.gain, given.bias @ jnp.arange(3.0)])

    value = jax.jit(lambda t: scalar(mdp.P + t * along.P, mdp.R + t * along.R, pi))
    f = [value(n * h) for n in (-2, -1, 1, 2)]
    slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
    assert_allclose(jax.jit(jax.jacfwd(value))(0.0), slope, rtol=1e-6)
    assert_allclose(jax.jit(jax.jacrev(value))(0.0), slope, rtol=1e-6)


@pytest.mark.slow
def test_the_slope_of_the_gain_is_the_stationary_distribution():
    # In the rewards of the optimal policy, whichever solver found it.
    mdp = dp.problems.taxicab()
    P = np.asarray(mdp.P)[range(3), [1, 1, 1]]
    stationary = np.linalg.lstsq(np.vstack([P.T - np.eye(3), np.ones(3)]), [0, 0, 0, 1], rcond=None)[0]
    for solve in (dp.relative_value_iteration, dp.average_policy_iteration):

        def gain_and_bound(R, solve=solve):
            solution = solve(mdp._replace(R=R))
            return jnp.stack([solution.gain, solution.lower])

        slope, bounds = jax.jit(jax.jacrev(gain_and_bound))(mdp.R)
        assert_allclose(slope[:, 1], stationary, rtol=1e-9)
        assert_allclose(slope[:, [0, 2]], 0, atol=1e-12)
        assert_array_equal(bounds, 0)

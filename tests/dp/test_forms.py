"""One MDP in all its forms: dense, lists of successors, ragged and matrix-free. Every solver says the same of each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp

S, A = 5, 3
rng = np.random.default_rng(0)
MASK = np.ones((S, A), bool)
MASK[1, 2] = MASK[3, 0] = MASK[4, 0] = MASK[4, 1] = False
P = rng.random((S, A, S)) * (rng.random((S, A, S)) < 0.6)
P[:, :, 0] += 0.05  # state 0 comes back: one recurrent class under every policy
P[0, 0] = [0, 1, 0, 0, 0]
P /= P.sum(-1, keepdims=True)
R = rng.normal(size=(S, A))
FORMS = ("dense", "successors", "ragged", "steps")


@functools.lru_cache
def model(form: str, gamma: float = 0.9) -> dp.MDP:
    if form == "dense":
        return dp.make_mdp(P, R, gamma, mask=MASK)
    if form == "successors":
        # In any order, with room to spare and a successor that comes twice.
        order = np.argsort(-P, axis=-1, kind="stable")
        prob = np.take_along_axis(P, order, -1)
        prob = np.concatenate([prob[..., :1] / 4, prob[..., 1:], prob[..., :1] * 3 / 4], -1)
        return dp.from_successors(np.concatenate([order, order[..., :1]], -1), prob, R, gamma, mask=MASK)
    if form == "ragged":
        table = dp.tabulate(model("dense", gamma))
        return dp.from_choices(*table[:5], gamma)
    table = dp.tabulate(model("successors", gamma))
    row, thresholds = np.repeat(np.arange(MASK.sum()), np.diff(table.indptr)), np.zeros((S * A, S))
    thresholds[np.flatnonzero(MASK)[row], table.indices] = table.data

    def step(state, action, event):
        # The event names the successor.
        return event, jnp.asarray(R)[state, action]

    def probability(state, action, event):
        return jnp.asarray(thresholds)[state * A + action, event]

    return dp.from_step(step, probability, S, A, gamma, events=S, mask=MASK)


def same_policy(form: str, policy) -> np.ndarray:
    """Say in the numbers of the form what a policy says in the numbers of the dense model."""
    policy = np.asarray(policy)
    if form != "ragged":
        return policy
    if policy.ndim == 2:
        return policy[MASK]
    return np.array([MASK[s, :a].sum() for s, a in enumerate(policy)])


def spread(form: str, q) -> np.ndarray:
    """Bring action values to the shape of the dense model."""
    if form != "ragged":
        return np.asarray(q)
    full = np.full((S, A), -np.inf)
    full[MASK] = q
    return full


UNIFORM = MASK / MASK.sum(1, keepdims=True)

SOLVERS = {
    "value_iteration": dp.value_iteration,
    "gauss_seidel": functools.partial(dp.value_iteration, order=np.arange(S)),
    "in blocks": functools.partial(dp.value_iteration, order=np.arange(S), block=2),
    "prioritised_sweeping": dp.prioritised_sweeping,
    "anderson": dp.anderson_iteration,
    "policy_iteration": dp.policy_iteration,
    "modified": dp.modified_policy_iteration,
    "five sweeps": functools.partial(dp.modified_policy_iteration, sweeps=5),
    "gmres": functools.partial(dp.inexact_policy_iteration, method="gmres"),
    "solve": dp.solve,
    "soft": functools.partial(dp.soft_value_iteration, temperature=0.3),
    "soft newton": functools.partial(dp.soft_policy_iteration, temperature=0.3),
}
FORMS_BUT_DENSE = FORMS[1:]
SOME = [pytest.param("successors", marks=pytest.mark.slow), "ragged", pytest.param("steps", marks=pytest.mark.slow)]


@functools.lru_cache
def reference(solver: str):
    return SOLVERS[solver](model("dense"))


# Enough to run every operation of every form; the rest takes minutes to compile.
OFTEN = {
    ("ragged", "solve"),
    ("successors", "prioritised_sweeping"),
    ("steps", "modified"),
}
EVERY = [
    pytest.param(form, solver, marks=() if (form, solver) in OFTEN else pytest.mark.slow)
    for form in FORMS_BUT_DENSE
    for solver in SOLVERS
]


@pytest.mark.parametrize(("form", "solver"), EVERY)
def test_every_solver_on_every_form(form, solver):
    expected, found = reference(solver), SOLVERS[solver](model(form))
    assert found.converged
    assert (found.lower <= expected.upper).all() and (expected.lower <= found.upper).all()
    assert_allclose(found.v, expected.v, atol=1e-6)
    assert_allclose(spread(form, found.q), expected.q, atol=1e-6)
    assert_allclose(found.policy, same_policy(form, expected.policy), atol=1e-5)


@pytest.mark.parametrize(
    ("form", "method"),
    [
        *(pytest.param("ragged", method, marks=pytest.mark.slow) for method in ("direct", "gmres")),
        *(pytest.param("successors", method, marks=pytest.mark.slow) for method in ("direct", "sweeps", "gmres")),
        *(pytest.param("steps", method, marks=pytest.mark.slow) for method in ("sweeps", "gmres")),
        ("steps", "direct"),
        pytest.param("ragged", "sweeps", marks=pytest.mark.slow),
    ],
)
def test_evaluation_on_every_form(form, method):
    expected = dp.evaluate(model("dense"), UNIFORM)
    found = dp.evaluate(model(form), same_policy(form, UNIFORM), method=method)
    assert found.converged
    assert_allclose(found.v, expected.v, atol=1e-6)
    greedy = reference("solve").policy
    assert_allclose(dp.evaluate(model(form), same_policy(form, greedy)).v, reference("solve").v, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS_BUT_DENSE)
def test_horizons_on_every_form(form):
    expected, found = dp.finite_horizon(model("dense", 1.0), 4), dp.finite_horizon(model(form, 1.0), 4)
    assert_allclose(found.v, expected.v, rtol=1e-13)
    assert_array_equal(found.policy, [same_policy(form, policy) for policy in expected.policy])
    expected = dp.evaluate_horizon(model("dense"), UNIFORM, 4)
    found = dp.evaluate_horizon(model(form), same_policy(form, UNIFORM), 4)
    assert found.converged
    assert_allclose(found.v, expected.v, rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS_BUT_DENSE)
def test_average_reward_on_every_form(form):
    for solver in (dp.relative_value_iteration, dp.average_policy_iteration):
        expected, found = solver(model("dense")), solver(model(form))
        assert found.converged
        assert_allclose(found.gain, expected.gain, atol=1e-6)
        assert_array_equal(found.policy, same_policy(form, expected.policy))
    expected = dp.evaluate_average(model("dense"), UNIFORM)
    found = dp.evaluate_average(model(form), same_policy(form, UNIFORM))
    assert found.converged
    assert_allclose(found.bias, expected.bias, atol=1e-6)


@pytest.mark.parametrize("form", SOME)
def test_bounds_and_operators_on_every_form(form):
    v = jnp.asarray(rng.normal(size=S))
    dense, mdp = model("dense"), model(form)
    assert_allclose(dp.optimality(mdp, v), dp.optimality(dense, v), rtol=1e-14)
    assert_array_equal(dp.greedy(mdp, v), same_policy(form, dp.greedy(dense, v)))
    pi = jnp.asarray(same_policy(form, UNIFORM))
    assert_allclose(dp.expectation(mdp, pi, v), dp.expectation(dense, jnp.asarray(UNIFORM), v), rtol=1e-13)
    assert_allclose(dp.expected_reward(mdp, pi), dp.expected_reward(dense, jnp.asarray(UNIFORM)), rtol=1e-13)
    q = dp.action_values(mdp, v)
    never = jnp.where(jnp.isneginf(q), 0, q)
    assert_allclose(dp.state_values(never, pi, mdp.choices), dp.expectation(mdp, pi, v), rtol=1e-13)
    mine, theirs = dp.bounds(mdp, v), dp.bounds(dense, v)
    assert_allclose(mine.lower, theirs.lower, rtol=1e-12)
    assert_allclose(mine.upper, theirs.upper, rtol=1e-12)


@pytest.mark.parametrize("form", SOME)
def test_derivatives_on_every_form(form):
    def worth(R, mdp: dp.MDP):
        return dp.solve(mdp._replace(R=R)).v[0]

    slope = jax.jit(jax.grad(worth))
    expected, found = slope(model("dense").R, model("dense")), slope(model(form).R, model(form))
    assert_allclose(np.where(MASK, spread(form, found), 0), np.where(MASK, expected, 0), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("form", [pytest.param("successors", marks=pytest.mark.slow), "ragged"])
def test_the_slope_in_the_probabilities_is_gamma_times_visits_times_values(form):
    # d v(0) / d p(s'|s, a) = (visits of s under pi) gamma v(s') where a is taken, for every stored probability.
    mdp = model(form)

    def worth(P):
        return dp.evaluate(mdp._replace(P=P), jnp.asarray(same_policy(form, UNIFORM))).v[0]

    groups = jax.grad(worth, allow_int=True)(mdp.P)
    dense = dp.make_mdp(P, R, 0.9, mask=MASK)
    chain = dp.induce(dense, jnp.asarray(UNIFORM))
    v = np.linalg.solve(np.eye(S) - 0.9 * np.asarray(chain.P), chain.r)
    visits = np.linalg.solve(np.eye(S) - 0.9 * np.asarray(chain.P).T, np.eye(S)[0])
    expected = 0.9 * (visits[:, None] * UNIFORM)[:, :, None] * v
    if form == "successors":
        state, slopes = np.asarray(mdp.P.state), np.asarray(groups.prob)
        for k, s, a in np.argwhere(np.asarray(mdp.P.prob) > 0):
            assert_allclose(slopes[k, s, a], expected[s, a, state[k, s, a]], rtol=1e-9)
    else:
        rows = np.argwhere(MASK)[np.argsort(np.asarray(mdp.P.place))]
        group = np.concatenate([np.full(g.state.shape[1], i) for i, g in enumerate(mdp.P.groups)])
        for i, (own, slope) in enumerate(zip(mdp.P.groups, groups.groups, strict=True)):
            members = rows[group == i]
            for k, j in np.argwhere(np.asarray(own.prob) > 0):
                assert_allclose(slope.prob[k, j], expected[(*members[j], own.state[k, j])], rtol=1e-9)


def test_many_sparse_models_at_once():
    models = [dp.problems.garnet(6, 2, 3, gamma=0.9, seed=seed) for seed in range(4)]
    tables = [dp.tabulate(mdp) for mdp in models]
    sparse = [
        dp.from_successors(t.indices.reshape(6, 2, 3), t.data.reshape(6, 2, 3), t.rewards.reshape(6, 2), 0.9)
        for t in tables
    ]
    found = jax.vmap(dp.solve)(dp.stack(sparse))
    assert found.converged.all()
    assert_allclose(found.v, jax.vmap(dp.solve)(dp.stack(models)).v, atol=1e-6)


def test_stages_of_sparse_models():
    stages = [model("ragged", gamma) for gamma in (0.5, 0.9, 1.0)]
    dense = [model("dense", gamma) for gamma in (0.5, 0.9, 1.0)]
    assert_allclose(dp.finite_horizon(dp.stack(stages), 3).v, dp.finite_horizon(dp.stack(dense), 3).v, rtol=1e-13)
    with pytest.raises(ValueError, match=r"mdps\[1\] has another form"):
        dp.stack([stages[0], dense[0]])


@pytest.mark.parametrize("form", FORMS_BUT_DENSE)
def test_nothing_is_lost_on_the_way_to_a_table(form):
    expected, found = dp.tabulate(model("dense")), dp.tabulate(model(form))
    for name in ("indices", "indptr", "choices"):
        assert_array_equal(getattr(found, name), getattr(expected, name))
    assert_allclose(found.data, expected.data, rtol=1e-15)
    assert_allclose(found.rewards, expected.rewards, rtol=1e-15)

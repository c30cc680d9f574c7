"""The doors of sparse models: what comes in is what is solved, and what is wrong is named."""

import functools
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.choices import grouped
from dp.successors import LONG, UNROLLED, Successors, make_ragged
from dp.transitions import Chosen, Transposed, dense

STATE = np.array([[[0, 1], [1, 1]], [[1, 0], [0, 0]]])
PROB = np.array([[[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [1.0, 0.0]]])
R = np.array([[1.0, 2.0], [3.0, 4.0]])


def changed(x: np.ndarray, where: tuple, value) -> np.ndarray:
    x = x.copy()
    x[where] = value
    return x


def test_successors_that_repeat_add_up():
    mdp = dp.from_successors(STATE, PROB, R, 0.9)
    assert_array_equal(dense(dp.induce(mdp, jnp.array([1, 0])).P), [[0, 1], [0, 1]])
    assert_array_equal(dp.as_dense(mdp).P, [[[0.5, 0.5], [0, 1]], [[0, 1], [1, 0]]])


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("state[0, 1, 0] = 2 must lie between 0 and 1", (changed(STATE, (0, 1, 0), 2), PROB, R, 0.9)),
        ("state[1, 0, 1] = -1 must lie", (changed(STATE, (1, 0, 1), -1), PROB, R, 0.9)),
        ("state must be an array of integers, got float64", (STATE * 1.0, PROB, R, 0.9)),
        ("state must have the shape of prob, [2, 2, 2], got [2, 2]", (STATE[..., 0], PROB, R, 0.9)),
        ("P[0, 0] sums to 0.75, not to 1", (STATE, changed(PROB, (0, 0, 0), 0.25), R, 0.9)),
        ("prob[0, 1, 0] = -0.25 is a negative", (STATE, changed(PROB, (0, 1, 0), -0.25), R, 0.9)),
        ("prob[0, 1, 0] = nan is not finite", (STATE, changed(PROB, (0, 1, 0), np.nan), R, 0.9)),
        ("R[1, 1] = inf is not finite", (STATE, PROB, changed(R, (1, 1), np.inf), 0.9)),
        ("R must have shape [2, 2] or [2]", (STATE, PROB, R[:, :1], 0.9)),
        ("gamma must lie in [0, 1], got 1.5", (STATE, PROB, R, 1.5)),
        ("prob must have shape [S, A, K]", (STATE, PROB[0], R, 0.9)),
    ],
)
def test_bad_successors_are_named(message, arguments):
    with pytest.raises(ValueError, match=re.escape(message)):
        dp.from_successors(*arguments)


def test_terminal_and_forbidden_rows_are_not_read():
    state, prob = changed(STATE, (1,), 99), changed(PROB, (1,), np.nan)
    mask = np.array([[True, False], [True, True]])
    mdp = dp.from_successors(state, prob, R, 0.9, terminal=np.array([False, True]), mask=mask)
    assert_allclose(dp.solve(mdp).v, [1 / 0.55, 0], atol=1e-6)


# Three states: 0 has two choices, 1 none (it is terminal), 2 one that may end the episode at once.
DATA, INDICES, INDPTR = np.array([0.5, 0.5, 1.0]), np.array([1, 2, 0]), np.array([0, 2, 3, 3])
CHOICES, REWARDS = np.array([0, 2, 2, 3]), np.array([1.0, 0.0, 5.0])


def test_a_state_without_choices_has_ended():
    mdp = dp.from_choices(DATA, INDICES, INDPTR, CHOICES, REWARDS, 0.5)
    table = dp.tabulate(mdp)
    assert_array_equal(table.choices, [0, 2, 3, 4])
    assert_array_equal(table.rewards, [1, 0, 0, 5])
    assert_array_equal(dp.solve(mdp).policy, [0, 0, 0])
    assert_allclose(dp.solve(mdp).v, [1 + 0.5 * 0.5 * 5, 0, 5], atol=1e-9)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("indices[1] = 3 must lie between 0 and 2", {"indices": changed(INDICES, (1,), 3)}),
        ("row 0, choice 0 of state 0, sums to 0.75, not to 1", {"data": changed(DATA, (0,), 0.25)}),
        ("data[2] = -1 is a negative probability", {"data": changed(DATA, (2,), -1.0)}),
        ("data must have shape [3] to fit the pointers, got [2]", {"data": DATA[:2]}),
        ("rewards must have shape [3]", {"rewards": REWARDS[:2]}),
        ("rewards[1] = nan is not finite", {"rewards": changed(REWARDS, (1,), np.nan)}),
        ("indptr must be integers of shape [4]", {"indptr": INDPTR[:3]}),
        ("indptr must begin with 0 and never fall, but indptr[2] = 1", {"indptr": np.array([0, 2, 1, 3])}),
        ("choices must begin with 0", {"choices": CHOICES + 1}),
        ("choices must be integers of shape [S + 1]", {"choices": CHOICES * 1.0}),
    ],
)
def test_bad_choices_are_named(message, changes):
    arguments = {"data": DATA, "indices": INDICES, "indptr": INDPTR, "choices": CHOICES, "rewards": REWARDS} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        dp.from_choices(**arguments)


def test_policies_of_ragged_models_are_checked_by_state():
    mdp = dp.from_choices(DATA, INDICES, INDPTR, CHOICES, REWARDS, 0.5)
    with pytest.raises(ValueError, match=re.escape("policy[2] = 1 is not an action: there are 1")):
        dp.evaluate(mdp, np.array([1, 0, 1]))
    with pytest.raises(ValueError, match=re.escape("policy[0] = [0.5 0.4] is not a distribution")):
        dp.evaluate(mdp, np.array([0.5, 0.4, 1.0, 1.0]))


def walk(state, action, event):
    """Left or right with a slip, -1 a step, out at both ends."""
    to = state + jnp.where(event == 1, 0, 2 * action - 1)
    return jnp.where((to < 0) | (to > 4), -1, to), jnp.where(action == 0, -1.0, -2.0)


def test_a_simulator_is_a_model():
    mdp = dp.from_step(walk, np.array([0.75, 0.25]), 5, 2, 1.0)
    P = np.zeros((5, 2, 5))
    for s, a in np.ndindex(5, 2):
        P[s, a, s] = 0.25
        if 0 <= s + 2 * a - 1 <= 4:
            P[s, a, s + 2 * a - 1] = 0.75
    assert_array_equal(dp.as_dense(mdp).P, P)
    assert_array_equal(mdp.R, np.tile([-1.0, -2.0], (5, 1)))
    # All to the left: 4/3 steps for each cell.
    assert_allclose(dp.evaluate(mdp, np.zeros(5, int)).v, -np.arange(1, 6) * 4 / 3, rtol=1e-9)


def test_parameters_of_a_simulator_are_arguments():
    def scaled(scale, state, action, event):
        to, reward = walk(state, action, event)
        return to, scale * reward

    solve = jax.jit(lambda mdp: dp.evaluate(mdp, jnp.zeros(5, int)).v)
    models = [
        dp.from_step(jax.tree_util.Partial(scaled, scale), np.array([0.75, 0.25]), 5, 2, 0.9) for scale in (1.0, 3.0)
    ]
    one, three = map(solve, models)
    assert_allclose(three, 3 * one, rtol=1e-9)
    assert solve._cache_size() == 1


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (
            "in state 4 under action 1 a step leads to state 5: there are 5",
            (lambda s, a, e: (s + a, 0.0), np.ones(1), 5, 2),
        ),
        (
            "in state 2 under action 0 the reward is not finite",
            (lambda s, a, e: (s, jnp.where(s == 2, jnp.nan, 0.0)), np.ones(1), 5, 2),
        ),
        (
            "step must return an integer next state, got float32",
            (lambda s, a, e: (jnp.float32(1), 0.0), np.ones(1), 5, 2),
        ),
        ("as reward, got shape [2]", (lambda s, a, e: (s, jnp.ones(2)), np.ones(1), 5, 2)),
        ("the events sum to 0.75, not to 1", (walk, np.array([0.5, 0.25]), 5, 2)),
        ("probability[1] = -0.5 is a negative", (walk, np.array([1.5, -0.5]), 5, 2)),
        ("probability must have shape [E]", (walk, np.ones((1, 1)), 5, 2)),
        ("events must say how many", (walk, lambda s, a, e: 0.5, 5, 2)),
        ("at least one state and one action, got 0 and 2", (walk, np.array([0.75, 0.25]), 0, 2)),
    ],
)
def test_bad_simulators_are_named(message, arguments):
    with pytest.raises(ValueError, match=re.escape(message)):
        dp.from_step(*arguments, 0.9)


def test_a_simulator_reads_its_model_block_by_block(monkeypatch):
    monkeypatch.setattr("dp.matrix_free.BLOCK", 7)
    v = jnp.arange(5.0)
    found = dp.optimality(dp.from_step(walk, np.array([0.75, 0.25]), 5, 2, 0.9), v)
    assert_allclose(
        found, dp.optimality(dp.as_dense(dp.from_step(walk, np.array([0.75, 0.25]), 5, 2, 0.9)), v), rtol=1e-14
    )


@given(st.lists(st.integers(0, 200), min_size=1, max_size=50))
def test_groups_hold_everything_once_and_waste_little(counts):
    groups, place = grouped(np.array(counts))
    members = np.concatenate([members for _, members in groups])
    assert_array_equal(members[place], np.arange(len(counts)))
    for size, members in groups:
        assert (np.array(counts)[members] <= size).all()
        assert (2 * size <= 3 * np.array(counts)[members]).all()


@pytest.mark.parametrize("longest", [3, UNROLLED + 5, pytest.param(LONG + 30, marks=pytest.mark.slow)])
def test_rows_of_any_length(longest):
    rng = np.random.default_rng(longest)
    S, C = 120, 40
    counts = rng.integers(0, longest, size=C)
    counts[7] = longest
    row = np.repeat(np.arange(C), counts)
    state = np.concatenate([rng.choice(S, size=n, replace=False) for n in counts])
    prob = rng.random(len(row))
    full = np.zeros((C, S))
    full[row, state] = prob
    P = make_ragged(row, state, prob, C)
    v, x = rng.normal(size=(2, S))
    product, mass, terms, again = jax.jit(lambda P, v, x: (P @ v, P.mass(), P.terms(), P.take(jnp.arange(C)) @ x))(
        P, v, x
    )
    assert_allclose(product, full @ v, rtol=1e-12)
    assert_allclose(mass, full.sum(1), rtol=1e-12)
    assert terms == longest
    assert_allclose(again, full @ x, rtol=1e-12)
    # No more than half as many again, whatever the longest row is.
    assert sum(group.prob.size for group in P.groups) <= 1.5 * len(row)


def test_the_transpose_of_a_chain_moves_distributions():
    mdp = dp.from_successors(STATE, PROB, R, 0.9)
    chain = dp.induce(mdp, jnp.array([0, 0])).P
    assert isinstance(chain, Successors)
    mu = jnp.array([0.25, 0.75])
    assert_allclose(Transposed(chain) @ mu, np.asarray(dense(chain)).T @ np.asarray(mu), rtol=1e-14)


@pytest.mark.slow
@given(st.integers(0, 10_000))
def test_there_and_back_loses_nothing(seed):
    rng = np.random.default_rng(seed)
    S, A = rng.integers(1, 5, size=2)
    P = rng.random((S, A, S)) * (rng.random((S, A, S)) < 0.5) / S
    mask = rng.random((S, A)) < 0.8
    mask[:, 0] |= ~mask.any(1)
    mdp = dp.make_mdp(P, rng.normal(size=(S, A)), rng.random(), mask=mask, substochastic=True)
    for there in (dp.as_successors, dp.as_choices):
        back = dp.as_dense(there(mdp))
        if there is dp.as_choices:
            back = dp.as_choices(back)
            expected = dp.as_choices(mdp)
        else:
            expected = mdp
        assert jax.tree.structure(back) == jax.tree.structure(expected)
        for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(expected), strict=True):
            assert_array_equal(x, y)


def test_float32_stays_float32():
    mdp = dp.from_successors(STATE, PROB.astype(np.float32), R.astype(np.float32), 0.9)
    ragged = dp.as_choices(mdp)
    for model in (mdp, ragged):
        assert model.R.dtype == model.gamma.dtype == dp.solve(model).v.dtype == jnp.float32
        assert dp.solve(model).converged


@functools.lru_cache
def one_long_row() -> tuple[dp.MDP, dp.MDP]:
    """State 0 may lead anywhere, all others to two states at most: filled up, its chain would outgrow the model."""
    rng = np.random.default_rng(1)
    S = 40
    P, mask = np.zeros((S, 3, S)), np.ones((S, 3), bool)
    P[0] = rng.dirichlet(np.ones(S), size=3)
    for s, a in np.ndindex(S - 1, 3):
        P[s + 1, a, rng.choice(S, size=2, replace=False)] = [0.25, 0.75]
    mask[1:, 2] = rng.random(S - 1) < 0.2
    mask[0, 1:] = False
    mdp = dp.make_mdp(P, rng.normal(size=(S, 3)), 0.9, mask=mask)
    return mdp, dp.as_choices(mdp)


@pytest.mark.slow
def test_a_row_much_longer_than_all_others():
    mdp, ragged = one_long_row()
    expected = dp.solve(mdp)
    assert isinstance(dp.induce(ragged, expected.policy).P, Chosen)
    found = dp.solve(ragged)
    assert found.converged
    assert_allclose(found.v, expected.v, atol=1e-6)
    assert dp.bounds(ragged, found.v, found.policy).gap <= 1e-6


@pytest.mark.slow
def test_large_sparse_models_are_evaluated_without_a_matrix(monkeypatch):
    # As if elimination ended below this size.
    monkeypatch.setattr("dp.linear.DIRECT", 10)
    jax.clear_caches()
    mdp, ragged = one_long_row()
    expected = dp.relative_value_iteration(mdp)
    assert_allclose(dp.average_policy_iteration(ragged).gain, expected.gain, atol=1e-6)
    assert_allclose(dp.policy_iteration(ragged).v, dp.solve(mdp).v, atol=1e-6)
    assert_allclose(dp.evaluate(ragged, np.zeros(40, int)).v, dp.evaluate(mdp, np.zeros(40, int)).v, atol=1e-6)
    jax.clear_caches()


@pytest.mark.slow
def test_concrete_policies_beside_traced_choices():
    mdp = dp.from_choices(DATA, INDICES, INDPTR, CHOICES, REWARDS, 0.5)
    pi = np.array([0.5, 0.5, 1.0, 1.0])
    found = jax.jit(lambda mdp: dp.evaluate(mdp, pi).v)(mdp)
    assert_allclose(found, dp.evaluate(mdp, pi).v, rtol=1e-12)


def test_models_without_any_successor():
    mdp = dp.from_choices(np.zeros(0), np.zeros(0, int), np.zeros(3, int), np.arange(3), np.array([5.0, -1.0]), 0.9)
    episode = dp.rollout(jax.random.key(0), mdp, np.zeros(2, int), 0, num_steps=2)
    assert_array_equal(episode.rewards, [5, 0])
    none = dp.from_choices(np.zeros(0), np.zeros(0, int), np.zeros(1, int), np.zeros(3, int), np.zeros(0))
    assert_array_equal(dp.total_reward(none).v, [0, 0])


def test_many_events_that_lead_to_one_state_are_not_rounded_together():
    # In float32 their sum would be off by more than the bounds are apart.
    p = np.full(1000, 1e-3, np.float32)
    mdp = dp.from_step(lambda s, a, e: (jnp.where(e < 10, -1, 0), np.float32(1)), p, 1, 1, 1.0)
    found = dp.total_reward(mdp, tol=0.1)
    exact = Fraction(float(mdp.R[0, 0])) / (1 - 990 * Fraction(float(p[0])))
    assert found.converged
    assert Fraction(float(found.lower[0])) <= exact <= Fraction(float(found.upper[0]))


def test_a_forbidden_action_has_probabilities_too():
    with pytest.raises(ValueError, match="in state 1 under action 0 the probability of an event is not finite"):
        dp.from_step(
            walk,
            lambda s, a, e: jnp.where((s == 1) & (a == 0), jnp.nan, 0.5),
            5,
            2,
            0.9,
            events=2,
            mask=np.eye(5, 2, k=-1) == 0,
        )

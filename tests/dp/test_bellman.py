"""The Bellman equations against a loop over p(s', r | s, a), and their theorems over random dyadic MDPs.

Probabilities are multiples of 1/8 and the other numbers small integers (or eighths), so that 64-bit floats compute
every identity without rounding: the theorems are tested with == and <=, not up to a tolerance.
"""

from typing import NamedTuple

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp import bellman

S, A, K = 4, 3, 3
EIGHTHS = 8

# The oracle


class Naive(NamedTuple):
    q: np.ndarray
    expectation: np.ndarray
    optimality: np.ndarray
    expected_reward: np.ndarray
    P: np.ndarray


def naive(p: np.ndarray, r: np.ndarray, gamma: float, pi: np.ndarray, v: np.ndarray, allowed: np.ndarray) -> Naive:
    """Section 2 of the exercise as it stands: sums over s', r and a, from p(s', r | s, a) alone."""
    q = np.full((S, A), -np.inf)
    expectation, optimality, reward = np.zeros(S), np.full(S, -np.inf), np.zeros(S)
    P = np.zeros((S, S))
    for s in range(S):
        for a in range(A):
            if not allowed[s, a]:
                continue
            q[s, a] = 0.0
            for t in range(S):
                for k in range(K):
                    q[s, a] += p[s, a, t, k] * (r[k] + gamma * v[t])
                    expectation[s] += pi[s, a] * p[s, a, t, k] * (r[k] + gamma * v[t])
                    reward[s] += pi[s, a] * p[s, a, t, k] * r[k]
                    P[s, t] += pi[s, a] * p[s, a, t, k]
            optimality[s] = max(optimality[s], q[s, a])
    return Naive(q, expectation, optimality, reward, P)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operators_equal_the_four_argument_sums(seed, dtype):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(S * K, 0.3), size=(S, A)).reshape(S, A, S, K).astype(dtype)
    r, v = rng.normal(size=K).astype(dtype), rng.normal(size=S).astype(dtype)
    allowed = rng.random((S, A)) < (0.7 if seed % 2 else 1.1)
    allowed[:, 1] = True
    terminal = np.arange(S) == (3 if seed % 4 > 1 else -1)
    pi = rng.random((S, A)) * allowed
    pi = (pi / pi.sum(1, keepdims=True)).astype(dtype)
    mdp = dp.from_dynamics(p, r, 0.9, mask=allowed, terminal=terminal)
    allowed = allowed | terminal[:, None]
    p[terminal] = 0
    truth = naive(p.astype(float), r, float(mdp.gamma), pi, v, allowed)

    v, policy = jnp.asarray(v), jnp.asarray(pi)
    chain = dp.induce(mdp, policy)
    q = dp.action_values(mdp, v)
    tight = {"rtol": 20 * np.finfo(dtype).eps, "atol": 20 * np.finfo(dtype).eps}
    for answer, expected in [
        (q, truth.q),
        (dp.expectation(mdp, policy, v), truth.expectation),
        (dp.optimality(mdp, v), truth.optimality),
        (dp.expected_reward(mdp, policy), truth.expected_reward),
        (dp.state_values(q, policy), truth.expectation),
        (chain.r, truth.expected_reward),
        (chain.P, truth.P),
        (bellman.sweep(chain, v), truth.expectation),
    ]:
        assert answer.dtype == dtype
        assert_allclose(answer, expected, **tight)
    actions = allowed.argmax(1)
    assert_allclose(dp.expectation(mdp, jnp.asarray(actions), v), truth.q[np.arange(S), actions], **tight)
    assert_array_equal(dp.greedy(mdp, v), np.asarray(q).argmax(1))


# By hand


def test_ties_go_to_the_first_action():
    mdp = dp.make_mdp(np.tile(np.eye(2)[:, None], (1, 3, 1)), np.array([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0]]), 0.5)
    assert_array_equal(dp.greedy(mdp, jnp.zeros(2)), [1, 0])


def test_improve_keeps_an_incumbent_that_ties():
    q = jnp.array([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 0.0, -jnp.inf]])
    assert_array_equal(bellman.improve(q, jnp.array([2, 1, 2])), [2, 1, 0])
    assert_array_equal(bellman.improve(q, jnp.array([0, 0, 1])), [1, 0, 0])


@pytest.mark.parametrize("A", [3, 17])
def test_an_action_that_is_not_there_has_no_value(A):
    # Values of another state must not take its place.
    q = jnp.arange(4.0 * A).reshape(4, A)
    v = bellman.state_values(q, jnp.array([0, A, A - 1, -1]))
    assert_array_equal(v, [0, np.nan, 3 * A - 1, np.nan])


def test_state_values_ignore_what_is_never_done():
    q = jnp.array([[1.0, -jnp.inf], [1.0, 3.0]])
    assert_array_equal(dp.state_values(q, jnp.array([[1.0, 0.0], [0.25, 0.75]])), [1.0, 2.5])
    assert_array_equal(dp.state_values(q, jnp.array([[0.5, 0.5], [1.0, 0.0]])), [-jnp.inf, 1.0])


# The theorems


class Drawn(NamedTuple):
    mdp: dp.MDP
    pi: np.ndarray
    u: np.ndarray
    v: np.ndarray


def eighths(shape: tuple[int, ...], boxes: int) -> st.SearchStrategy[np.ndarray]:
    """Distributions over `boxes`, in eighths: throw eight balls."""
    balls = hnp.arrays(np.int8, (*shape, EIGHTHS), elements=st.integers(0, boxes - 1))
    return balls.map(lambda b: (b[..., None] == np.arange(boxes)).sum(-2) / EIGHTHS)


def integers(*shape: int, most: int = 50) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.int64, shape, elements=st.integers(-most, most)).map(lambda x: x.astype(float))


@st.composite
def problems(draw, missing: bool = True) -> Drawn:
    """An MDP, a policy and two value functions, in NumPy. The ball in box S is mass that ends the episode."""
    P = draw(eighths((S, A), S + 1 if missing else S))[..., :S]
    mask = draw(hnp.arrays(np.bool_, (S, A)))
    mask[np.arange(S), draw(hnp.arrays(np.int8, S, elements=st.integers(0, A - 1)))] = True
    pi = draw(eighths((S,), A))
    pi = pi * mask + np.eye(A)[mask.argmax(1)] * (pi * ~mask).sum(1, keepdims=True)
    gamma = np.asarray(draw(st.integers(0, EIGHTHS)) / EIGHTHS)
    live = ~draw(hnp.arrays(np.bool_, S)) if missing else np.ones(S, bool)
    mdp = dp.MDP(P * live[:, None, None], draw(integers(S, A)) * live[:, None], gamma, mask)
    return Drawn(mdp, pi, draw(integers(S)), draw(integers(S)))


def on_numpy(f):
    """Jit, and hand arrays back to NumPy: hundreds of examples, one compilation."""
    compiled = jax.jit(f)
    return lambda *args: jax.tree.map(np.asarray, compiled(*args))


T, T_pi, greedy, induce = map(on_numpy, (dp.optimality, dp.expectation, dp.greedy, dp.induce))
expected_reward, sweep = map(on_numpy, (dp.expected_reward, bellman.sweep))


def discounted_mass(mdp: dp.MDP) -> np.ndarray:
    return np.where(mdp.mask, mdp.gamma * mdp.P.sum(-1), np.nan)


@given(problems())
def test_contraction(drawn):
    mdp, pi, u, v = drawn
    apart = mdp.gamma * abs(u - v).max()
    assert abs(T(mdp, u) - T(mdp, v)).max() <= apart
    assert abs(T_pi(mdp, pi, u) - T_pi(mdp, pi, v)).max() <= apart


@given(problems())
def test_contraction_state_by_state(drawn):
    mdp, _, u, v = drawn
    most = np.nanmax(discounted_mass(mdp), axis=1)
    assert (abs(T(mdp, u) - T(mdp, v)) <= most * abs(u - v).max()).all()


@given(problems())
def test_monotonicity(drawn):
    mdp, pi, u, v = drawn
    above = np.maximum(u, v)
    assert (T(mdp, v) <= T(mdp, above)).all()
    assert (T_pi(mdp, pi, v) <= T_pi(mdp, pi, above)).all()


@given(problems(missing=False), st.integers(-50, 50))
def test_constants_pass_through(drawn, c):
    mdp, pi, _, v = drawn
    assert_array_equal(T(mdp, v + c), T(mdp, v) + mdp.gamma * c)
    assert_array_equal(T_pi(mdp, pi, v + c), T_pi(mdp, pi, v) + mdp.gamma * c)


@given(problems(), st.integers(0, 50))
def test_constants_lose_what_mass_is_missing(drawn, c):
    mdp, pi, _, v = drawn
    discounted = discounted_mass(mdp)
    assert_array_equal(T_pi(mdp, pi, v + c), T_pi(mdp, pi, v) + np.nansum(pi * discounted, axis=1) * c)
    raised = T(mdp, v + c) - T(mdp, v)
    assert (np.nanmin(discounted, axis=1) * c <= raised).all() and (raised <= np.nanmax(discounted, axis=1) * c).all()


@given(problems())
def test_no_policy_beats_the_maximum_and_greedy_attains_it(drawn):
    mdp, pi, _, v = drawn
    best = T(mdp, v)
    actions = greedy(mdp, v)
    assert (T_pi(mdp, pi, v) <= best).all()
    assert_array_equal(T_pi(mdp, actions, v), best)
    assert mdp.mask[np.arange(S), actions].all()


@given(problems())
def test_sweep_over_the_chain_is_the_expectation_operator(drawn):
    mdp, pi, _, v = drawn
    chain = induce(mdp, pi)
    assert_array_equal(sweep(chain, v), T_pi(mdp, pi, v))
    assert_array_equal(chain.r, expected_reward(mdp, pi))


@given(problems())
def test_deterministic_policies_are_one_hot_policies(drawn):
    mdp, _, _, v = drawn
    actions = greedy(mdp, v)
    one_hot = np.eye(A)[actions]
    assert_array_equal(T_pi(mdp, actions, v), T_pi(mdp, one_hot, v))
    for of_actions, of_rows in zip(induce(mdp, actions), induce(mdp, one_hot), strict=True):
        assert_array_equal(of_actions, of_rows)


@given(problems())
def test_terminal_states_are_worth_nothing(drawn):
    mdp, pi, _, v = drawn
    ended = ~(mdp.P != 0).any((1, 2)) & (mdp.R == 0).all(1)
    assert (np.where(ended, T(mdp, v), 0) == 0).all()
    assert (np.where(ended, T_pi(mdp, pi, v), 0) == 0).all()

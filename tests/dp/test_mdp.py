"""The door: what `make_mdp` and `from_dynamics` accept, what they refuse, and how they say it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp

# Users pass lists, None and tracers without jaxtyping's checks, which would be the first to complain.
pytestmark = pytest.mark.usefixtures("unchecked")

S, A, K = 3, 2, 2
nan, inf = np.nan, np.inf


def uniform() -> np.ndarray:
    return np.full((S, A, S), 1 / S)


def changed(x: np.ndarray, place: tuple, value: float) -> np.ndarray:
    x = np.array(x, float)
    x[place] = value
    return x


def refuses(message: str, *args, make=dp.make_mdp, **kwargs) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(*args, **kwargs)


R = np.arange(6.0).reshape(S, A)

# Accepted


def test_rewards_of_every_rank():
    P = uniform()
    by_successor = np.arange(18.0).reshape(S, A, S)
    naive = [[sum(P[s, a, t] * by_successor[s, a, t] for t in range(S)) for a in range(A)] for s in range(S)]
    assert_array_equal(dp.make_mdp(P, R, 0.5).R, R)
    assert_array_equal(dp.make_mdp(P, [1.0, 2.0, 3.0], 0.5).R, [[1, 1], [2, 2], [3, 3]])
    assert_allclose(dp.make_mdp(P, by_successor, 0.5).R, naive, rtol=1e-15)


@pytest.mark.parametrize("rank", [2, 3])
def test_forbidden_and_terminal_rows_are_not_read(rank):
    P, R = uniform(), np.ones((S, A, S)[:rank])
    P[0, 1], P[2], R[0, 1], R[2] = nan, -7.0, nan, inf
    mask = np.array([[True, False], [True, True], [False, False]])
    mdp = dp.make_mdp(P, R, 0.5, mask=mask, terminal=np.array([False, False, True]))
    assert_array_equal(mdp.P[0, 1], np.zeros(S))
    assert_array_equal(mdp.P[2], np.zeros((A, S)))
    assert_array_equal(mdp.R, [[1, 0], [1, 1], [0, 0]])
    # A terminal state does nothing, whichever action one names.
    assert_array_equal(mdp.mask, [[True, False], [True, True], [True, True]])


def test_terminal_reward_of_rank_one_is_not_read():
    mdp = dp.make_mdp(uniform(), [1.0, 2.0, nan], 0.5, terminal=np.array([False, False, True]))
    assert_array_equal(mdp.R, [[1, 1], [2, 2], [0, 0]])


def test_mask_that_forbids_nothing_is_none():
    assert dp.make_mdp(uniform(), R, 0.5, mask=np.ones((S, A), bool)).mask is None


def test_integers_and_lists():
    mdp = dp.make_mdp([[[0, 1]], [[1, 0]]], [[1], [2]], 0)
    assert mdp.P.dtype == mdp.R.dtype == mdp.gamma.dtype == jnp.float64
    assert_array_equal(mdp.P, [[[0, 1]], [[1, 0]]])
    assert dp.make_mdp(uniform().astype(np.float32), R.astype(int), 1).R.dtype == jnp.float32


@pytest.mark.parametrize(
    ("P_dtype", "R_dtype", "common"),
    [(np.float32, np.float32, np.float32), (np.float32, np.float64, np.float64), (np.float64, np.float32, np.float64)],
)
def test_dtype_is_the_common_float(P_dtype, R_dtype, common):
    mdp = dp.make_mdp(uniform().astype(P_dtype), R.astype(R_dtype), np.float64(0.5))
    assert mdp.P.dtype == mdp.R.dtype == mdp.gamma.dtype == common


def test_substochastic_rows_are_for_the_asking():
    P = changed(uniform(), (1, 0), 0.25)
    assert_array_equal(dp.make_mdp(P, R, 0.5, substochastic=True).P, P)
    refuses("P[1, 0] sums to 0.75, not to 1 (terminal= and substochastic= allow missing mass)", P, R, 0.5)


def test_rounded_rows_sum_to_one():
    P = np.random.default_rng(0).dirichlet(np.ones(40), size=(40, 1)).astype(np.float32)
    assert (P.sum(-1) != 1).any()
    assert_array_equal(dp.make_mdp(P, np.zeros((40, 1), np.float32), 0.5).P, P)


def test_gamma_may_be_zero_and_one():
    assert [float(dp.make_mdp(uniform(), R, gamma).gamma) for gamma in (0, 1)] == [0, 1]


def test_from_dynamics_marginalises():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(S * K), size=(S, A)).reshape(S, A, S, K)
    r = rng.normal(size=K)
    P, R = np.zeros((S, A, S)), np.zeros((S, A))
    for s, a, t, k in np.ndindex(p.shape):
        P[s, a, t] += p[s, a, t, k]
        R[s, a] += r[k] * p[s, a, t, k]
    mdp = dp.from_dynamics(p, r, 0.5)
    assert_allclose(mdp.P, P, rtol=1e-14)
    assert_allclose(mdp.R, R, rtol=1e-13)


def test_from_dynamics_with_mask_terminal_and_missing_mass():
    p = np.full((S, A, S, K), 1 / 8)
    p[0, 1], p[2] = nan, nan
    mask = np.array([[True, False], [True, True], [True, True]])
    terminal = np.array([False, False, True])
    mdp = dp.from_dynamics(p, [1, 3], 0.5, mask=mask, terminal=terminal, substochastic=True)
    assert_array_equal(mdp.R, [[1.5, 0], [1.5, 1.5], [0, 0]])
    assert_array_equal(mdp.P.sum(-1), [[0.75, 0], [0.75, 0.75], [0, 0]])
    refuses("P[0, 0] sums to 0.75", p, [1, 3], 0.5, make=dp.from_dynamics, mask=mask, terminal=terminal)


def test_induce_against_loops():
    rng = np.random.default_rng(2)
    P, R, pi = rng.dirichlet(np.ones(S), size=(S, A)), rng.normal(size=(S, A)), rng.dirichlet(np.ones(A), size=S)
    mdp = dp.make_mdp(P, R, 0.5)
    chain = dp.induce(mdp, jnp.asarray(pi))
    for s in range(S):
        assert_allclose(chain.r[s], sum(pi[s, a] * R[s, a] for a in range(A)), rtol=1e-14)
        for t in range(S):
            assert_allclose(chain.P[s, t], sum(pi[s, a] * P[s, a, t] for a in range(A)), rtol=1e-14)
    by_action = dp.induce(mdp, jnp.array([1, 0, 1]))
    assert_array_equal(by_action.P, P[np.arange(S), [1, 0, 1]])
    assert_array_equal(by_action.r, R[np.arange(S), [1, 0, 1]])
    assert by_action.gamma == mdp.gamma


def test_induce_makes_a_forbidden_action_worth_minus_infinity():
    mdp = dp.make_mdp(uniform(), R, 0.5, mask=np.array([[True, False], [True, True], [True, True]]))
    assert_array_equal(dp.induce(mdp, jnp.array([1, 0, 0])).r, [-inf, 2, 4])
    assert_array_equal(dp.induce(mdp, jnp.array([[0.5, 0.5], [1, 0], [0, 1]])).r, [-inf, 2, 5])
    assert_array_equal(dp.induce(mdp, jnp.array([[1.0, 0.0], [1, 0], [0, 1]])).r, [0, 2, 5])


# Refused


@pytest.mark.parametrize(
    ("message", "P"),
    [
        ("P[2, 1] sums to 1.5, not to 1", changed(uniform(), (2, 1), 0.5)),
        ("P[0, 0] sums to 0, not to 1", changed(uniform(), (0, 0), 0)),
        (
            "P[0, 1] sums to 1.000001, not to 1: off by 1e-06, 1e-08 is allowed; divide",
            changed(uniform(), (0, 1), 1.000001 / 3),
        ),
        ("P[1, 0, 2] = -0.1 is a negative probability", changed(uniform(), (1, 0, 2), -0.1)),
        ("P[1, 0, 2] = nan is not finite", changed(uniform(), (1, 0, 2), nan)),
        ("P[2, 1, 0] = inf is not finite", changed(uniform(), (2, 1, 0), inf)),
        ("P must have shape [S, A, S], got [3, 2]", np.ones((3, 2))),
        ("P must have shape [S, A, S], got [3, 2, 4]", np.ones((3, 2, 4))),
        ("at least one state and one action, P has shape [0, 2, 0]", np.ones((0, 2, 0))),
        ("at least one state and one action, P has shape [3, 0, 3]", np.ones((3, 0, 3))),
        ("P must be an array of integers, float32 or float64, got complex128", uniform() * 1j),
        ("P must be an array of integers, float32 or float64, got <U1", np.full((S, A, S), "a")),
        ("P must be an array of integers, float32 or float64, got object", None),
        ("P must be an array of integers, float32 or float64, got float16", uniform().astype(np.float16)),
        ("P must be an array of real numbers", [[[1.0, 0.0]], [[1.0]]]),
    ],
)
def test_bad_transitions(message, P):
    refuses(message, P, R, 0.5)


def test_substochastic_rows_sum_to_no_more_than_one():
    refuses("P[2, 1] sums to 1.5, not to 1", changed(uniform(), (2, 1), 0.5), R, 0.5, substochastic=True)


@pytest.mark.parametrize(
    ("message", "R"),
    [
        ("R[1, 0] = nan is not finite", changed(R, (1, 0), nan)),
        ("R[2, 1] = -inf is not finite", changed(R, (2, 1), -inf)),
        ("R[2] = inf is not finite", [0.0, 1.0, inf]),
        ("R[0, 1, 2] = nan is not finite", changed(np.zeros((S, A, S)), (0, 1, 2), nan)),
        ("R must have shape [3, 2], [3] or [3, 2, 3] to fit P, got [2, 3]", R.T),
        ("R must have shape [3, 2], [3] or [3, 2, 3] to fit P, got [2]", np.zeros(2)),
        ("R must have shape [3, 2], [3] or [3, 2, 3] to fit P, got []", 1.0),
        ("R must be an array of integers, float32 or float64, got complex128", R * 1j),
        ("R must be an array of integers, float32 or float64, got <U3", "one"),
        ("R must be an array of real numbers", [[1.0, 2.0], [1.0], [1.0, 2.0]]),
    ],
)
def test_bad_rewards(message, R):
    refuses(message, uniform(), R, 0.5)


@pytest.mark.parametrize(
    ("message", "gamma"),
    [
        ("gamma must lie in [0, 1], got 1.5", 1.5),
        ("gamma must lie in [0, 1], got -0.1", -0.1),
        ("gamma must lie in [0, 1], got nan", nan),
        ("gamma must lie in [0, 1], got inf", inf),
        ("gamma must be a scalar, got shape [2]; for many discounts, vmap over it", [0.5, 0.9]),
        ("gamma must be an array of integers, float32 or float64, got <U3", "0.5"),
        ("gamma must be an array of integers, float32 or float64, got object", None),
    ],
)
def test_bad_gamma(message, gamma):
    refuses(message, uniform(), R, gamma)


@pytest.mark.parametrize(
    ("message", "sets"),
    [
        ("state 1 has no allowed action in mask", {"mask": np.array([[True, True], [False, False], [True, True]])}),
        ("mask must be boolean with shape [3, 2], got int64 with [3, 2]", {"mask": np.ones((S, A), int)}),
        ("mask must be boolean with shape [3, 2], got bool with [2, 3]", {"mask": np.ones((A, S), bool)}),
        ("terminal must be boolean with shape [3], got float64 with [3]", {"terminal": np.zeros(S)}),
        ("terminal must be boolean with shape [3], got bool with [2]", {"terminal": [True, False]}),
        ("mask must be", {"mask": [[True, True], [True], [True, True]]}),
    ],
)
@pytest.mark.parametrize("make", ["make_mdp", "from_dynamics"])
def test_bad_flags(message, sets, make):
    if make == "make_mdp":
        refuses(message, uniform(), R, 0.5, **sets)
    else:
        refuses(message, np.full((S, A, S, K), 1 / 6), [0.0, 1.0], 0.5, make=dp.from_dynamics, **sets)


@pytest.mark.parametrize(
    ("message", "p", "rewards"),
    [
        ("p must have shape [S, A, S, K], got [3, 2, 3]", uniform(), [0.0, 1.0]),
        ("p must have shape [S, A, S, K], got [3, 2, 4, 2]", np.ones((3, 2, 4, 2)), [0.0, 1.0]),
        ("rewards must have shape [2] to fit p, got [3]", np.full((S, A, S, K), 1 / 6), [0.0, 1.0, 2.0]),
        ("rewards[1] = nan is not finite", np.full((S, A, S, K), 1 / 6), [0.0, nan]),
        ("p[1, 0, 2, 1] = -0.5 is a negative", changed(np.full((S, A, S, K), 1 / 6), (1, 0, 2, 1), -0.5), [0, 1]),
        ("p[1, 0, 2, 1] = nan is not finite", changed(np.full((S, A, S, K), 1 / 6), (1, 0, 2, 1), nan), [0, 1]),
        ("P[0, 0] sums to 3, not to 1", np.full((S, A, S, K), 1 / 2), [0, 1]),
        ("at least one state", np.ones((0, A, 0, K)), [0, 1]),
        ("p must be an array of integers, float32 or float64, got complex128", np.full((S, A, S, K), 1j), [0, 1]),
        ("rewards must be an array of integers, float32 or float64, got <U1", np.full((S, A, S, K), 1 / 6), ["a", "b"]),
    ],
)
def test_bad_dynamics(message, p, rewards):
    refuses(message, p, rewards, 0.5, make=dp.from_dynamics)


def test_bad_gamma_in_dynamics():
    refuses("gamma must lie in [0, 1], got 2", np.full((S, A, S, K), 1 / 6), [0, 1], 2, make=dp.from_dynamics)


@pytest.mark.parametrize("name", ["P", "R", "gamma", "mask", "terminal"])
def test_traced_values_are_refused_by_name(name):
    arguments = {"P": uniform(), "R": R, "gamma": 0.5, "mask": np.ones((S, A), bool), "terminal": np.zeros(S, bool)}

    def make(x):
        return dp.make_mdp(**arguments | {name: x}).R

    with pytest.raises(ValueError, match=f"{name} is traced"):
        jax.jit(make)(arguments[name])


def test_traced_dynamics_are_refused_by_name():
    with pytest.raises(ValueError, match="p is traced"):
        jax.jit(lambda p: dp.from_dynamics(p, [0, 1], 0.5).R)(np.full((S, A, S, K), 1 / 6))
    with pytest.raises(ValueError, match="rewards is traced"):
        jax.jit(lambda r: dp.from_dynamics(np.full((S, A, S, K), 1 / 6), r, 0.5).R)(np.zeros(2))


def test_rewards_that_overflow_the_dtype_are_refused():
    with jax.enable_x64(False):
        refuses("R", np.ones((1, 1, 1)), [[1e300]], 0.5)


@pytest.mark.usefixtures("unchecked")
def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="P must be an array of integers, float32 or float64, got float16"):
        dp.make_mdp(np.ones((1, 1, 1), np.float16), np.zeros((1, 1)), 0.5)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("R must have shape [2, 2] to fit P, got [2]", {"R": jnp.zeros(2)}),
        ("R must have shape [2, 2] to fit P, got [2, 3]", {"R": jnp.zeros((2, 3))}),
        ("P must have shape [S, A, S], got [2, 2, 3]", {"P": jnp.zeros((2, 2, 3))}),
        ("gamma must have shape [] to fit P, got [3]", {"gamma": jnp.zeros(3)}),
        ("mask must have shape [2, 2] to fit P, got [2]", {"mask": jnp.ones(2, bool)}),
        ("P is float64 and gamma is float32: bring them to one dtype", {"gamma": jnp.asarray(0.5, np.float32)}),
        ("P is float64 and R is int64: bring them to one dtype", {"R": jnp.zeros((2, 2), int)}),
        ("P must be of floats, got int64", {"P": jnp.zeros((2, 2, 2), int)}),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_models_made_by_hand_are_checked_by_the_solvers(message, change):
    mdp = dp.MDP(jnp.full((2, 2, 2), 0.5), jnp.zeros((2, 2)), jnp.asarray(0.5))._replace(**change)
    solvers = (dp.solve, dp.value_iteration, dp.policy_iteration, dp.relative_value_iteration, jax.jit(dp.solve))
    for solve in (*solvers, lambda mdp: dp.evaluate(mdp, np.zeros(2, int))):
        with pytest.raises(ValueError, match=re.escape(message)):
            solve(mdp)


def test_many_models_are_for_vmap():
    mdps = dp.stack([dp.problems.space_exploration()] * 2)
    with pytest.raises(
        ValueError, match=re.escape("solve takes one MDP, P has shape [2, 3, 2, 3]; for many, jax.vmap")
    ):
        dp.solve(mdps)


def test_a_discount_may_be_a_number():
    mdp = dp.problems.space_exploration()
    assert dp.solve(mdp._replace(gamma=0.5)).converged
    assert jax.jit(lambda gamma: dp.solve(mdp._replace(gamma=gamma)))(0.5).converged


def test_transitions_in_another_order_are_recognised():
    with pytest.raises(ValueError, match=re.escape("it looks like [A, S, S]: take P.transpose(1, 0, 2)")):
        dp.make_mdp(np.tile(np.eye(3), (2, 1, 1)), np.zeros((3, 2)), 0.5)


def test_a_gamma_of_one_is_refused_within_jit_too():
    mdp = dp.problems.gridworld_4_1()
    with pytest.raises(ValueError, match="solve needs gamma < 1, got gamma = 1; without a discount there are"):
        jax.jit(lambda: dp.solve(mdp))()


def test_an_average_is_no_start_for_a_discounted_solver():
    found = dp.relative_value_iteration(dp.problems.taxicab())
    with pytest.raises(ValueError, match="start must be values, a policy, a pair of both or a Solution, got Average"):
        dp.solve(dp.problems.taxicab(), found)

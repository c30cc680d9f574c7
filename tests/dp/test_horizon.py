"""Backward induction against loops over every number, and its certificate against exact rational arithmetic."""

import re
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.horizon import evaluate_horizon, finite_horizon
from dp.solution import Solution
from dp.stacking import stack

H, S, A = 5, 4, 3
FIELDS = dp.MDP._fields[:4]
START = np.array([1.0, -2.0, 0.5, 3.0])


def staged(seed: int) -> dp.MDP:
    """Everything changes from stage to stage, and some mass is missing. Action 1 is always allowed."""
    rng = np.random.default_rng(seed)
    P = rng.exponential(size=(H, S, A, S)) * (rng.random((H, S, A, S)) < 0.6) + 0.01
    P *= rng.uniform(0.5, 1, size=(H, S, A, 1)) / P.sum(-1, keepdims=True)
    mask = (rng.random((H, S, A)) < 0.7) | (np.arange(A) == 1)
    return jax.tree.map(jnp.asarray, dp.MDP(P, rng.normal(size=(H, S, A)), rng.uniform(0.5, 1, size=H), mask))


def policies(mdp: dp.MDP) -> dict[str, np.ndarray]:
    mask = np.asarray(mdp.mask)
    weights, always = np.random.default_rng(0).random((H, S, A)) * mask, mask.all(0)
    return {
        "an action": np.ones(S, int),
        "actions": weights.argmax(-1),
        "a distribution": always / always.sum(-1, keepdims=True),
        "distributions": weights / weights.sum(-1, keepdims=True),
    }


# Against loops


def naive(mdp: dp.MDP, pi: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """v [H + 1, S] and q [H, S, A] from START, for a model in which every field has stages, and so has pi [H, S, A]."""
    P, R, gamma, mask = map(np.asarray, mdp[:4])
    v, q = np.zeros((H + 1, S)), np.full((H, S, A), -np.inf)
    v[H] = START
    for t in reversed(range(H)):
        for s in range(S):
            for a in np.flatnonzero(mask[t, s]):
                q[t, s, a] = R[t, s, a]
                for to in range(S):
                    q[t, s, a] += gamma[t] * P[t, s, a, to] * v[t + 1, to]
                if pi is not None:
                    v[t, s] += pi[t, s, a] * q[t, s, a]
            if pi is None:
                v[t, s] = q[t, s].max()
    return v, q


@pytest.mark.parametrize("varying", [(), ("P",), ("R", "gamma", "mask"), FIELDS], ids=str)
def test_the_induction_is_a_loop_whatever_has_stages(varying):
    mdp = staged(0)
    some = dp.MDP(*(x if name in varying else x[1] for name, x in zip(FIELDS, mdp[:4], strict=True)))
    each = dp.MDP(*(x if name in varying else jnp.stack([x[1]] * H) for name, x in zip(FIELDS, mdp[:4], strict=True)))
    v, q = naive(each)
    solution = finite_horizon(some, H, START)
    assert_allclose(solution.v, v, rtol=1e-13)
    assert_allclose(solution.q, q, rtol=1e-13)
    assert_array_equal(solution.policy, q.argmax(-1))
    assert solution.iterations == H
    assert solution.converged


@pytest.mark.parametrize("kind", ["an action", "actions", "a distribution", "distributions"])
def test_evaluation_is_a_loop_too(kind):
    mdp = staged(1)
    policy = policies(mdp)[kind]
    pi = np.eye(A)[policy] if policy.dtype == int else policy
    v, q = naive(mdp, np.broadcast_to(pi, (H, S, A)))
    solution = evaluate_horizon(mdp, policy, H, START)
    assert_allclose(solution.v, v, rtol=1e-13)
    assert_allclose(solution.q, q, rtol=1e-13)
    assert solution.policy.shape == ((H, S) if policy.dtype == int else (H, S, A))
    assert_array_equal(solution.policy, np.broadcast_to(policy, solution.policy.shape))
    assert solution.converged


# Against exact arithmetic

BATCH = 120
TOL = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-12}


class Case(NamedTuple):
    mdp: dp.MDP
    start: np.ndarray
    actions: np.ndarray
    pi: np.ndarray


def case(seed: int, dtype: type) -> Case:
    """Rewards over twelve decades, near-ties, tiny probabilities, missing mass, endings, and any discount at all."""
    rng = np.random.default_rng([seed, np.finfo(dtype).bits])
    P = rng.exponential(size=(H, S, A, S)) ** rng.choice([1, 1, 20])
    P *= rng.random(P.shape) < rng.choice([0.5, 1.1])
    kept = rng.choice([np.ones((H, S, A, 1)), rng.random((H, S, A, 1)), rng.integers(2, size=(H, S, A, 1))])
    P *= kept / np.maximum(P.sum(-1, keepdims=True), 1e-300)
    R = rng.normal(size=(H, S, A)) * 10.0 ** rng.uniform(-6, 6, size=rng.choice([1, H]))[:, None, None]
    R = R.astype(dtype)
    if rng.random() < 0.3:  # ties, but for units in the last place
        P = np.repeat(P[:, :, :1], A, axis=2)
        R = np.nextafter(np.repeat(R[..., :1], A, -1), dtype(np.inf) * rng.choice([-1, 1], size=R.shape).astype(dtype))
    # Numbers outside [0, 1] are no discounts, but the theorem holds for them.
    gamma = rng.choice([0, 0.5, 0.9, 0.999, 1, 1, 1.5, -0.7], size=H)
    mask = rng.random((H, S, A)) < rng.choice([0.6, 1.1])
    mask[:, np.arange(S), rng.integers(A, size=S)] = True
    weights = mask * (rng.random((H, S, A)) + 1e-3) ** rng.choice([1, 30])
    return Case(
        mdp=dp.MDP(P.astype(dtype), R, gamma.astype(dtype), mask),
        start=(rng.choice([0.0, 1.0]) * rng.normal(size=S) * 10.0 ** rng.uniform(-8, 8)).astype(dtype),
        actions=weights.argmax(-1),
        pi=(weights / weights.sum(-1, keepdims=True)).astype(dtype),
    )


@jax.jit
@jax.vmap
def answers(mdp: dp.MDP, start: jax.Array, actions: jax.Array, pi: jax.Array) -> dict[str, Solution]:
    return {
        "optimal": finite_horizon(mdp, H, start, tol=TOL[mdp.R.dtype]),
        "actions": evaluate_horizon(mdp, actions, H, start, tol=TOL[mdp.R.dtype]),
        "pi": evaluate_horizon(mdp, pi, H, start, tol=TOL[mdp.R.dtype]),
    }


def fractions(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda f: Fraction(f) if np.isfinite(f) else f, otypes=[object])(np.asarray(x, np.float64))


class Exact(NamedTuple):
    """An MDP of fractions; v_{t+1} -> v_t for a given policy, or the best."""

    P: np.ndarray
    R: np.ndarray
    gamma: np.ndarray
    mask: np.ndarray

    def back_up(self, t: int, v: np.ndarray, policy: np.ndarray | None) -> np.ndarray:
        q = self.R[t] + self.gamma[t] * (self.P[t] @ v)
        if policy is None:
            return np.where(self.mask[t], q, -np.inf).max(1)
        if policy.ndim == 2:
            return q[np.arange(S), policy[t]]
        return (fractions(policy[t]) * q).sum(1)

    def values(self, start: np.ndarray, policy: np.ndarray | None) -> np.ndarray:
        v = [fractions(start)]
        for t in reversed(range(H)):
            v.insert(0, self.back_up(t, v[0], policy))
        return np.array(v)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("num", [BATCH, pytest.param(20 * BATCH, marks=pytest.mark.slow)])
def test_the_certificate_encloses_the_exact_values(num, dtype):
    cases = [case(seed, dtype) for seed in range(num)]
    batches = [jax.tree.map(lambda *xs: np.stack(xs), *cases[n : n + BATCH]) for n in range(0, num, BATCH)]
    solved = jax.tree.map(lambda *xs: np.concatenate(xs), *[answers(*batch) for batch in batches])
    tol = Fraction(float(dtype(TOL[np.dtype(dtype)])))
    converged = []
    for n, (mdp, start, actions, pi) in enumerate(cases):
        exact = Exact(fractions(mdp.P), fractions(mdp.R), fractions(mdp.gamma), np.asarray(mdp.mask))
        here = jax.tree.map(lambda x, n=n: x[n], solved)
        for name, policy in [("optimal", None), ("actions", actions), ("pi", pi)]:
            solution, place = here[name], f"{name}, case {n}"
            assert solution.v.dtype == solution.lower.dtype == solution.residual.dtype == dtype
            v, lower, upper = fractions(solution.v), fractions(solution.lower), fractions(solution.upper)
            truth = exact.values(start, policy)
            assert (lower <= truth).all() and (truth <= upper).all(), place
            if policy is None:
                assert (lower <= exact.values(start, solution.policy)).all(), place
            backups = np.array([exact.back_up(t, v[t + 1], policy) for t in range(H)])
            assert abs(v[:-1] - backups).max() <= Fraction(float(solution.residual)), place
            gap = (upper - lower).max()
            assert not solution.converged or gap <= tol, place
            converged.append(bool(solution.converged))
            # Bounds can be right and useless. The growth is that of γ = 1.5 in every stage.
            scale = max(abs(solution.v).max(), abs(mdp.R).max())
            assert gap <= 1.5**H * H * 40 * np.finfo(dtype).eps * scale + 1e-30, place
    assert 0.2 < np.mean(converged) < 0.8


def test_rounding_that_adds_up_is_added_up():
    # 0.1 is not a float, and sums of it are rounded the same way for long stretches.
    mdp, H = dp.make_mdp(np.ones((1, 1, 1), np.float32), np.full((1, 1), 0.1, np.float32), 1), 3000
    solution = finite_horizon(mdp, H)
    truth = [(H - t) * Fraction(float(mdp.R[0, 0])) for t in range(H + 1)]
    error = max(abs(Fraction(v) - exact) for v, exact in zip(solution.v[:, 0].tolist(), truth, strict=True))
    assert error > 100 * Fraction(float(solution.residual))
    for lower, exact, upper in zip(solution.lower[:, 0].tolist(), truth, solution.upper[:, 0].tolist(), strict=True):
        assert Fraction(lower) <= exact <= Fraction(upper)


# Closed forms and limits


def test_one_state_is_a_geometric_series():
    to_go = np.arange(6, -1, -1)
    for gamma, v in [(1.0, to_go + 7.0), (0.5, 2 + 5 * 0.5**to_go)]:
        solution = finite_horizon(dp.make_mdp(np.ones((1, 1, 1)), np.ones((1, 1)), gamma), 6, np.array([7.0]))
        assert_array_equal(solution.v[:, 0], v)
        assert solution.converged


def test_a_horizon_of_one_is_one_backup(random_mdp):
    mdp, v = random_mdp(0), jnp.asarray(START)
    solution = finite_horizon(mdp, 1, v)
    assert_allclose(solution.v, np.stack([dp.optimality(mdp, v), v]), rtol=1e-15)
    assert_array_equal(solution.policy[0], dp.greedy(mdp, v))


def test_a_long_horizon_is_an_infinite_one(random_mdp):
    mdp = random_mdp(2)
    forever = dp.value_iteration(mdp, tol=1e-9)
    long = finite_horizon(mdp, 150)
    assert np.abs(long.v[0] - forever.v).max() <= 0.9**150 * np.abs(forever.v).max() + 1e-9
    assert_array_equal(long.policy[0], forever.policy)
    # With the values of the infinite horizon at the end, any horizon is infinite.
    assert_allclose(finite_horizon(mdp, 150, forever).v, np.stack([forever.v] * 151), atol=1e-9)


# Transformations


@pytest.mark.slow
def test_derivatives_are_those_of_finite_differences():
    mdp = staged(3)
    pi, weights = policies(mdp)["distributions"], np.random.default_rng(0).normal(size=(2, H + 1, S))

    def loss(P: jax.Array, R: jax.Array, gamma: jax.Array, start: jax.Array, pi: jax.Array) -> jax.Array:
        model = dp.MDP(P, R, gamma, mdp.mask)
        v = jnp.stack([finite_horizon(model, H, start).v, evaluate_horizon(model, pi, H, start).v])
        return jnp.sum(weights * v)

    at = (mdp.P, mdp.R, mdp.gamma, jnp.asarray(START), jnp.asarray(pi))
    value, slopes = jax.jit(loss), jax.jit(jax.grad(loss, argnums=range(5)))(*at)
    tangent = jax.jit(lambda along: jax.jvp(loss, at, along)[1])
    for n in range(5):
        d = np.random.default_rng(n).normal(size=at[n].shape)
        # Probabilities that are zero by the mask stay so: a forbidden action that is taken is worth -inf.
        d = jnp.asarray(d * np.asarray(mdp.mask) if n == 4 else d)
        forth, back = (value(*at[:n], at[n] + h * d, *at[n + 1 :]) for h in (1e-6, -1e-6))
        slope = jnp.sum(slopes[n] * d)
        assert_allclose(slope, (forth - back) / 2e-6, rtol=1e-6)
        along = tuple(d if m == n else jnp.zeros_like(x) for m, x in enumerate(at))
        assert_allclose(tangent(along), slope, rtol=1e-12)


def test_at_a_tie_the_derivative_is_that_of_the_action_taken():
    # Two states that are worth the same: to go to either ties, and the first action goes to state 0.
    P = jnp.broadcast_to(jnp.eye(2), (2, 2, 2))

    def first(R: jax.Array, start: jax.Array) -> jax.Array:
        return finite_horizon(dp.MDP(P, R, jnp.asarray(0.5)), 1, start).v[0, 1]

    slope_R, slope_start = jax.jit(jax.grad(first, argnums=(0, 1)))(jnp.ones((2, 2)), jnp.ones(2))
    assert_array_equal(slope_R, [[0, 0], [1, 0]])
    assert_array_equal(slope_start, [0.5, 0])


def test_mdps_are_stages(random_mdp):
    mask = np.ones((S, A), bool)
    mask[2, 0] = False
    stages = [random_mdp(t, mask=None if t else mask) for t in range(H)]
    v = jnp.asarray(START)
    for mdp in reversed(stages):
        v = dp.optimality(mdp, v)
    assert_allclose(finite_horizon(stack(stages), H, START).v[0], v, rtol=1e-13)


def test_dtype_is_that_of_the_mdp(random_mdp):
    # Whatever the dtype of the rest.
    solution = evaluate_horizon(random_mdp(0, dtype=np.float32), np.full((S, A), 1 / 3), 2, START)
    assert {x.dtype for x in solution if jnp.issubdtype(x.dtype, jnp.floating)} == {np.dtype(np.float32)}
    assert solution.converged


# Where nothing can be known


@pytest.mark.parametrize("name", ["P", "R", "gamma", "mask"])
def test_what_comes_before_a_number_that_is_none_is_not_known(name):
    mdp = staged(0)
    poison = {"P": mdp.P.at[2, 0, 1, 0].set(jnp.nan), "R": mdp.R.at[2, 0, 1].set(jnp.nan)}
    poison |= {"gamma": mdp.gamma.at[2].set(jnp.inf), "mask": mdp.mask.at[2, 0].set(False)}
    solution = finite_horizon(mdp._replace(**{name: poison[name]}), H, START)
    assert not solution.converged
    assert_array_equal(solution.lower[:2], np.full((2, S), -np.inf))
    assert_array_equal(solution.upper[:2], np.full((2, S), np.inf))
    assert (solution.lower[2, 0], solution.upper[2, 0]) == (-np.inf, np.inf)
    assert np.isfinite(solution.lower[3:]).all() and np.isfinite(solution.upper[3:]).all()


def test_from_a_start_that_is_no_number_nothing_is_known():
    solve = jax.jit(lambda start: finite_horizon(staged(0), H, start))
    for bad in (np.nan, np.inf, -np.inf):
        solution = solve(jnp.asarray([0, 0, bad, 0]))
        assert not solution.converged
        assert_array_equal(solution.lower[:-1], np.full((H, S), -np.inf))
        assert_array_equal(solution.upper[:-1], np.full((H, S), np.inf))
        assert (solution.lower[-1, 2], solution.upper[-1, 2]) == (-np.inf, np.inf)


def test_forbidden_numbers_are_not_read():
    mdp = staged(0)
    junk = mdp._replace(P=jnp.where(mdp.mask[..., None], mdp.P, jnp.nan), R=jnp.where(mdp.mask, mdp.R, jnp.inf))
    for x, y in zip(finite_horizon(mdp, H, START), finite_horizon(junk, H, START), strict=True):
        assert_array_equal(x, y)


def test_an_overflow_on_the_way_is_no_rounding_error():
    # Action 0 is worth -huge (1 + 1e-9) / 2 + 0.4 huge = -0.1 huge, but what is computed is -inf; action 1 is worse.
    huge = np.finfo(np.float64).max
    mdp = dp.make_mdp(np.array([[[1 + 1e-9], [0]]]), np.array([[0.4 * huge, -0.3 * huge]]), 0.5, substochastic=True)
    solution = finite_horizon(mdp, 1, np.array([-huge]))
    assert solution.policy[0, 0] == 1
    assert solution.upper[0, 0] >= -0.1 * huge
    assert not solution.converged


# What is refused


@pytest.mark.parametrize("horizon", [0, -1, 2.0, "2", True, None])
@pytest.mark.usefixtures("unchecked")
def test_a_horizon_is_a_number_of_stages(random_mdp, horizon):
    with pytest.raises(
        ValueError, match=re.escape(f"horizon must be an integer >= 1 (static under jit), got {horizon!r}")
    ):
        finite_horizon(random_mdp(0), horizon)
    with pytest.raises(
        ValueError, match=re.escape(f"horizon must be an integer >= 1 (static under jit), got {horizon!r}")
    ):
        evaluate_horizon(random_mdp(0), np.zeros(S, int), horizon)


@pytest.mark.parametrize("name", FIELDS)
def test_stages_that_are_not_as_many(random_mdp, name):
    mdp = random_mdp(0, mask=np.arange(A * S).reshape(S, A) != 4)
    one, three = getattr(mdp, name), jnp.stack([getattr(mdp, name)] * 3)
    with pytest.raises(ValueError, match=f"{name} has 3 stages, but horizon = 2"):
        finite_horizon(mdp._replace(**{name: three}), 2)
    with pytest.raises(ValueError, match=rf"{name} must have {one.ndim} axes, or one more for the stages"):
        finite_horizon(mdp._replace(**{name: three[None]}), 3)


@pytest.mark.parametrize(
    ("message", "start"),
    [
        ("start must have shape [4], got [3]", np.zeros(3)),
        ("start[2] = nan is not finite", np.array([0, 1, np.nan, 2])),
        ("start[1] = -inf is not finite", np.array([0, -np.inf, 0, 2])),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_starts(random_mdp, message, start):
    for mdp in (random_mdp(0), stack([random_mdp(0)] * 2)):
        with pytest.raises(ValueError, match=re.escape(message)):
            finite_horizon(mdp, 2, start)
        with pytest.raises(ValueError, match=re.escape(message)):
            evaluate_horizon(mdp, np.ones(S, int), 2, start)


@pytest.mark.parametrize(
    ("message", "policy"),
    [
        ("in stage 1, policy[3] = 3 is not an action: there are 3", np.array([[1] * 4, [1, 1, 2, 3]])),
        ("in stage 0, policy takes action 0 in state 2, which the mask forbids", np.array([1, 1, 0, 1])),
        ("in stage 1, policy[0] = [0.5 0.5 0.5] is not a distribution", np.full((2, S, A), [[[0, 0, 1]], [[0.5] * 3]])),
        ("policy must be of integers with shape [4] or [2, 4], or of floats with", np.zeros((3, S), int)),
        ("or of floats with shape [4, 3] or [2, 4, 3], got float64 with [4]", np.zeros(S)),
        ("got bool with [4]", np.ones(S, bool)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_policies(random_mdp, message, policy):
    mask = np.ones((S, A), bool)
    mask[2, 0] = False
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_horizon(random_mdp(0, mask=mask), policy, 2)


def test_masks_of_stages_forbid_in_their_stage():
    mdp = staged(1)
    action = policies(mdp)["actions"][2, 3]
    mdp = mdp._replace(mask=mdp.mask.at[2, 3, action].set(False))
    with pytest.raises(ValueError, match=f"in stage 2, policy takes action {action} in state 3"):
        evaluate_horizon(mdp, policies(staged(1))["actions"], H)


def test_masks_forbid_within_jit_too(random_mdp):
    mdp = random_mdp(0, mask=np.arange(S * 3).reshape(S, 3) != 4)
    with pytest.raises(ValueError, match="in stage 0, policy takes action 1 in state 1, which the mask forbids"):
        jax.jit(lambda: evaluate_horizon(mdp, np.ones(S, int), 2))()


def test_tolerances_are_positive(random_mdp):
    for tol in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="tol must be positive and finite"):
            finite_horizon(random_mdp(0), 2, tol=tol)
        with pytest.raises(ValueError, match="tol must be positive and finite"):
            evaluate_horizon(random_mdp(0), np.ones(S, int), 2, tol=tol)

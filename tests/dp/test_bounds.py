"""The certificate where the truth is known in closed form; test_certificates.py does the same on hostile problems."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.bounds import enclose, modulus, spread

bounds = jax.jit(dp.bounds)


def loop(r: float, gamma: float, dtype: type = np.float64) -> dp.MDP:
    """One state, one action: v_* = r / (1 - γ)."""
    return dp.make_mdp(np.ones((1, 1, 1), dtype), np.full((1, 1), r, dtype), gamma)


@pytest.mark.parametrize("v", [-100.0, 0.0, 9.999, 10.0, 1e6])
def test_one_state_is_enclosed_at_once_and_tightly(v):
    # ρ⁺ = ρ⁻ = γ: the geometric series is exact, so that nothing but rounding is left.
    found = bounds(loop(1.0, 0.9), jnp.array([v]))
    assert found.lower < 10 < found.upper
    assert found.gap <= 1e-13 * max(100, abs(v))
    assert_allclose(found.mid, 10, rtol=1e-13 * max(1, abs(v)))


def test_the_theorem_by_hand():
    # Space Exploration from v = 0: d⁺ = 2, d⁻ = 0, ρ⁺ = 1/2 and, in D, 0: D⁺ = 4.
    found = bounds(dp.problems.space_exploration(), jnp.zeros(3))
    assert_allclose(found.lower, [2, 1, 0], atol=1e-12)
    assert_allclose(found.upper, [4, 3, 0], atol=1e-12)
    assert_allclose(found.gap, 2, rtol=1e-12)


def test_missing_mass_by_hand():
    # Rows keep 1/2 or 1/4: ρ⁺ = (1/2, 1/4), ρ⁻ likewise, γ = 1. From v = 0, T v = (4, 2), d⁺ = 4, d⁻ = 2.
    mdp = dp.make_mdp(np.array([[[0.5, 0.0]], [[0.25, 0.0]]]), np.array([4.0, 2.0]), 1, substochastic=True)
    found = bounds(mdp, jnp.zeros(2))
    assert_allclose(found.upper, [4 + 0.5 * 8, 2 + 0.25 * 8], rtol=1e-12)
    assert_allclose(found.lower, [4 + 0.5 * 2 / 0.75, 2 + 0.25 * 2 / 0.75], rtol=1e-12)
    # v_* = (8, 4) is the upper bound here.
    assert (found.upper >= jnp.array([8, 4.0])).all()


def test_with_a_policy_the_bounds_are_on_its_value():
    mdp = dp.problems.space_exploration()
    conserve = bounds(mdp, jnp.array([2.0, 2.0, 0.0]), jnp.array([0, 0, 0]))
    assert_allclose(conserve.lower, [2, 2, 0], atol=1e-13)
    assert_allclose(conserve.upper, [2, 2, 0], atol=1e-13)
    # Half and half: v(F) = 3/2 + (3 v(F) + v(L))/8 and v(L) = -9/2 + (v(F) + v(L))/8.
    v = np.linalg.solve([[5 / 8, -1 / 8], [-1 / 8, 7 / 8]], [1.5, -4.5])
    half = bounds(mdp, jnp.array([*v, 0.0]), jnp.full((3, 2), 0.5))
    assert_allclose(half.mid, [*v, 0], atol=1e-13)
    assert half.gap < 1e-12


def test_a_residual_of_zero_is_not_an_error_of_zero():
    mdp = loop(0.1, 0.999, np.float32)
    v = jnp.zeros(1, jnp.float32)
    sweep = jax.jit(lambda v: jax.lax.fori_loop(0, 20_000, lambda _, v: dp.optimality(mdp, v), v))
    v = sweep(v)
    assert_array_equal(dp.optimality(mdp, v), v)
    truth = Fraction(float(mdp.R[0, 0])) / (1 - Fraction(float(mdp.gamma)))
    assert abs(Fraction(float(v[0])) - truth) > Fraction(1, 1000)
    found = bounds(mdp, v)
    assert Fraction(float(found.lower[0])) <= truth <= Fraction(float(found.upper[0]))
    assert found.gap < 0.1


def test_gap_is_what_lies_between_the_bounds(random_mdp):
    # In exact arithmetic, and near the fixed point, where gap and rounding are of one size.
    for seed in range(20):
        mdp = random_mdp(seed, gamma=0.99, dtype=np.float32)
        v = dp.policy_iteration(mdp).v
        found = bounds(mdp, v)
        for lower, upper in zip(found.lower.tolist(), found.upper.tolist(), strict=True):
            assert Fraction(upper) - Fraction(lower) <= Fraction(float(found.gap))


def test_floor_is_the_gap_that_is_left(random_mdp):
    for dtype, scale in [(np.float32, 1e-3), (np.float64, 1e-12)]:
        mdp = random_mdp(0, dtype=dtype)
        found = bounds(mdp, dp.policy_iteration(mdp).v)
        # The loops stop at twice the floor: it must be within reach, and no smaller than it need be.
        assert found.floor / 2 <= found.gap <= 2 * found.floor
        assert found.gap < scale


def test_modulus_counts_mass_of_allowed_actions_only():
    P = np.zeros((2, 2, 2))
    P[0, 0, 0], P[0, 1, 1], P[1, 0, 0], P[1, 1, 1] = 0.5, 1.0, 0.25, 0.75
    R = np.array([[1.0, -100.0], [-3.0, 2.0]])
    mask = np.array([[True, False], [True, True]])
    of_all, of_some = (jax.jit(modulus)(*dp.make_mdp(P, R, 0.5, mask=m, substochastic=True)) for m in (None, mask))
    assert_allclose(of_all.most, [0.5, 0.375], rtol=1e-14)
    assert_allclose(of_some.most, [0.25, 0.375], rtol=1e-14)
    assert_allclose(of_some.least, [0.25, 0.125], rtol=1e-14)
    assert (of_all.rewards, of_some.rewards) == (100, 3)
    # Outwards, not to nearest.
    assert (of_some.most > jnp.array([0.25, 0.375])).all() and (of_some.least < jnp.array([0.25, 0.125])).all()


def with_(mdp: dp.MDP, **leaves) -> dp.MDP:
    return mdp._replace(**{name: jnp.asarray(x, mdp.R.dtype) for name, x in leaves.items()})


@pytest.mark.parametrize("policy", [None, np.zeros(1, int), np.ones((1, 1))])
@pytest.mark.parametrize(
    "change",
    [{"gamma": 1.0}, {"gamma": 1.5}, {"gamma": np.nan}, {"R": [[np.nan]]}, {"R": [[np.inf]]}, {"P": [[[np.nan]]]}],
    ids=str,
)
def test_where_nothing_can_be_said_the_bounds_are_infinite(change, policy):
    found = bounds(with_(loop(1.0, 0.9), **change), jnp.zeros(1), None if policy is None else jnp.asarray(policy))
    assert_array_equal([found.lower[0], found.upper[0], found.gap], [-np.inf, np.inf, np.inf])


@pytest.mark.parametrize("v", [np.nan, np.inf, 1e308])
def test_values_beyond_the_dtype_have_infinite_bounds(v):
    found = bounds(loop(1.0, 0.999), jnp.array([v]))
    assert_array_equal([found.lower[0], found.upper[0], found.gap], [-np.inf, np.inf, np.inf])


def test_an_operator_that_is_not_monotone_has_infinite_bounds():
    found = bounds(with_(dp.problems.space_exploration(), gamma=-0.5), jnp.zeros(3))
    assert_array_equal(found.lower, np.full(3, -np.inf))
    assert_array_equal(found.upper, np.full(3, np.inf))
    assert found.gap == np.inf


def test_probabilities_too_small_for_the_processor_still_count():
    # Processors may read subnormal numbers as zero; times a large v they are not.
    tiny = np.finfo(np.float64).tiny
    mdp = dp.make_mdp(np.full((1, 1, 1), tiny / 2), np.zeros((1, 1)), 0.5, substochastic=True)
    found = bounds(mdp, jnp.array([1e300]))
    assert found.lower <= 0 <= found.upper


def test_dtype_follows_inputs(random_mdp):
    mdp, v = random_mdp(1, dtype=np.float32), jnp.zeros(4, np.float32)
    for policy in (None, jnp.zeros(4, int), jnp.full((4, 3), 1 / 3, np.float32)):
        assert {x.dtype for x in jax.eval_shape(dp.bounds, mdp, v, policy)} == {np.dtype(np.float32)}


def test_an_overflow_that_the_maximum_hides():
    # In floats, action 0 is worth -inf on the way, though its exact value is the better one.
    huge = np.finfo(float).max
    mdp = dp.make_mdp(np.array([[[1 + 1e-9], [0.0]]]), np.array([[0.1 * huge, -0.3 * huge]]), 0.1, substochastic=True)
    found = bounds(mdp, jnp.array([-huge]))
    assert found.upper >= 0.1 * huge


def test_the_gap_of_the_loop_is_at_least_the_printed_one():
    # From far away the shifts are large beside the values, and what is printed rounds with them.
    for seed in range(300):
        rng = np.random.default_rng(seed)
        dtype = [np.float32, np.float64][seed % 2]
        mdp = loop(rng.normal() * 10.0 ** rng.uniform(0, 6), rng.uniform(0.8, 1), dtype)
        v = jnp.asarray(rng.normal(size=1) * rng.choice([0, 1e6]), dtype)
        scalar, printed = both_gaps(mdp, v)
        assert scalar >= printed


@jax.jit
def both_gaps(mdp, v):
    contraction = modulus(*mdp)
    Tv = dp.optimality(mdp, v)
    return spread(v, Tv, contraction).gap, enclose(v, Tv, contraction).gap

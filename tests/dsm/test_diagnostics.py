"""Chain diagnostics against closed forms and loops in NumPy."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats
from numpy.testing import assert_allclose

from dsm import diagnostics

# Most draws have the shape (3, 24, 4), so that these compile once for many tests.
ess_of = jax.jit(diagnostics.effective_sample_size)
summary_of = jax.jit(diagnostics.summary, static_argnames="energy")
r_hat_of = jax.jit(diagnostics.split_r_hat, static_argnames="rank_normalised")
autocorrelation = jax.jit(diagnostics.autocorrelation)


def autoregressive(rho, chains, draws, coordinates, seed=0):
    """x' = rho x + sqrt(1 - rho^2) eps, in equilibrium from the first draw."""
    eps = np.random.default_rng(seed).normal(size=(chains, draws, coordinates))
    eps[:, 1:] *= math.sqrt(1 - rho**2)
    return scipy.signal.lfilter([1.0], [1.0, -rho], eps, axis=1)


def halves_of(x):
    half = x.shape[1] // 2
    return np.array([part for chain in x for part in (chain[:half], chain[len(chain) - half :])])


def naive_covariance(chain, lag):
    d = chain - chain.mean()
    return sum(d[i] * d[i + lag] for i in range(len(d) - lag)) / len(d)


def naive_r_hat(halves):
    num = halves.shape[1]
    within = np.mean([np.var(h, ddof=1) for h in halves])
    between = num * np.var([h.mean() for h in halves], ddof=1)
    return math.sqrt(((num - 1) / num * within + between / num) / within)


def naive_ess(x):
    halves = halves_of(x)
    num = halves.shape[1]
    within = np.mean([np.var(h, ddof=1) for h in halves])
    total = (num - 1) / num * within + np.var([h.mean() for h in halves], ddof=1)
    rho = [1.0] + [1 - (within - np.mean([naive_covariance(h, lag) for h in halves])) / total for lag in range(1, num)]
    tau, smallest = -1.0, np.inf
    for k in range(num // 2):
        pair = rho[2 * k] + rho[2 * k + 1]
        if pair <= 0:
            break
        smallest = min(smallest, pair)
        tau += 2 * smallest
    return halves.size / max(tau, 1 / math.log10(halves.size))


def naive_rank_normalised(halves):
    ranks = scipy.stats.rankdata(halves.ravel())
    return scipy.stats.norm.ppf((ranks - 3 / 8) / (halves.size + 1 / 4)).reshape(halves.shape)


@pytest.mark.parametrize("draws", [5, 24])
def test_ess_and_r_hat_are_those_of_loops(draws):
    x = autoregressive(0.6, 3, draws, 4) + np.random.default_rng(1).normal(size=(3, 1, 4))
    found, r_hat = ess_of(jnp.asarray(x)), r_hat_of(jnp.asarray(x))
    ranked = r_hat_of(jnp.asarray(x), rank_normalised=True)
    for i in range(4):
        halves = halves_of(x[:, :, i])
        assert_allclose(found[i], naive_ess(x[:, :, i]), rtol=1e-10)
        assert_allclose(r_hat[i], naive_r_hat(halves), rtol=1e-12)
        folded = np.abs(halves - np.median(halves))
        expected = max(naive_r_hat(naive_rank_normalised(h)) for h in (halves, folded))
        assert_allclose(ranked[i], expected, rtol=1e-10)


def test_autocorrelation_is_the_direct_sum():
    x = autoregressive(0.5, 2, 11, 2)
    found = autocorrelation(jnp.asarray(x))
    for c, lag, i in np.ndindex(2, 11, 2):
        chain = x[c, :, i]
        expected = naive_covariance(chain, lag) / naive_covariance(chain, 0)
        assert_allclose(found[c, lag, i], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_ess_and_error_of_autoregressive_chains():
    chains, draws, coordinates = 4, 5000, 40
    squares = []
    for rho in (0.0, 0.5, 0.9, -0.5):
        x = autoregressive(rho, chains, draws, coordinates)
        found = summary_of(jnp.asarray(x))
        relative = np.asarray(found.ess) * (1 + rho) / (1 - rho) / (chains * draws)
        error = relative.std(ddof=1) / math.sqrt(coordinates)
        # The sum stops at the first noise below 0, after some above it: a bias that 3 percent covers.
        assert abs(relative.mean() - 1) < 4 * error + 0.03
        assert np.abs(relative - 1).max() < 0.35
        squares.append(np.asarray(found.mean / found.mcse) ** 2)
    # A mean (whose truth is 0) over its claimed error is a standard normal, up to the noise of the claim.
    squares = np.concatenate(squares)
    assert abs(squares.mean() - 1) < 4 * squares.std() / math.sqrt(squares.size)


def test_r_hat_of_chains_that_are_a_shift_apart():
    # Halves alike up to shifts: W is the variance of one, B/N that of the shifts.
    half = np.random.default_rng(2).normal(size=50)
    shifts = np.array([-1.0, 0.5, 2.0])
    x = np.concatenate([half, half])[None, :] + shifts[:, None]
    within = np.var(half, ddof=1)
    expected = math.sqrt(49 / 50 + np.var(np.repeat(shifts, 2), ddof=1) / within)
    assert_allclose(r_hat_of(jnp.asarray(x)), expected, rtol=1e-12)


def test_r_hat_sees_what_it_should():
    good = autoregressive(0.3, 4, 500, 1)[:, :, 0]
    wide = good * np.array([1.0, 1.0, 1.0, 6.0])[:, None]
    drifting = good + np.linspace(0, 4, 500)[None]
    r_hat = r_hat_of(jnp.asarray(np.stack([good, wide, drifting], axis=2)))
    ranked = r_hat_of(jnp.asarray(np.stack([good, wide, drifting], axis=2)), rank_normalised=True)
    assert r_hat[0] < 1.02 and ranked[0] < 1.02
    # Chains of one place and another width: only the folded ranks see them.
    assert r_hat[1] < 1.02 and ranked[1] > 1.1
    assert r_hat[2] > 1.1 and ranked[2] > 1.1


def test_ranks_bear_draws_without_a_variance():
    x = np.random.default_rng(3).standard_cauchy((4, 500))
    moved = x + np.array([0.0, 0.0, 0.0, 4.0])[:, None]
    all_three = jnp.asarray(np.stack([x, moved, -5 * moved], axis=2))
    plain, ranked = r_hat_of(all_three), r_hat_of(all_three, rank_normalised=True)
    assert ranked[0] < 1.02 and ranked[1] > 1.1 and plain[1] < 1.1
    assert_allclose(ranked[2], ranked[1], rtol=1e-12)


@pytest.mark.parametrize("draws", [5, 24])
def test_chains_that_never_move(draws):
    x = np.full((3, draws, 4), 0.1)
    x[:, :, 2:] = np.array([0.1, 0.7, -3.1])[:, None, None]
    x = jnp.asarray(x)
    num = draws // 2
    # One draw each, up to the end of the sum over an even number of lags.
    assert_allclose(ess_of(x), 6 * num / (2 * (num - num % 2) - 1), rtol=1e-12)
    for rank_normalised in (False, True):
        r_hat = np.asarray(r_hat_of(x, rank_normalised=rank_normalised))
        assert np.isnan(r_hat[:2]).all() and np.isposinf(r_hat[2:]).all()
    assert (np.asarray(autocorrelation(x)) == 1).all()


def test_two_chains_stuck_at_mirror_images_do_not_agree():
    x = jnp.asarray(np.broadcast_to(np.array([-1.0, 1.0, 1.0, -1.0])[:, None, None], (4, 500, 3)))
    assert np.isposinf(r_hat_of(x, rank_normalised=True)).all()


def test_a_draw_that_is_not_finite_spoils_its_own_coordinate():
    x = autoregressive(0.0, 3, 24, 4)
    clean = summary_of(jnp.asarray(x))
    x[0, 3, 0], x[1, 5, 1] = np.nan, np.inf
    found = summary_of(jnp.asarray(x))
    for name in ("mcse", "ess", "r_hat"):
        assert np.isnan(getattr(found, name)).tolist() == [True, True, False, False]
        assert_allclose(getattr(found, name)[2:], getattr(clean, name)[2:], rtol=1e-12)
    assert np.isnan(r_hat_of(jnp.asarray(x), rank_normalised=True)).tolist() == [True, True, False, False]


def test_the_claim_of_alternating_chains_is_bounded():
    x = np.broadcast_to(np.tile([1.0, -1.0], 12)[None, :, None], (3, 24, 4))
    assert_allclose(ess_of(jnp.asarray(x)), 72 * math.log10(72), rtol=1e-12)


@pytest.mark.slow
def test_summary_is_all_of_it_for_any_shape_and_for_the_energy():
    x = autoregressive(0.5, 3, 24, 4)

    def energy(x):
        return 0.5 * jnp.sum(x**2)

    found = summary_of(jnp.asarray(x.reshape(3, 24, 2, 2)), energy)
    flat = x.reshape(-1, 2, 2)
    assert_allclose(found.mean, flat.mean(0), rtol=1e-11)
    assert_allclose(found.std, flat.std(0, ddof=1), rtol=1e-12)
    assert_allclose(found.ess, ess_of(jnp.asarray(x)).reshape(2, 2), rtol=1e-11)
    assert_allclose(found.r_hat, r_hat_of(jnp.asarray(x)).reshape(2, 2), rtol=1e-12)
    assert_allclose(found.mcse, found.std / np.sqrt(found.ess), rtol=1e-12)
    assert_allclose(diagnostics.monte_carlo_error(jnp.asarray(x)).reshape(2, 2), found.mcse, rtol=1e-11)
    trace = 0.5 * np.sum(x**2, axis=2)
    assert_allclose(diagnostics.energy_trace(energy, jnp.asarray(x)), trace, rtol=1e-12)
    assert found.energy is not None and found.energy.energy is None
    assert_allclose(found.energy.ess, naive_ess(trace), rtol=1e-10)
    assert_allclose(found.energy.mean, trace.mean(), rtol=1e-12)


@hypothesis.given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-100, 100))
@hypothesis.settings(max_examples=20)
def test_units_and_the_order_of_chains_do_not_matter(seed, scale, shift):
    x = np.random.default_rng(seed).normal(size=(3, 24, 4)).cumsum(axis=1)
    moved = jnp.asarray(scale * x[::-1] + shift)
    assert_allclose(ess_of(moved), ess_of(jnp.asarray(x)), rtol=1e-7)
    assert_allclose(r_hat_of(moved), r_hat_of(jnp.asarray(x)), rtol=1e-7)


def test_float32_in_float32_out_far_from_the_origin():
    x = np.round(autoregressive(0.5, 3, 24, 4) * 256) / 256
    wide, narrow = jnp.asarray(x), jnp.asarray(x + 1e4, jnp.float32)
    a, b = summary_of(narrow), summary_of(wide)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(a))
    assert_allclose(a.mean - 1e4, b.mean, atol=2e-3)
    for name in ("std", "mcse", "ess", "r_hat"):
        assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-4)
    a, b = (r_hat_of(u, rank_normalised=True) for u in (narrow, wide))
    assert a.dtype == jnp.float32
    assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        diagnostics.effective_sample_size,
        diagnostics.split_r_hat,
        diagnostics.monte_carlo_error,
        diagnostics.autocorrelation,
        diagnostics.summary,
    ],
)
def test_too_few_draws_are_refused(function):
    with pytest.raises(ValueError, match="T = 3"):
        function(jnp.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match=r"\(0, 8\)"):
        function(jnp.zeros((0, 8)))

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsm
from dsm import ais, langevin

LOG_Z = 3.0
MIXTURES = {
    1: dsm.gaussian_mixture([0.3, 0.7], [[-2.0], [2.0]], [0.3, 1.0]),
    2: dsm.gaussian_mixture([0.3, 0.7], [[-2.0, 0.0], [1.0, 1.5]], [0.5, 1.0]),
    5: dsm.gaussian_mixture([1.0], np.full((1, 5), 0.5), np.diag([0.2, 0.5, 1.0, 1.5, 2.0])[None]),
}
# As many components as the targets have, so that a base can be a target too without compiling again.
BASES = {dim: dsm.gaussian_mixture([0.5, 0.5], np.zeros((2, dim)), 6.0 if dim < 5 else 2.5) for dim in MIXTURES}
LADDER = ais.sigmoid_betas(20)
NUM = 6000


@partial(jax.jit, static_argnames="estimator")
def chains(estimator, target, base, key, betas, step_size):
    """NUM chains of a known target whose log Z is LOG_Z."""
    key_start, key = jax.random.split(key)
    x = (base if estimator is ais.forward else target).sample(key_start, NUM)
    energy = lambda x: -target.logdensity(x) - LOG_Z  # noqa: E731
    return estimator(key, energy, base.logdensity, x, betas=betas, step_size=step_size)


def in_groups(log_weights, size):
    """Log of the mean weight and its error, by NumPy: of the NUM / size groups, each an independent estimate."""
    weights = np.exp(np.asarray(log_weights).reshape(-1, size))
    mean = weights.mean(1)
    return np.log(mean), weights.std(1, ddof=1) / mean / np.sqrt(size)


def within(values, expected, num_errors):
    """Whether the mean of independent values is so near, in standard errors of that mean."""
    return abs(np.mean(values) - expected) < num_errors * np.std(values, ddof=1) / np.sqrt(len(values))


@pytest.mark.slow
@pytest.mark.parametrize("dim", MIXTURES)
def test_log_z_is_right_within_an_error_that_is_right(dim):
    estimate = chains(ais.forward, MIXTURES[dim], BASES[dim], jax.random.key(0), LADDER, 0.4)
    assert abs(estimate.log_z - LOG_Z) < 3 * estimate.standard_error < 0.1
    assert estimate.acceptance.shape == (20,) and estimate.acceptance.min() > 0.3
    log_z, standard_error = in_groups(estimate.log_weights, 200)
    assert within(log_z + 0.5 * standard_error**2, LOG_Z, 3)
    # The standard deviation of 30 scores has a standard error of 1 / sqrt(60).
    assert abs(np.std((log_z - LOG_Z) / standard_error, ddof=1) - 1) < 4 / np.sqrt(60)


@pytest.mark.slow
def test_the_reverse_is_right_within_its_error_too():
    estimate = chains(ais.reverse, MIXTURES[1], BASES[1], jax.random.key(0), LADDER, 0.4)
    assert abs(estimate.log_z - LOG_Z) < 3 * estimate.standard_error < 0.1
    log_inverse, standard_error = in_groups(estimate.log_weights, 200)
    assert within(-log_inverse - 0.5 * standard_error**2, LOG_Z, 3)
    # The weights of a reverse run have a heavier tail, and 200 of them know their own error less well.
    assert abs(np.std((-log_inverse - LOG_Z) / standard_error, ddof=1) - 1) < 5 / np.sqrt(60)


@pytest.mark.slow
def test_z_is_unbiased_however_bad_the_steps_are_and_log_z_errs_low():
    # Most proposals are refused, and of 20 rungs only three are anything.
    betas = jnp.minimum(jnp.arange(21.0) / 3, 1.0)
    estimate = chains(ais.forward, MIXTURES[1], BASES[1], jax.random.key(1), betas, 8.0)
    assert estimate.acceptance.mean() < 0.5
    log_z, _ = in_groups(estimate.log_weights, 2)
    assert within(np.exp(log_z), np.exp(LOG_Z), 4)
    assert not within(log_z, LOG_Z, 4) and log_z.mean() < LOG_Z


def test_the_reverse_is_unbiased_in_1_over_z_and_errs_high():
    betas = jnp.maximum(jnp.arange(21.0) / 3 - 17 / 3, 0.0)
    estimate = chains(ais.reverse, MIXTURES[1], BASES[1], jax.random.key(1), betas, 8.0)
    log_inverse, _ = in_groups(estimate.log_weights, 2)
    assert within(np.exp(log_inverse), np.exp(-LOG_Z), 4)
    assert not within(-log_inverse, LOG_Z, 4) and -log_inverse.mean() > LOG_Z


def test_the_ends_of_the_chains_weighted_are_a_sample_of_the_target():
    # Too few steps to come near the target: without weights the mean is far off.
    estimate = chains(ais.forward, MIXTURES[1], BASES[1], jax.random.key(2), LADDER, 0.02)
    weights, x = np.asarray(jax.nn.softmax(estimate.log_weights)), np.asarray(estimate.x[:, 0])
    standard_error = np.sqrt(np.sum(weights**2 * (x - 0.8) ** 2))
    assert abs(weights @ x - 0.8) < 4 * standard_error < 0.2
    assert abs(x.mean() - 0.8) > 0.2


@pytest.mark.parametrize("estimator", [ais.forward, ais.reverse])
def test_no_error_where_the_target_is_the_base(estimator):
    estimate = chains(estimator, BASES[1], BASES[1], jax.random.key(3), LADDER, 1.0)
    np.testing.assert_allclose(estimate.log_z, LOG_Z, rtol=1e-13)
    np.testing.assert_allclose(estimate.standard_error, 0.0, atol=1e-13)
    np.testing.assert_allclose(estimate.effective_sample_size, NUM, rtol=1e-13)


def test_a_ladder_of_one_rung_is_importance_sampling():
    betas = jnp.minimum(jnp.arange(21.0), 1.0)
    estimate = chains(ais.forward, MIXTURES[1], BASES[1], jax.random.key(4), betas, 1.0)
    x = BASES[1].sample(jax.random.split(jax.random.key(4))[0], NUM)
    logdensity = jax.jit(lambda target, x: jax.vmap(target.logdensity)(x))
    log_weights = logdensity(MIXTURES[1], x) + LOG_Z - logdensity(BASES[1], x)
    np.testing.assert_allclose(estimate.log_weights, log_weights, rtol=1e-10, atol=1e-10)
    # And the summary is that of NumPy.
    log_z, standard_error = in_groups(log_weights, NUM)
    np.testing.assert_allclose([estimate.log_z, estimate.standard_error], [log_z[0], standard_error[0]], rtol=1e-10)
    weights = np.exp(log_weights)
    np.testing.assert_allclose(estimate.effective_sample_size, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-10)


@pytest.mark.parametrize("estimator", [ais.forward, ais.reverse])
def test_each_chain_is_the_loop_on_paper(estimator):
    # Matrices for examples, a ladder and steps that are uneven, two transitions at each rung.
    energy = lambda x: jnp.sum(x**4) / 4 + x[0, 0]  # noqa: E731
    base = lambda x: -0.5 * jnp.sum(x**2) - 2 * np.log(2 * np.pi).item()  # noqa: E731
    betas, steps = [0.0, 0.2, 0.7, 1.0], [0.3, 0.2, 0.1]
    x = jax.random.normal(jax.random.key(0), (2, 2, 2))
    key = jax.random.key(1)
    estimate = estimator(key, energy, base, x, betas=jnp.array(betas), step_size=jnp.array(steps), num_transitions=2)
    mala = jax.jit(
        lambda key, state, b, h: langevin.mala_step(
            key, state, lambda y: (1 - b) * base(y) - b * energy(y), step_size=h
        )
    )
    accepted = np.zeros(3)
    for i, chain_key in enumerate(jax.random.split(key, 2)):
        y, total = x[i], 0.0
        for t in (1, 2, 3) if estimator is ais.forward else (3, 2, 1):
            logdensity = lambda y, b=betas[t]: (1 - b) * base(y) - b * energy(y)  # noqa: E731
            if estimator is ais.forward:
                total += (betas[t] - betas[t - 1]) * (-energy(y) - base(y))
            state, turn = langevin.mala_init(y, logdensity), jax.random.fold_in(chain_key, t)
            for j in range(2):
                state, info = mala(jax.random.fold_in(turn, j), state, betas[t], steps[t - 1])
                accepted[t - 1] += info.acceptance / 4
            y = state.x
            if estimator is ais.reverse:
                total -= (betas[t] - betas[t - 1]) * (-energy(y) - base(y))
        np.testing.assert_allclose(estimate.log_weights[i], total, rtol=1e-10)
        np.testing.assert_allclose(estimate.x[i], y, rtol=1e-10)
    np.testing.assert_allclose(estimate.acceptance, accepted, rtol=1e-10)


def test_a_chain_behind_a_wall_has_no_weight():
    # Half a Gaussian: Z = sqrt(2 pi) / 2. Chains that start where E = inf count as 0, not as nan.
    base, x = BASES[1], BASES[1].sample(jax.random.key(0), 1000)
    energy = lambda x: jnp.where(x[0] > 0, 0.5 * x[0] ** 2, jnp.inf)  # noqa: E731
    estimate = ais.forward(jax.random.key(1), energy, base.logdensity, x, betas=ais.sigmoid_betas(10), step_size=0.3)
    np.testing.assert_array_equal(np.isneginf(estimate.log_weights), x[:, 0] <= 0)
    assert abs(estimate.log_z - np.log(np.sqrt(2 * np.pi) / 2)) < 3 * estimate.standard_error < 0.3


@pytest.mark.slow
def test_float32_stays_float32_and_keeps_its_digits_over_a_long_ladder():
    # The terms are equal, so that every rounding of a plain sum would go the same way.
    base = dsm.gaussian(np.zeros(1, np.float32), 1.0)
    estimate = ais.forward(
        jax.random.key(0),
        lambda x: -base.logdensity(x) + 1000.0,
        base.logdensity,
        base.sample(jax.random.key(1), 2),
        betas=ais.sigmoid_betas(3000),
        step_size=0.5,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(estimate)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(estimate.log_weights, -1000.0, rtol=3 * np.finfo(np.float32).eps)


def test_the_sigmoid_ladder_ascends_from_0_to_1_and_is_dense_at_both_ends():
    betas = np.asarray(ais.sigmoid_betas(10))
    assert betas.shape == (11,) and betas[0] == 0 and betas[-1] == 1
    np.testing.assert_allclose(betas + betas[::-1], 1.0, rtol=1e-14)
    gaps = np.diff(betas)
    assert np.all(np.diff(gaps[:5]) > 0) and gaps[0] > 0
    s = 1 / (1 + np.exp(-4 * (2 * np.arange(11) / 10 - 1)))
    np.testing.assert_allclose(betas, (s - s[0]) / (s[-1] - s[0]), atol=1e-14)
    np.testing.assert_allclose(ais.sigmoid_betas(10, slope=1e-4), np.linspace(0, 1, 11), atol=1e-8)


def test_the_geometric_ladder_has_one_ratio():
    betas = np.asarray(ais.geometric_betas(4, 0.001))
    np.testing.assert_allclose(betas, [0.0, 0.001, 0.01, 0.1, 1.0], rtol=1e-14)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": jnp.ones((1, 1))}, r"x has 1 chains"),
        ({"x": jnp.array([[0.0], [jnp.nan]])}, r"x\[1, 0\] = nan"),
        ({"betas": jnp.array([0.0])}, r"betas has 1 entries"),
        ({"betas": jnp.array([0.1, 1.0])}, r"betas\[0\] = 0.1"),
        ({"betas": jnp.array([0.0, 0.9])}, r"betas\[1\] = 0.9"),
        ({"betas": jnp.array([0.0, 0.5, 0.5, 1.0])}, r"betas\[2\] = 0.5 is not above betas\[1\] = 0.5"),
        ({"betas": jnp.array([0.0, jnp.nan, 1.0])}, r"betas\[1\] = nan is not above"),
        ({"step_size": 0.0}, r"step_size = 0.0"),
        ({"step_size": float("inf")}, r"step_size = inf"),
        ({"step_size": float("nan")}, r"step_size = nan"),
        ({"step_size": jnp.array([0.1, -0.1])}, r"step_size = .*-0.1"),
        ({"step_size": jnp.ones(3)}, r"step_size has shape \(3,\): \(\) or \(2,\)"),
        ({"num_transitions": 0}, r"num_transitions = 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    settings = {"x": jnp.ones((2, 1)), "betas": jnp.array([0.0, 0.5, 1.0]), "step_size": 0.1, **changes}
    x = settings.pop("x")
    for estimator in (ais.forward, ais.reverse):
        with pytest.raises(ValueError, match=message):
            estimator(jax.random.key(0), lambda x: jnp.sum(x**2), BASES[1].logdensity, x, **settings)


def test_a_function_that_is_no_scalar_is_refused_by_name():
    settings = {"x": jnp.ones((2, 1)), "betas": jnp.array([0.0, 1.0]), "step_size": 0.1}
    scalar = lambda x: jnp.sum(x**2)  # noqa: E731
    with pytest.raises(ValueError, match=r"energy\(x\) has shape \(1,\)"):
        ais.forward(jax.random.key(0), lambda x: x, scalar, **settings)
    with pytest.raises(ValueError, match=r"base_logdensity\(x\) has shape \(1,\)"):
        ais.forward(jax.random.key(0), scalar, lambda x: x, **settings)


def test_bad_ladders_are_refused_by_name():
    with pytest.raises(ValueError, match=r"num = 0"):
        ais.sigmoid_betas(0)
    for slope in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"slope = {slope}"):
            ais.sigmoid_betas(3, slope=slope)
    with pytest.raises(ValueError, match=r"num = 1"):
        ais.geometric_betas(1, 0.1)
    for smallest in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"smallest = {smallest}"):
            ais.geometric_betas(3, smallest)

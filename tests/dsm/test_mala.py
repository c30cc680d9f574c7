"""MALA against its proposal density and acceptance in NumPy, exact moments and forbidden regions."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dsm
from dsm import chains, diagnostics, langevin


def mala(key, x, logdensity, num_steps, thin=1, **tuning):
    step = lambda key, state: langevin.mala_step(key, state, logdensity, **tuning)  # noqa: E731
    return chains.run(key, step, langevin.mala_init(x, logdensity), num_steps, thin=thin)


def wells(x):
    return -((x**2 - 1) ** 2) + 0.5 * x


def wells_score(x):
    return -4 * x * (x**2 - 1) + 0.5


def log_q(y, x, h, temperature):
    """log N(y; x + h s(x), 2 h T)."""
    variance = 2 * h * temperature
    return -((y - x - h * wells_score(x)) ** 2) / (2 * variance) - 0.5 * np.log(2 * np.pi * variance)


def alpha(x, y, h, temperature):
    log_ratio = (wells(y) - wells(x)) / temperature + log_q(x, y, h, temperature) - log_q(y, x, h, temperature)
    return np.exp(np.minimum(log_ratio, 0))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_acceptance_is_the_one_that_balances_each_pair_of_states(temperature):
    h = 0.15
    grid = np.linspace(-1.8, 1.8, 41)
    x, y = grid[:, None], grid[None, :]
    flow = np.exp(wells(x) / temperature + log_q(y, x, h, temperature)) * alpha(x, y, h, temperature)
    assert_allclose(flow, flow.T, rtol=1e-12)

    def one(key, x):
        logdensity = lambda x: wells(x[0])  # noqa: E731
        state = langevin.mala_init(x[None], logdensity)
        new, info = langevin.mala_step(key, state, logdensity, step_size=h, temperature=temperature)
        # On a flat density every proposal is accepted: the noise of this key, laid bare.
        flat = lambda x: 0.0 * x[0]  # noqa: E731
        probe, _ = langevin.mala_step(key, langevin.mala_init(jnp.zeros(1), flat), flat, step_size=0.5)
        return new, info, probe.x[0]

    keys, starts = jax.random.split(jax.random.key(0), 2000), jnp.asarray(np.resize(grid, 2000))
    new, info, eps = jax.jit(jax.vmap(one))(keys, starts)
    x, eps = np.asarray(starts), np.asarray(eps)
    y = x + h * wells_score(x) + np.sqrt(2 * h * temperature) * eps
    assert_allclose(info.acceptance, alpha(x, y, h, temperature), rtol=1e-9, atol=1e-300)
    # It moves to its proposal or not at all, and carries the density and score of where it is.
    landed = np.where(np.asarray(info.accepted) == 1, y, x)
    assert_allclose(np.asarray(new.x)[:, 0], landed, rtol=1e-12)
    assert_allclose(new.logdensity, wells(landed), rtol=1e-9, atol=1e-12)
    assert_allclose(np.asarray(new.score)[:, 0], wells_score(landed), rtol=1e-9, atol=1e-12)
    p = np.asarray(info.acceptance)
    assert abs(info.accepted.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / len(p)


summarised = jax.jit(diagnostics.summary)


def gaussian_and_moments():
    return dsm.gaussian([1.0, -1.0], [[2.0, 0.8], [0.8, 1.0]]), [1.0, -1.0], [2.0, 1.0]


def wells_and_moments():
    target = dsm.double_wells(D=2)
    return target, [0.0, 0.0], np.diag(target.covariance())


def student_and_moments():
    # Tails so thin as this one's that the fourth moment exists, and with it the error of the second.
    target = dsm.student_t(jnp.zeros(2), jnp.eye(2), 8.0)
    return target, [0.0, 0.0], np.diag(target.covariance())


@pytest.mark.parametrize(
    "case",
    [
        gaussian_and_moments,
        *(pytest.param(case, marks=pytest.mark.slow) for case in (wells_and_moments, student_and_moments)),
    ],
)
def test_moments_at_a_step_where_unadjusted_chains_would_be_wrong(case):
    target, mean, variance = case()

    def chain(key):
        key_start, key_run = jax.random.split(key)
        return mala(key_run, target.sample(key_start, 1)[0], target.logdensity, 2000, step_size=0.4)[1]

    history = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 8))
    x = history.states.x
    for draws, truth in ((x, mean), ((x - jnp.asarray(mean)[None, None]) ** 2, variance)):
        summary = summarised(draws)
        assert np.all(np.abs(summary.mean - np.asarray(truth)) < 4 * summary.mcse)
        assert np.all(np.asarray(summary.ess) > 400)
    assert not history.infos.diverged.any()


@pytest.mark.slow
def test_refusals_vanish_with_the_step_as_its_power_three_halves():
    target = dsm.double_wells(D=4)
    x = target.sample(jax.random.key(0), 20_000)

    @jax.jit
    def refused(h):
        def one(key, x):
            state = langevin.mala_init(x, target.logdensity)
            return 1 - langevin.mala_step(key, state, target.logdensity, step_size=h)[1].acceptance

        return jax.vmap(one)(jax.random.split(jax.random.key(1), x.shape[0]), x)

    means = [float(refused(jnp.asarray(h)).mean()) for h in (2e-3, 1e-3, 5e-4)]
    assert means[-1] < 1e-2
    for coarse, fine in itertools.pairwise(means):
        assert abs(coarse / fine / 2**1.5 - 1) < 0.15


@pytest.mark.slow
def test_nothing_enters_where_the_density_is_zero():
    # An exponential on x > 0: every other proposal from the wall would leave.
    logdensity = lambda x: jnp.where(x[0] > 0, -x[0], -jnp.inf)  # noqa: E731
    run = lambda key: mala(key, jnp.array([0.5]), logdensity, 500, step_size=0.5)[1]  # noqa: E731
    history = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 8))
    x = history.states.x[:, 100:]
    assert (x > 0).all()
    assert not history.infos.diverged.any()
    assert (history.diverged_at == -1).all()
    assert (history.infos.acceptance == 0).any()
    for power, truth in ((1, 1.0), (2, 2.0)):
        summary = diagnostics.summary(x**power)
        assert np.all(np.abs(summary.mean - truth) < 4 * summary.mcse)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_density_that_is_no_number_is_refused_and_reported(bad):
    logdensity = lambda x: jnp.where(x[0] > 0, -x[0], bad)  # noqa: E731
    _, history = mala(jax.random.key(0), jnp.array([0.1]), logdensity, 50, step_size=0.5)
    diverged = np.asarray(history.infos.diverged)
    assert diverged.any() and (np.asarray(history.states.x) > 0).all()
    assert int(history.diverged_at) == np.argmax(diverged)
    assert_array_equal(np.asarray(history.infos.acceptance)[diverged], 0.0)
    path = np.concatenate([[0.1], np.asarray(history.states.x)[:, 0]])
    assert_array_equal(path[1:][diverged], path[:-1][diverged])


def test_float32_stays_float32_and_shapes_are_free():
    logdensity = lambda x: -0.5 * jnp.sum(x * x)  # noqa: E731
    x = jnp.ones((2, 3), jnp.float32)
    state, history = mala(jax.random.key(0), x, logdensity, 4, thin=2, step_size=0.1, temperature=0.5)
    assert {leaf.dtype for leaf in state} == {jnp.dtype("float32")}
    assert history.infos.acceptance.dtype == jnp.float32
    assert state.x.shape == state.score.shape == (2, 3)


def test_bad_arguments_are_refused_by_name():
    key, x = jax.random.key(0), jnp.ones(2)
    logdensity = lambda x: -jnp.sum(x * x)  # noqa: E731
    step = partial(langevin.mala_step, key, langevin.mala_init(x, logdensity))
    for bad, message in (
        ({"step_size": 0.0}, r"step_size = 0.0"),
        ({"step_size": np.nan}, r"step_size = nan"),
        ({"step_size": 0.1, "temperature": 0.0}, r"temperature = 0.0"),
        ({"step_size": 0.1, "temperature": -1.0}, r"temperature = -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            step(logdensity, **bad)
    with pytest.raises(ValueError, match=r"logdensity\(x\) has shape \(2,\)"):
        step(lambda x: -x, step_size=0.1)
    with pytest.raises(ValueError, match=r"logdensity\(x\) has shape \(2,\)"):
        langevin.mala_init(x, lambda x: -x)
    with pytest.raises(ValueError, match=r"x\[0\] = nan"):
        langevin.mala_init(jnp.array([np.nan, 1.0]), logdensity)

"""BAOAB against its own linear algebra on Gaussians, velocity Verlet and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose, assert_array_equal

import dsm
from dsm import chains, diagnostics, underdamped


def stationary(h, friction, temperature, variance):
    """Covariance of (x, v) that a step on N(0, variance) leaves as it is: S = M S M' + N N'."""
    c = np.exp(-friction * h)
    B, A = np.array([[1, 0], [-h / 2 / variance, 1]]), np.array([[1, h / 2], [0, 1]])
    M = B @ A @ np.diag([1, c]) @ A @ B
    noise = B @ A @ np.array([0, np.sqrt((1 - c**2) * temperature)])
    return scipy.linalg.solve_discrete_lyapunov(M, np.outer(noise, noise))


@pytest.mark.parametrize(("h", "temperature"), [pytest.param(0.3, 1.0, marks=pytest.mark.slow), (1.2, 0.5)])
def test_positions_on_a_gaussian_are_exact_at_any_stable_step(h, temperature):
    variance, friction, num = 1.0, 1.3, 20_000
    S = stationary(h, friction, temperature, variance)
    # The exercise in linear algebra: no bias in x, x and v uncorrelated, v short by h^2 / 4 variance.
    assert_allclose(S, np.diag([temperature * variance, temperature * (1 - h**2 / 4 / variance)]), atol=1e-12)
    score = lambda x: -x / variance  # noqa: E731

    def chain(key):
        key_start, key_run = jax.random.split(key)
        state = underdamped.underdamped_init(key_start, jnp.ones(1), score, temperature=temperature)
        step = lambda key, s: underdamped.baoab_step(  # noqa: E731
            key, s, score, step_size=h, friction=friction, temperature=temperature
        )
        n = int(20 / h)
        return chains.run(key_run, step, state, n, thin=n)

    state, history = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), num))
    z = np.concatenate([np.asarray(state.x), np.asarray(state.v)], axis=1)
    products = np.einsum("ni,nj->nij", z, z)
    assert np.all(np.abs(products.mean(0) - S) < 4 * products.std(0) / np.sqrt(num))
    assert not history.infos.diverged.any()


@pytest.mark.slow
def test_moments_along_a_chain_within_the_errors_that_diagnostics_claims():
    target = dsm.gaussian([1.0, -2.0], [[2.0, 0.8], [0.8, 1.0]])

    def chain(key):
        key_start, key_x, key_run = jax.random.split(key, 3)
        state = underdamped.underdamped_init(key_start, target.sample(key_x, 1)[0], target.score)
        step = lambda key, s: underdamped.baoab_step(key, s, target.score, step_size=0.8)  # noqa: E731
        return chains.run(key_run, step, state, 2000)[1].states.x

    x = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 4))
    for draws, truth in ((x, [1.0, -2.0]), ((x - target.means[0][None, None]) ** 2, [2.0, 1.0])):
        summary = diagnostics.summary(draws)
        assert np.all(np.abs(summary.mean - np.asarray(truth)) < 4 * summary.mcse)
        assert np.all(np.asarray(summary.ess) > 500)


def energy_of_wells(x, v):
    return np.sum((x**2 - 1) ** 2) + 0.5 * np.sum(v**2)


def test_without_friction_and_heat_it_is_velocity_verlet():
    score = lambda x: -4 * x * (x * x - 1)  # noqa: E731
    errors = []
    for h, num in ((0.05, 100), (0.025, 200)):
        state = underdamped.underdamped_init(jax.random.key(0), jnp.array([0.3, 1.4]), score)
        x, v = np.array(state.x), np.array(state.v)
        start = energy_of_wells(x, v)
        step = lambda key, s, h=h: underdamped.baoab_step(key, s, score, step_size=h, friction=0.0, temperature=0.0)  # noqa: E731
        _, history = jax.jit(lambda s, step=step, num=num: chains.run(jax.random.key(1), step, s, num))(state)
        xs, energies = [], []
        for _ in range(num):
            half = v + 0.5 * h * score(x)
            x = x + h * half
            v = half + 0.5 * h * score(x)
            xs.append(x)
            energies.append(energy_of_wells(x, v))
        assert_allclose(history.states.x, xs, rtol=1e-9, atol=1e-9)
        mine = [energy_of_wells(*xv) for xv in zip(*map(np.asarray, history.states[:2]), strict=True)]
        assert_allclose(mine, energies, rtol=1e-9)
        errors.append(np.abs(np.array(mine) - start).max())
    # Of second order: half the step, a quarter of the error.
    assert 3 < errors[0] / errors[1] < 5


def test_weak_friction_keeps_its_noise_in_float32():
    # 1 - c^2 by subtraction would keep one digit of it or none.
    h, friction = 1e-3, 1e-4
    state = underdamped.UnderdampedState(*(jnp.zeros(4, jnp.float32),) * 3)
    new, _ = underdamped.baoab_step(jax.random.key(0), state, lambda x: 0.0 * x, step_size=h, friction=friction)
    eps = jax.random.normal(jax.random.key(0), (4,), jnp.float32)
    assert new.v.dtype == new.x.dtype == jnp.float32
    assert_allclose(new.v, np.sqrt(2 * friction * h) * np.asarray(eps), rtol=1e-5)


def test_a_step_that_would_not_be_finite_stays_at_rest_and_says_so():
    score = lambda x: jnp.where(x > 1.0, jnp.nan, -x)  # noqa: E731
    state = underdamped.UnderdampedState(jnp.array([0.5, 0.9]), jnp.array([0.0, 5.0]), jnp.array([-0.5, -0.9]))
    new, info = underdamped.baoab_step(jax.random.key(0), state, score, step_size=0.1, friction=0.0, temperature=0.0)
    assert info.diverged
    assert_array_equal(new.x, state.x)
    assert_array_equal(new.score, state.score)
    assert_array_equal(new.v, [0.0, 0.0])


def test_bad_arguments_are_refused_by_name():
    key, x, score = jax.random.key(0), jnp.ones(2), lambda x: -x
    state = underdamped.underdamped_init(key, x, score)
    for bad, message in (
        ({"step_size": 0.0}, r"step_size = 0.0"),
        ({"step_size": np.inf}, r"step_size = inf"),
        ({"step_size": 0.1, "friction": -1.0}, r"friction = -1.0"),
        ({"step_size": 0.1, "temperature": -1.0}, r"temperature = -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            underdamped.baoab_step(key, state, score, **bad)
    with pytest.raises(ValueError, match=r"score\(x\) has shape \(1,\)"):
        underdamped.baoab_step(key, state, lambda x: x[:1], step_size=0.1)
    with pytest.raises(ValueError, match=r"x\[1\] = nan"):
        underdamped.underdamped_init(key, jnp.array([0.0, np.nan]), score)
    with pytest.raises(ValueError, match=r"temperature = -2.0"):
        underdamped.underdamped_init(key, x, score, temperature=-2.0)

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dsm
from dsm import langevin


def standard_normal_score(x):
    return -x


def ula(score, **tuning):
    return partial(_ula, score=score, tuning=tuning)


def _ula(key, state, *, score, tuning):
    return langevin.ula_step(key, state, score, **tuning)


def sample(key, step, x, num_steps, thin=1):
    run = lambda key, x: langevin.run(key, step, langevin.init(x), num_steps, thin=thin)  # noqa: E731
    return jax.jit(jax.vmap(run))(jax.random.split(key, x.shape[0]), x)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_ula_has_the_biased_stationary_variance_of_theory(temperature):
    # On N(0, 1) the step is x' = (1 - h) x + sqrt(2 h T) eps: a Gaussian of variance T / (1 - h/2), not T.
    h, chains = 0.5, 20_000
    x0 = jax.random.normal(jax.random.key(0), (chains, 1))
    step = ula(standard_normal_score, step_size=h, temperature=temperature)
    state, history = sample(jax.random.key(1), step, x0, 40, thin=40)
    x = np.asarray(state.x)[:, 0]
    variance = temperature / (1 - h / 2)
    # Chains are independent: the standard error of a Gaussian variance is v sqrt(2 / n).
    assert abs(x.var() - variance) < 4 * variance * np.sqrt(2 / chains)
    assert stats.kstest(x / np.sqrt(variance), "norm").pvalue > 1e-3
    assert not history.infos.diverged.any()


@pytest.mark.slow
def test_ula_on_a_correlated_gaussian():
    # In the eigenbasis of C with eigenvalue c the stationary variance is c / (1 - h / 2c).
    covariance = np.array([[2.0, 0.8], [0.8, 1.0]])
    c, axes = np.linalg.eigh(covariance)
    h, chains = 0.2, 10_000
    expected = (axes * (c / (1 - h / (2 * c)))) @ axes.T
    target = dsm.gaussian([1.0, -1.0], covariance)
    state, _ = sample(
        jax.random.key(0), ula(target.score, step_size=h), target.sample(jax.random.key(1), chains), 100, thin=100
    )
    u = np.asarray(state.x) - np.array([1.0, -1.0])
    products = np.einsum("ni,nj->nij", u, u)
    assert np.all(np.abs(u.mean(0)) < 4 * u.std(0) / np.sqrt(chains))
    assert np.all(np.abs(products.mean(0) - expected) < 4 * products.std(0) / np.sqrt(chains))


def test_at_temperature_zero_it_is_gradient_ascent():
    target = dsm.eight_gaussians()
    x = jnp.array([0.7, -0.3])
    state, _ = langevin.ula_step(jax.random.key(0), langevin.init(x), target.score, step_size=0.01, temperature=0.0)
    np.testing.assert_array_equal(state.x, x + 0.01 * target.score(x))


def test_noise_enters_with_the_square_root_of_twice_the_step():
    x = jnp.zeros(3)
    steps = [
        langevin.ula_step(jax.random.key(0), langevin.init(x), lambda x: 0.0 * x, step_size=h, temperature=T)[0].x
        for h, T in ((0.1, 1.0), (0.4, 1.0), (0.1, 4.0))
    ]
    np.testing.assert_allclose(steps[1], 2 * steps[0], rtol=1e-14)
    np.testing.assert_allclose(steps[2], 2 * steps[0], rtol=1e-14)
    np.testing.assert_allclose(steps[0], np.sqrt(0.2) * jax.random.normal(jax.random.key(0), (3,)), rtol=1e-14)


def test_a_run_is_its_steps_with_the_keys_promised():
    step = ula(standard_normal_score, step_size=0.1)
    key, x = jax.random.key(3), jnp.array([[1.0, 2.0], [3.0, 4.0]])
    last, history = langevin.run(key, step, langevin.init(x), 6)
    state = langevin.init(x)
    for i in range(6):
        state, info = step(jax.random.fold_in(key, i), state)
        np.testing.assert_allclose(history.states.x[i], state.x, rtol=1e-13)
        assert history.infos.diverged[i] == info.diverged
    np.testing.assert_array_equal(history.states.x[-1], last.x)


def test_thinning_keeps_less_of_the_same_path():
    step, key, x = ula(standard_normal_score, step_size=0.1), jax.random.key(3), jnp.ones(2)
    last, full = langevin.run(key, step, langevin.init(x), 12)
    for thin in (3, 12):
        state, thinned = langevin.run(key, step, langevin.init(x), 12, thin=thin)
        np.testing.assert_array_equal(thinned.states.x, full.states.x[thin - 1 :: thin])
        np.testing.assert_array_equal(state.x, last.x)
        assert thinned.infos.diverged.shape == (12 // thin,)


def test_chains_run_together_as_each_alone():
    step, keys = ula(standard_normal_score, step_size=0.1), jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (3, 2))
    run = lambda key, x: langevin.run(key, step, langevin.init(x), 8, thin=2)  # noqa: E731
    together = jax.jit(jax.vmap(run))(keys, x)
    for i in range(3):
        chex.assert_trees_all_equal(jax.tree.map(lambda a, i=i: a[i], together), run(keys[i], x[i]))


def test_sample_is_the_end_of_chains_run_alone():
    x, key = jax.random.normal(jax.random.key(1), (3, 2)), jax.random.key(0)
    ends = langevin.sample(key, standard_normal_score, x, step_size=0.1, num_steps=5)
    for i, alone in enumerate(jax.random.split(key, 3)):
        state, _ = langevin.run(alone, ula(standard_normal_score, step_size=0.1), langevin.init(x[i]), 5)
        np.testing.assert_array_equal(ends[i], state.x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_would_not_be_finite_stays_and_says_so(bad):
    # Only one coordinate is bad, yet neither may move: half a step is no step.
    score = lambda x: jnp.where(x > 1.0, bad, -x)  # noqa: E731
    x = jnp.array([0.5, 2.0])
    state, info = langevin.ula_step(jax.random.key(0), langevin.init(x), score, step_size=0.1)
    np.testing.assert_array_equal(state.x, x)
    assert info.diverged


def test_divergence_anywhere_in_a_thinned_block_is_kept():
    # x' = x (1 + 10^200): finite once from 1, then beyond the range of float64.
    step = ula(lambda x: 1e200 * x, step_size=1.0, temperature=0.0)
    state, history = langevin.run(jax.random.key(0), step, langevin.init(jnp.ones(1)), 4, thin=2)
    np.testing.assert_array_equal(history.infos.diverged, [True, True])
    np.testing.assert_allclose(state.x, [1e200], rtol=1e-14)


def test_infos_of_a_block_are_averaged_and_flags_joined():
    def step(key, state):
        return state + 1, {"flag": state == 2, "number": state.astype(jnp.float64)}

    state, history = langevin.run(jax.random.key(0), step, jnp.zeros((), jnp.int32), 6, thin=3)
    assert state == 6
    np.testing.assert_array_equal(history.states, [3, 6])
    np.testing.assert_array_equal(history.infos["flag"], [True, False])
    np.testing.assert_allclose(history.infos["number"], [1.0, 4.0])


def test_float32_stays_float32():
    step = ula(standard_normal_score, step_size=0.1, temperature=0.5)
    state, history = langevin.run(jax.random.key(0), step, langevin.init(jnp.ones(2, jnp.float32)), 4, thin=2)
    assert state.x.dtype == history.states.x.dtype == jnp.float32


def test_bad_arguments_are_refused_by_name():
    state, score = langevin.init(jnp.ones(2)), standard_normal_score
    with pytest.raises(ValueError, match=r"step_size = 0.0"):
        langevin.ula_step(jax.random.key(0), state, score, step_size=0.0)
    with pytest.raises(ValueError, match=r"step_size = -1.0"):
        langevin.run(jax.random.key(0), ula(score, step_size=-1.0), state, 3)
    with pytest.raises(ValueError, match=r"temperature = -1.0"):
        langevin.ula_step(jax.random.key(0), state, score, step_size=0.1, temperature=-1.0)
    with pytest.raises(ValueError, match=r"num_steps = 0"):
        langevin.run(jax.random.key(0), ula(score, step_size=0.1), state, 0)
    for thin in (0, 3, 20):
        with pytest.raises(ValueError, match=f"thin = {thin} does not divide num_steps = 10"):
            langevin.run(jax.random.key(0), ula(score, step_size=0.1), state, 10, thin=thin)


def test_a_cold_run_is_gradient_ascent_to_the_bit():
    A = np.array([[2.0, 0.0], [0.0, 0.5]])
    score = lambda x: -jnp.stack([2.0 * x[0], 0.5 * x[1]])  # noqa: E731
    # Powers of two: every product is exact, so no order of operations can hide a difference.
    h, x = 0.125, np.array([1.0, -3.0])
    _, history = langevin.run(
        jax.random.key(0), ula(score, step_size=h, temperature=0.0), langevin.init(jnp.asarray(x)), 12
    )
    for kept in history.states.x:
        x = x - h * (A @ x)
        np.testing.assert_array_equal(kept, x)


def test_a_fixed_seed_fixes_the_bits_jitted_or_not_alone_or_among_many():
    target = dsm.double_wells(D=2)
    x = jax.random.normal(jax.random.key(1), (1000, 2))
    keys = jax.random.split(jax.random.key(0), 1000)
    run = lambda key, x: langevin.run(key, ula(target.score, step_size=0.05), langevin.init(x), 20, thin=20)[0].x  # noqa: E731
    many = jax.jit(jax.vmap(run))
    together = many(keys, x)
    np.testing.assert_array_equal(together, many(keys, x))
    np.testing.assert_array_equal(together[7], run(keys[7], x[7]))
    np.testing.assert_array_equal(together[7], jax.jit(run)(keys[7], x[7]))
    for num in (1, 16, 64):
        np.testing.assert_array_equal(together[:num], many(keys[:num], x[:num]))


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_start_that_is_not_finite_is_refused_by_name(bad):
    x = jnp.array([[0.0, 1.0], [bad, 2.0]])
    with pytest.raises(ValueError, match=rf"x\[1, 0\] = {bad}"):
        langevin.init(x)
    with pytest.raises(ValueError, match=rf"x\[1, 0\] = {bad}"):
        langevin.sample(jax.random.key(0), standard_normal_score, x, step_size=0.1, num_steps=2)


def test_a_score_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"score\(x\) has shape \(1,\) for x of shape \(2,\)"):
        langevin.ula_step(jax.random.key(0), langevin.init(jnp.ones(2)), lambda x: x[:1], step_size=0.1)

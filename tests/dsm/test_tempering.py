"""Parallel tempering: who trades with whom, how often, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dsm
from dsm import chains, diagnostics, tempering

LADDER = jnp.array([1.0, 2.5, 6.0, 15.0])


def wells(x):
    return -jnp.sum((x * x - 4.0) ** 2)


def test_trades_are_of_neighbours_with_the_probability_of_geyer():
    # A step so small that nobody moves on its own: what changes is who stands where.
    x = jnp.array([[0.5], [1.9], [1.0], [2.2]])
    state = tempering.tempering_init(x, wells)
    step = lambda key: tempering.tempering_step(key, state, wells, temperatures=LADDER, step_size=1e-300)  # noqa: E731
    num = 4000
    new, info = jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(0), num))
    assert_array_equal(info.acceptance.shape, (num, 3))
    T, energy = np.asarray(LADDER), np.asarray(jax.vmap(wells)(x))
    expected = np.minimum(1, np.exp((1 / T[1:] - 1 / T[:-1]) * (energy[:-1] - energy[1:])))
    acceptance = np.asarray(info.acceptance)
    even = acceptance[:, 1] == 0
    assert_allclose(acceptance, np.where(even[:, None], [1, 0, 1], [0, 1, 0]) * expected[None], rtol=1e-12)
    assert abs(even.mean() - 0.5) < 4 * 0.5 / np.sqrt(num)
    # Positions are a permutation of those before, made of trades between neighbours whose turn it was.
    places = np.argmin(np.abs(np.asarray(new.x)[:, :, 0][:, :, None] - np.asarray(x)[None, None, :, 0]), axis=2)
    assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(4), (num, 1)))
    traded = places[:, :-1] == np.arange(1, 4)
    assert_array_equal(traded, places[:, 1:] == np.arange(3))
    assert not traded[acceptance == 0].any()
    p = acceptance.mean(0)
    assert np.all(np.abs(traded.mean(0) - p) < 4 * np.sqrt((acceptance * (1 - acceptance)).sum(0)) / num + 1e-12)
    # Densities and scores travel with their positions.
    assert_allclose(new.logdensity, np.asarray(state.logdensity)[places], rtol=1e-12)
    assert_allclose(np.asarray(new.score)[:, :, 0], np.asarray(state.score)[:, 0][places], rtol=1e-12)


@pytest.mark.slow
def test_replicas_sample_their_own_temperatures():
    # N(0, 1)^(1/T) = N(0, T), trades or not.
    temperatures = jnp.array([1.0, 2.0, 4.0])
    logdensity = lambda x: -0.5 * jnp.sum(x * x)  # noqa: E731

    def chain(key):
        step = lambda key, s: tempering.tempering_step(  # noqa: E731
            key, s, logdensity, temperatures=temperatures, step_size=jnp.array([0.5, 0.4, 0.6])
        )
        state = tempering.tempering_init(jnp.sqrt(temperatures)[:, None], logdensity)
        return chains.run(key, step, state, 2000)[1].states.x[200:]

    x = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 8))[..., 0]
    for power, truth in ((1, np.zeros(3)), (2, np.asarray(temperatures))):
        summary = diagnostics.summary(x**power)
        assert np.all(np.abs(summary.mean - truth) < 4 * summary.mcse)


@pytest.mark.slow
def test_the_cold_replica_weighs_modes_that_are_far_apart():
    target = dsm.two_modes()
    # Neighbours differ by about the square root of the dimension in energy: a ratio of 2 trades often.
    temperatures = jnp.geomspace(1.0, 32.0, 6)

    def chain(key):
        step = lambda key, s: tempering.tempering_step(  # noqa: E731
            key, s, target.logdensity, temperatures=temperatures, step_size=0.7
        )
        state = tempering.tempering_init(jnp.full((6, 2), -5.0), target.logdensity)
        return chains.run(key, step, state, 8000)[1].states.x[1000:, 0]

    x = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 8))
    heavy = (x.sum(-1) > 0).astype(x.dtype)
    summary = diagnostics.summary(heavy)
    assert summary.ess > 200
    assert abs(summary.mean - 0.8) < 4 * summary.mcse


def test_it_says_where_it_diverged_and_in_which_replica():
    logdensity = lambda x: jnp.where(x[0] < 3.0, -0.5 * x[0] ** 2, jnp.nan)  # noqa: E731
    state = tempering.tempering_init(jnp.zeros((2, 1)), logdensity)
    step = lambda key, s: tempering.tempering_step(  # noqa: E731
        key, s, logdensity, temperatures=jnp.array([1e-6, 100.0]), step_size=0.5
    )
    _, history = jax.jit(lambda state: chains.run(jax.random.key(0), step, state, 20))(state)
    assert not history.infos.moves.diverged[:, 0].any()
    assert history.infos.moves.diverged[:, 1].any()
    assert_array_equal(history.infos.diverged, history.infos.moves.diverged.any(1))
    assert int(history.diverged_at) == np.argmax(history.infos.diverged)
    assert (history.states.x < 3).all()


def test_float32_stays_float32():
    state = jax.eval_shape(lambda: tempering.tempering_init(jnp.ones((4, 2), jnp.float32), wells))
    ladder = LADDER.astype(jnp.float32)
    step = lambda key, state: tempering.tempering_step(key, state, wells, temperatures=ladder, step_size=0.1)  # noqa: E731
    new, info = jax.eval_shape(step, jax.random.key(0), state)
    assert {leaf.dtype for leaf in new} == {info.acceptance.dtype} == {jnp.dtype("float32")}


def test_bad_arguments_are_refused_by_name():
    state = tempering.tempering_init(jnp.ones((4, 1)), wells)
    for bad, message in (
        ({"temperatures": LADDER[:3], "step_size": 0.1}, r"temperatures has shape \(3,\), but there are 4"),
        ({"temperatures": LADDER[::-1], "step_size": 0.1}, r"temperatures = .*ascending"),
        ({"temperatures": LADDER.at[0].set(0.0), "step_size": 0.1}, r"temperatures = .*positive"),
        ({"temperatures": LADDER.at[3].set(np.nan), "step_size": 0.1}, r"temperatures = .*"),
        ({"temperatures": LADDER, "step_size": 0.0}, r"step_size = 0.0"),
        ({"temperatures": LADDER, "step_size": jnp.array([0.1, 0.1, -0.1, 0.1])}, r"step_size = "),
    ):
        with pytest.raises(ValueError, match=message):
            tempering.tempering_step(jax.random.key(0), state, wells, **bad)
    with pytest.raises(ValueError, match=r"x has shape \(1, 2\)"):
        tempering.tempering_init(jnp.ones((1, 2)), wells)
    with pytest.raises(ValueError, match=r"x\[1, 0\] = nan"):
        tempering.tempering_init(jnp.array([[0.0], [np.nan]]), wells)
    with pytest.raises(ValueError, match=r"logdensity\(x\) has shape \(1,\)"):
        tempering.tempering_init(jnp.ones((2, 1)), lambda x: -x)

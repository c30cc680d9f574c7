from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsm import contrastive, persistent
from dsm.boxes import box
from dsm.persistent import ReplayBuffer

KEY = jax.random.key(0)


def energy(params, x):
    return 0.5 * jnp.exp(params) * jnp.sum(x**2)


def far(key, num):
    """Noise that cannot be taken for anything else."""
    return 100 + jax.random.uniform(key, (num, 2))


def settings(**changes):
    move = {"num_chains": 8, "num_steps": 3, "step_size": 0.1, "noise": None, "restart": 0.0, **changes}
    return {
        "energy": energy,
        "move": partial(persistent.advance, **move),
        "optimizer": optax.adam(0.05),
        "batch_size": 6,
    }


DATA = jnp.asarray(np.random.default_rng(0).normal(size=(30, 2)))
CHAINS = jnp.asarray(np.random.default_rng(1).normal(size=(12, 2)))


def fresh(options, dtype=jnp.float64):
    return persistent.init(jnp.zeros((), dtype), options["optimizer"], CHAINS.astype(dtype))


# Without noise in the chains, k steps on x^2 / 2 multiply by (1 - h)^k: what happened to each row can be read off it.
FACTOR = 0.9**3
ADVANCE = jax.jit(
    partial(persistent.advance, num_steps=3, step_size=0.1, temperature=0.0, noise=far),
    static_argnames=("energy", "num_chains"),
)
NORMAL = partial(energy, 0.0)


@pytest.mark.parametrize("restart", [0.0, 0.3, 1.0])
def test_the_books_of_the_buffer_are_kept(restart):
    buffer, n, restarted, moved = ReplayBuffer(CHAINS), 5, [], np.zeros(12)
    for i in range(60):
        after, x_negative, diverged = ADVANCE(jax.random.fold_in(KEY, i), NORMAL, buffer, num_chains=n, restart=restart)
        before, x = np.asarray(buffer.x), np.asarray(after.x)
        rows = np.flatnonzero(np.any(x != before, axis=1))
        # Different rows each time, exactly n; the rest keep their bits, and the negatives are the rows that moved.
        assert len(rows) == n and x_negative.shape == (n, 2) and not diverged.any()
        assert sorted(map(tuple, np.asarray(x_negative))) == sorted(map(tuple, x[rows]))
        went_on = np.all(np.isclose(x[rows], FACTOR * before[rows], rtol=1e-12, atol=0), axis=1)
        from_noise = np.all((x[rows] >= FACTOR * 100) & (x[rows] <= FACTOR * 101), axis=1)
        assert np.all(went_on ^ from_noise)
        restarted.append(from_noise.sum())
        moved[rows] += 1
        # Back to where it was, so that no chain shrinks to 0.
        buffer = ReplayBuffer(CHAINS)
    total = 60 * n
    assert abs(sum(restarted) - restart * total) <= 4 * np.sqrt(restart * (1 - restart) * total)
    # Each chain restarts by itself, not all or none.
    assert restart in (0.0, 1.0) or any(0 < count < n for count in restarted)
    # Every row has its turn as often as every other: 25 +- sqrt(60 p (1 - p)).
    assert np.all(np.abs(moved - 25) < 4 * np.sqrt(60 * 5 / 12 * 7 / 12))


def test_the_whole_buffer_can_move():
    buffer, x_negative, _ = ADVANCE(KEY, NORMAL, ReplayBuffer(CHAINS), num_chains=12, restart=0.0)
    np.testing.assert_allclose(buffer.x, FACTOR * CHAINS, rtol=1e-12)
    assert x_negative.shape == (12, 2)


def test_a_chain_that_diverges_is_put_back_and_counted():
    unbounded = lambda params, x: -jnp.sum(x**4) + params  # noqa: E731
    chains = jnp.where(jnp.arange(12)[:, None] < 3, 5.0, jnp.zeros((12, 2)))
    options = {**settings(num_chains=12, num_steps=30, temperature=0.0), "energy": unbounded}
    step = jax.jit(partial(persistent.step, **options))
    state, info = step(KEY, persistent.init(jnp.zeros(()), options["optimizer"], chains), DATA)
    np.testing.assert_allclose(info.diverged, 3 / 12)
    np.testing.assert_array_equal(state.buffer.x, chains)
    np.testing.assert_allclose(info.energy_negatives, -3 * 2 * 5.0**4 / 12)


def test_the_loss_is_the_contrast_of_a_minibatch_with_the_chains_that_moved():
    options = {**settings(), "batch_size": None, "l2": 0.1}
    state, info = jax.jit(partial(persistent.step, **options))(KEY, fresh(options), DATA)
    rows = np.flatnonzero(np.any(np.asarray(state.buffer.x != CHAINS), axis=1))
    x_negative = state.buffer.x[rows]
    expected = contrastive.contrast(NORMAL, DATA, x_negative, l2=0.1)
    np.testing.assert_allclose(info.training.loss, expected, rtol=1e-12)
    np.testing.assert_allclose(info.energy_negatives, np.mean(np.sum(np.square(x_negative), 1)) / 2, rtol=1e-12)
    assert len(rows) == 8 and info.diverged == 0 and state.training.step == 1


def test_a_run_in_chunks_has_the_bits_of_the_whole():
    options = settings(noise=far, restart=0.2)
    whole, infos = persistent.fit(KEY, fresh(options), DATA, num_steps=8, **options)
    half, first = persistent.fit(KEY, fresh(options), DATA, num_steps=4, **options)
    resumed, second = persistent.fit(KEY, half, DATA, num_steps=4, **options)
    chex.assert_trees_all_equal(resumed, whole)
    chex.assert_trees_all_equal(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second), infos)
    assert whole.training.step == 8 and infos.diverged.shape == infos.training.loss.shape == (8,)
    state, step = fresh(options), jax.jit(partial(persistent.step, **options))
    for i in range(3):
        state, info = step(jax.random.fold_in(KEY, i), state, DATA)
        np.testing.assert_allclose(info.training.loss, infos.training.loss[i], rtol=1e-10)


@pytest.mark.slow
def test_under_fixed_parameters_the_chains_reach_the_variance_of_their_dynamics():
    # Unadjusted Langevin chains on x^2 / 2 rest at 1 / (1 - h / 2); half of 4000 chains move at each step.
    h, size = 0.4, 4000
    options = {**settings(num_chains=size // 2, num_steps=5, step_size=h), "optimizer": optax.sgd(0.0)}
    state = persistent.init(jnp.zeros(()), options["optimizer"], jnp.full((size, 2), 3.0))
    state, infos = persistent.fit(KEY, state, DATA, num_steps=40, **options)
    variance = 1 / (1 - h / 2)
    x = np.asarray(state.buffer.x)
    assert abs(x.mean()) < 4 * np.sqrt(variance / x.size)
    assert abs(x.var() - variance) < 4 * variance * np.sqrt(2 / x.size)
    # The mean energy of 2000 chains of two coordinates is then that variance, and its scatter the same.
    assert abs(infos.energy_negatives[-1] - variance) < 4 * variance / np.sqrt(size // 2)
    assert infos.diverged.max() == 0


@pytest.mark.slow
def test_training_recovers_the_precision_of_a_gaussian():
    # At rest the chains have the variance of the data: a v (1 - a h / 2) = 1.
    v, h = 0.5, 0.05
    z = np.random.default_rng(0).normal(size=(1000, 1))
    data = jnp.asarray(np.sqrt(v) * (z - z.mean()) / z.std(), jnp.float32)
    options = {
        **settings(
            num_chains=500,
            num_steps=5,
            step_size=h,
            noise=lambda key, num: jax.random.normal(key, (num, 1), jnp.float32),
            restart=0.01,
        ),
        "optimizer": optax.adam(optax.cosine_decay_schedule(0.05, 400)),
        "batch_size": None,
    }
    chains = jax.random.normal(KEY, (2000, 1), jnp.float32)
    state, infos = persistent.fit(
        KEY, persistent.init(jnp.zeros((), jnp.float32), options["optimizer"], chains), data, num_steps=400, **options
    )
    assert {a.dtype for a in jax.tree.leaves((state.buffer, state.training.params, infos))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(np.exp(state.training.params), (1 - np.sqrt(1 - 2 * h / v)) / h, rtol=0.05)
    assert abs(infos.training.loss[-100:].mean()) < 0.02


def test_a_box_keeps_the_chains():
    options = {**settings(num_chains=12, step_size=1.0, box=box(-0.5, 0.5)), "batch_size": None}
    state, _ = persistent.fit(KEY, fresh(options), DATA, num_steps=2, **options)
    assert jnp.abs(state.buffer.x).max() <= 0.5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_chains": 0}, r"num_chains = 0: the buffer has 12 chains"),
        ({"num_chains": 13}, r"num_chains = 13: the buffer has 12 chains"),
        ({"num_steps": 0}, r"num_steps = 0"),
        ({"step_size": 0.0}, r"step_size = 0.0"),
        ({"temperature": -1.0}, r"temperature = -1.0"),
        ({"noise": far, "restart": 1.1}, r"restart = 1.1"),
        ({"noise": far, "restart": float("nan")}, r"restart = nan"),
        ({"restart": 0.1}, r"restart = 0.1: noise is missing"),
        ({"noise": lambda key, num: jnp.ones((num, 3))}, r"noise draws float64\[8, 3\].*float64\[8, 2\]"),
        ({"noise": lambda key, num: jnp.ones((num, 2), jnp.float32)}, r"noise draws float32\[8, 2\]"),
    ],
)
def test_bad_moves_are_refused_by_name(changes, message):
    options = settings(**changes)
    with pytest.raises(ValueError, match=message):
        persistent.fit(KEY, fresh(options), DATA, num_steps=1, **options)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_steps": 0}, r"num_steps = 0"),
        ({"batch_size": 0}, r"batch_size = 0"),
        ({"l2": -1.0}, r"l2 = -1.0"),
        ({"ema_decay": 1.0}, r"ema_decay = 1.0"),
    ],
)
def test_bad_training_is_refused_by_name(changes, message):
    options = settings()
    with pytest.raises(ValueError, match=message):
        persistent.fit(KEY, fresh(options), DATA, **{**options, "num_steps": 1, **changes})


def test_chains_that_do_not_start_at_finite_points_are_refused():
    with pytest.raises(ValueError, match=r"x\[1, 0\] = nan"):
        persistent.init(jnp.zeros(()), optax.sgd(0.1), jnp.array([[0.0], [jnp.nan]]))

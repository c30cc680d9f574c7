import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import dsm
from dsm import training

DATA = jnp.asarray(np.random.default_rng(0).normal(size=(40, 2)))


def noisy_distance(key, params, x):
    """A loss for one example that uses all of its arguments."""
    return jnp.sum((x + 0.1 * jax.random.normal(key, x.shape, x.dtype) - params["m"]) ** 2)


SETTINGS = {
    "batch_loss": training.per_example(noisy_distance),
    "optimizer": optax.adam(0.1),
    "batch_size": 8,
    "ema_decay": 0.9,
}


def fresh(dtype=jnp.float64):
    return training.init({"m": jnp.zeros(2, dtype)}, SETTINGS["optimizer"])


def test_a_run_in_chunks_has_the_bits_of_the_whole():
    key = jax.random.key(0)
    whole, infos = training.fit(key, fresh(), DATA, num_steps=20, **SETTINGS)
    half, first = training.fit(key, fresh(), DATA, num_steps=10, **SETTINGS)
    resumed, second = training.fit(key, half, DATA, num_steps=10, **SETTINGS)
    chex.assert_trees_all_equal(resumed, whole)
    np.testing.assert_array_equal(np.concatenate([first.loss, second.loss]), infos.loss)
    assert whole.step == 20 and infos.loss.shape == infos.grad_norm.shape == (20,)


def test_fit_is_its_steps_with_the_keys_promised():
    key, state = jax.random.key(0), fresh()
    expected, infos = training.fit(key, state, DATA, num_steps=3, **SETTINGS)
    for i in range(3):
        state, info = training.step(jax.random.fold_in(key, i), state, DATA, **SETTINGS)
        np.testing.assert_allclose(info.loss, infos.loss[i], rtol=1e-13)
    chex.assert_trees_all_close(state, expected, rtol=1e-12)


def test_gradient_descent_and_the_average_against_numpy():
    # Full batch, quadratic loss 1/n sum_i |x_i - m|^2: the gradient is 2 (m - mean).
    rate, decay, steps = 0.1, 0.6, 30
    optimizer = optax.sgd(rate)
    state = training.init({"m": jnp.ones(2)}, optimizer)
    state, infos = training.fit(
        jax.random.key(0),
        state,
        DATA,
        batch_loss=lambda key, params, batch: jnp.mean(jnp.sum((batch - params["m"][None, :]) ** 2, axis=1)),
        optimizer=optimizer,
        batch_size=None,
        num_steps=steps,
        ema_decay=decay,
    )
    x = np.asarray(DATA)
    m = ema = np.ones(2)
    for i in range(steps):
        gradient = 2 * (m - x.mean(0))
        np.testing.assert_allclose(infos.loss[i], np.mean(np.sum((x - m) ** 2, 1)), rtol=1e-12)
        np.testing.assert_allclose(infos.grad_norm[i], np.linalg.norm(gradient), rtol=1e-12)
        m = m - rate * gradient
        d = min(decay, (1 + i) / (10 + i))
        ema = d * ema + (1 - d) * m
    np.testing.assert_allclose(state.params["m"], m, rtol=1e-12)
    # The decay is computed in float32.
    np.testing.assert_allclose(state.ema["m"], ema, rtol=1e-6)


def test_without_decay_the_average_is_the_last_parameters():
    settings = {**SETTINGS, "ema_decay": 0.0}
    state, _ = training.fit(jax.random.key(0), fresh(), DATA, num_steps=5, **settings)
    chex.assert_trees_all_equal(state.ema, state.params)


def test_minibatches_are_uniform_over_the_data():
    # The loss of a batch reports its mean of x; over many steps that is the mean of the data.
    batch_size, steps = 16, 2000
    data = jnp.arange(10.0) ** 2
    optimizer = optax.sgd(0.0)
    _, infos = training.fit(
        jax.random.key(0),
        training.init(jnp.zeros(()), optimizer),
        data,
        batch_loss=lambda key, params, batch: jnp.mean(batch) + params,
        optimizer=optimizer,
        batch_size=batch_size,
        num_steps=steps,
    )
    x = np.asarray(data)
    # With replacement: the variance of a batch mean is that of the data over the batch size.
    assert abs(np.mean(infos.loss) - x.mean()) < 4 * x.std() / np.sqrt(batch_size * steps)
    variance = x.var() / batch_size
    assert abs(np.var(infos.loss) - variance) < 4 * variance * np.sqrt(2 / steps)


def test_every_example_of_a_batch_has_its_own_key():
    loss = training.per_example(lambda key, params, x: jax.random.uniform(key, (), x.dtype) ** 2)
    # One key for all would give the square of one uniform; n keys give their mean, 1/3 +- 0.3 / sqrt(n).
    assert abs(loss(jax.random.key(0), None, jnp.zeros(4000)) - 1 / 3) < 4 * 0.3 / np.sqrt(4000)


def test_fit_compiles_once():
    chex.clear_trace_counter()
    loss = chex.assert_max_traces(noisy_distance, n=1)
    # A new lifting, new data, a new state, another decay: nothing of that is a reason to compile again.
    for i in range(3):
        settings = {**SETTINGS, "batch_loss": training.per_example(loss), "ema_decay": 0.5 + 0.1 * i}
        state, _ = training.fit(jax.random.key(i), fresh(), DATA + i, num_steps=4, **settings)
        training.fit(jax.random.key(i), state, DATA, num_steps=4, **settings)


@pytest.mark.slow
def test_a_ring_of_gaussians_is_learned_to_near_the_floor():
    target, sigma = dsm.eight_gaussians(), 0.5
    data = target.sample(jax.random.key(0), 20_000).astype(jnp.float32)
    net = dsm.EnergyMLP(widths=(64, 64))
    energy_score = lambda params: dsm.score_of(lambda x: net.apply(params, x))  # noqa: E731

    def loss(key, params, x):
        return dsm.denoising(key, energy_score(params), x, sigma)

    steps = 1000
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    state = training.init(net.init(jax.random.key(1), data[0]), optimizer)
    state, infos = training.fit(
        jax.random.key(2),
        state,
        data,
        batch_loss=training.per_example(loss),
        optimizer=optimizer,
        batch_size=128,
        num_steps=steps,
        ema_decay=0.99,
    )
    assert {a.dtype for a in jax.tree.leaves((state.params, state.ema, infos))} == {jnp.dtype(jnp.float32)}
    # What is left above the floor of equation (2) is the Fisher divergence from the smoothed target, here with the
    # exact score of the smoothed target; a model that learns nothing (s = 0) leaves E 1/2 |s*|^2.
    smoothed = jax.tree.map(lambda a: a.astype(jnp.float32), target.smooth(sigma))
    x_tilde = smoothed.sample(jax.random.key(3), 4000)
    excess = lambda score: dsm.metrics.fisher_divergence(score, smoothed.score, x_tilde)  # noqa: E731
    assert excess(energy_score(state.ema)) < 0.03 * excess(jnp.zeros_like)
    # And the loss itself went down to the floor, the loss of the exact score, within its own scatter.
    exact = training.per_example(lambda key, _, x: dsm.denoising(key, smoothed.score, x, sigma))
    floor = jax.jit(exact)(jax.random.key(4), None, data)
    assert infos.loss[0] > 1.1 * floor
    assert abs(infos.loss[-200:].mean() / floor - 1) < 0.03


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adamw(0.1), optax.adam(optax.constant_schedule(0.1))])
def test_float32_stays_float32(optimizer):
    settings = {**SETTINGS, "optimizer": optimizer}
    state = training.init({"m": jnp.zeros(2, jnp.float32)}, optimizer)
    state, infos = training.fit(jax.random.key(0), state, DATA.astype(jnp.float32), num_steps=3, **settings)
    assert state.params["m"].dtype == state.ema["m"].dtype == infos.loss.dtype == jnp.float32
    assert infos.grad_norm.dtype == jnp.float32 and state.step.dtype == jnp.int32


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_steps": 0}, r"num_steps = 0"),
        ({"batch_size": 0}, r"batch_size = 0"),
        ({"ema_decay": 1.0}, r"ema_decay = 1.0"),
        ({"ema_decay": -0.1}, r"ema_decay = -0.1"),
        ({"ema_decay": float("nan")}, r"ema_decay = nan"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        training.fit(jax.random.key(0), fresh(), DATA, **{**SETTINGS, "num_steps": 1, **changes})


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="data has no examples"):
        training.step(jax.random.key(0), fresh(), DATA[:0], **SETTINGS)


@pytest.mark.parametrize("num", [3, 8, 11])
def test_a_gradient_by_tiles_is_the_gradient(num):
    # 8 are two whole tiles, 11 leave a rest, 3 are less than one.
    loss = lambda key, params, x: jnp.sum((params["a"] * x + jax.random.normal(key) - params["b"]) ** 2)  # noqa: E731
    params, batch = {"a": jnp.array(0.7), "b": jnp.array([0.1, -0.3])}, jnp.arange(2.0 * num).reshape(num, 2)
    batch_loss = training.per_example(loss, tile=4)
    tiled = jax.jit(batch_loss.value_and_grad)(jax.random.key(0), params, batch)
    plain = jax.jit(jax.value_and_grad(batch_loss, argnums=1))(jax.random.key(0), params, batch)
    chex.assert_trees_all_close(tiled, plain, rtol=1e-13)


def test_devices_share_a_batch():
    # 24 examples on 4 devices are 6 each: a tile of 4 and a rest. `make_mesh` gives axes that are explicit in types.
    mesh = jax.make_mesh((2, 2), ("hosts", "cores"))
    shared = {**SETTINGS, "batch_loss": training.per_example(noisy_distance, tile=4, mesh=mesh), "batch_size": 24}
    alone = {**SETTINGS, "batch_size": 24}
    found, info = training.fit(jax.random.key(0), fresh(), DATA, **shared, num_steps=20)
    chex.assert_trees_all_close((found, info), training.fit(jax.random.key(0), fresh(), DATA, **alone, num_steps=20))
    assert found.params["m"].sharding.is_fully_replicated and len(found.params["m"].sharding.device_set) == 4
    # What came from the mesh goes on where it is.
    again, _ = training.fit(jax.random.key(0), found, DATA, **shared, num_steps=20)
    assert again.step == 40
    with pytest.raises(ValueError, match="a batch of 8 examples cannot be shared out evenly to 3 devices"):
        loss = training.per_example(noisy_distance, mesh=Mesh(jax.devices()[:3], ("cores",)))
        training.step(jax.random.key(0), fresh(), DATA, **{**SETTINGS, "batch_loss": loss})


def test_two_liftings_of_one_loss_are_one():
    loss = lambda key, params, x: jnp.sum(params * x)  # noqa: E731
    assert training.per_example(loss) == training.per_example(loss)
    assert hash(training.per_example(loss)) == hash(training.per_example(loss))


def test_data_that_are_not_numbers_are_refused_by_place():
    optimizer = optax.sgd(0.1)
    state = training.init(jnp.zeros(2), optimizer)
    data = jnp.ones((4, 2)).at[2, 1].set(jnp.nan)
    with pytest.raises(ValueError, match=r"data\[2, 1\] = nan"):
        training.fit(
            jax.random.key(0),
            state,
            data,
            batch_loss=training.per_example(lambda key, params, x: jnp.sum(params * x)),
            optimizer=optimizer,
            batch_size=2,
            num_steps=3,
        )
    with pytest.raises(ValueError, match="tile = 0"):
        training.per_example(lambda key, params, x: x[0], tile=0)


def test_a_loss_that_is_not_a_scalar_is_refused():
    loss = training.per_example(lambda key, params, x: (x - params["m"]) ** 2)
    with pytest.raises(ValueError, match=r"loss\(key, params, x\) has shape \(2,\): it must be a scalar"):
        training.step(jax.random.key(0), fresh(), DATA, **{**SETTINGS, "batch_loss": loss})

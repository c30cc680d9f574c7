from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsm
from dsm import contrastive, langevin, training
from dsm.boxes import box

PRECISION, STEP, NUM = 1.6, 0.3, 40_000


def gaussian_energy(precision, x):
    return 0.5 * precision * jnp.sum(x**2)


def quartic_well(x):
    """Unbounded below: a chain that gets over the rim is at -inf in a few steps."""
    return jnp.sum(0.5 * x**2 - 0.1 * x**4)


@partial(jax.jit, static_argnames="num_steps")
def gradient(precision, key, x, num_steps):
    loss = lambda a: contrastive.contrastive_divergence(  # noqa: E731
        key, partial(gaussian_energy, a), x, num_steps=num_steps, step_size=STEP
    )
    return jax.grad(loss)(precision)


@pytest.mark.parametrize("num_steps", [1, 5, pytest.param(60, marks=pytest.mark.slow)])
def test_the_gradient_on_a_gaussian_is_that_of_the_variances(num_steps):
    # Langevin steps on a x^2 / 2 take variance v to (1 - a h)^2 v + 2 h, and E_a = x^2 / 2.
    v = 0.4
    x = np.sqrt(v) * jax.random.normal(jax.random.key(0), (NUM, 1))
    got = gradient(PRECISION, jax.random.key(1), x, num_steps)
    v_k, correlation = v, 1.0
    for _ in range(num_steps):
        v_k = (1 - PRECISION * STEP) ** 2 * v_k + 2 * STEP
        correlation *= 1 - PRECISION * STEP
    # Var[x^2 - y^2] of a Gaussian pair with covariance c = correlation v: 2 v^2 + 2 v_k^2 - 4 c^2.
    standard_error = 0.5 * np.sqrt((2 * v**2 + 2 * v_k**2 - 4 * (correlation * v) ** 2) / NUM)
    assert abs(got - (v - v_k) / 2) < 4 * standard_error < 0.015
    if num_steps == 60:
        # That of maximum likelihood, (v - 1/a) / 2, but for the bias of the chains, whose variance is too large.
        stationary = 1 / PRECISION / (1 - PRECISION * STEP / 2)
        np.testing.assert_allclose(v_k, stationary, rtol=1e-12)
        assert abs(got - (v - stationary) / 2) < 4 * standard_error


def test_the_gradient_is_that_of_data_against_fixed_negatives():
    # The chains depend on the parameters too, but their gradient is not followed.
    x, key = jax.random.normal(jax.random.key(0), (50, 2)), jax.random.key(1)
    got = gradient(PRECISION, key, x, 5)
    x_negative, diverged = contrastive.negatives(
        key, partial(gaussian_energy, PRECISION), x, num_steps=5, step_size=STEP
    )
    assert not diverged.any()
    expected = 0.5 * (np.sum(np.square(x)) - np.sum(np.square(x_negative))) / 50
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_without_l2_the_gradient_of_contrast_on_model_samples_is_that_of_the_likelihood():
    # Negatives spread like the model, by quadrature: E_data[grad E] - E_model[grad E] is the slope of -log p.
    grid = dsm.quadrature_grid(-9.0, 9.0, 80)
    data = jnp.array([[0.3], [-1.2], [0.8]])
    nodes = jax.random.normal(jax.random.key(0), (NUM, 1)) / np.sqrt(PRECISION)
    loss = lambda a: contrastive.contrast(partial(gaussian_energy, a), data, nodes)  # noqa: E731
    likelihood = lambda a: dsm.negative_log_likelihood(partial(gaussian_energy, a), data, grid)  # noqa: E731
    standard_error = 0.5 * np.sqrt(2 / NUM) / PRECISION
    slope, expected = jax.jit(lambda a: (jax.grad(loss)(a), jax.grad(likelihood)(a)))(PRECISION)
    assert abs(slope - expected) < 4 * standard_error


def test_no_gradient_flows_through_negatives_wherever_they_come_from():
    x = jnp.ones((2, 1))
    ends = lambda a: jnp.sum(  # noqa: E731
        contrastive.negatives(jax.random.key(0), partial(gaussian_energy, a), x, num_steps=2, step_size=STEP)[0]
    )
    assert jax.jit(jax.grad(ends))(PRECISION) == 0
    own = lambda a: contrastive.contrast(partial(gaussian_energy, a), x, a * x)  # noqa: E731
    np.testing.assert_allclose(jax.grad(own)(PRECISION), 0.5 - 0.5 * PRECISION**2, rtol=1e-13)


def test_contrast_against_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 2, 2)), rng.normal(size=(5, 2, 2))
    loss = contrastive.contrast(lambda x: jnp.sum(x**2), jnp.asarray(x), jnp.asarray(y), l2=0.1)
    e_x, e_y = (np.sum(a**2, axis=(1, 2)) for a in (x, y))
    np.testing.assert_allclose(loss, e_x.mean() - e_y.mean() + 0.1 * ((e_x**2).mean() + (e_y**2).mean()), rtol=1e-13)


def test_negatives_are_chains_that_run_alone():
    x, key = jax.random.normal(jax.random.key(0), (3, 2)), jax.random.key(1)
    energy = partial(gaussian_energy, PRECISION)
    got, _ = contrastive.negatives(key, energy, x, num_steps=4, step_size=STEP, temperature=0.5)
    step = lambda key, state: langevin.ula_step(  # noqa: E731
        key, state, dsm.score_of(energy), step_size=STEP, temperature=0.5
    )
    for i, alone in enumerate(jax.random.split(key, 3)):
        np.testing.assert_allclose(got[i], langevin.run(alone, step, langevin.init(x[i]), 4)[0].x, rtol=1e-13)


def test_a_chain_that_diverges_is_flagged_and_put_back_and_cancels_its_datum():
    # Beyond sqrt(2.5) E falls for ever; without noise the middle one stays.
    x = jnp.array([[5.0], [0.5], [-6.0]])
    x_negative, diverged = contrastive.negatives(
        jax.random.key(0), quartic_well, x, num_steps=30, step_size=0.5, temperature=0.0
    )
    np.testing.assert_array_equal(diverged, [True, False, True])
    np.testing.assert_array_equal(x_negative[::2], x[::2])
    assert abs(x_negative[1, 0]) < 1e-6
    loss = contrastive.contrastive_divergence(
        jax.random.key(0), quartic_well, x, num_steps=30, step_size=0.5, temperature=0.0
    )
    np.testing.assert_allclose(loss, quartic_well(x[1]) / 3, rtol=1e-9)


def test_in_a_box_no_chain_runs_away():
    x = 3 * jax.random.normal(jax.random.key(0), (20, 1))
    walls = box(-4.0, 4.0)
    x_negative, diverged = contrastive.negatives(
        jax.random.key(1), quartic_well, jnp.clip(x, -4, 4), num_steps=50, step_size=0.1, box=walls
    )
    assert not diverged.any() and jnp.abs(x_negative).max() <= 4


@pytest.mark.slow
def test_training_by_contrastive_divergence_recovers_a_precision():
    # The fixed point of CD-k is where the chains keep the data's variance: a v (1 - a h / 2) = 1 for any k.
    v, h = 0.5, 0.1
    z = np.random.default_rng(0).normal(size=(1000, 1))
    data = jnp.asarray(np.sqrt(v) * (z - z.mean()) / z.std(), jnp.float32)

    def batch_loss(key, params, batch):
        energy = partial(gaussian_energy, jnp.exp(params))
        return contrastive.contrastive_divergence(key, energy, batch, num_steps=3, step_size=h)

    optimizer = optax.sgd(optax.cosine_decay_schedule(0.5, 300))
    state = training.init(jnp.zeros((), jnp.float32), optimizer)
    state, infos = training.fit(
        jax.random.key(0), state, data, batch_loss=batch_loss, optimizer=optimizer, batch_size=None, num_steps=300
    )
    assert infos.loss.dtype == jnp.float32
    precision = (1 - np.sqrt(1 - 2 * h / v)) / h
    np.testing.assert_allclose(np.exp(state.params), precision, rtol=0.03)


def test_l2_holds_the_energies_where_the_data_do_not():
    # E = c + a x^2 / 2: without l2 the constant c is free, with it the slope in c is 2 l2 (mean E + mean E).
    x = jnp.array([[1.0], [2.0]])
    loss = lambda c, l2: contrastive.contrast(lambda x: c + 0.5 * jnp.sum(x**2), x, 2 * x, l2=l2)  # noqa: E731
    slope = jax.grad(loss)
    assert slope(3.0, 0.0) == 0
    np.testing.assert_allclose(slope(3.0, 0.1), 0.2 * ((3 + 1.25) + (3 + 5.0)), rtol=1e-13)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_steps": 0}, r"num_steps = 0"),
        ({"step_size": 0.0}, r"step_size = 0.0"),
        ({"temperature": -1.0}, r"temperature = -1.0"),
        ({"l2": -0.1}, r"l2 = -0.1"),
        ({"l2": float("nan")}, r"l2 = nan"),
        ({"batch": jnp.array([[1.0], [jnp.nan]])}, r"batch\[1, 0\] = nan"),
        ({"energy": lambda x: x}, r"energy\(x\) has shape \(1,\)"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    good = {"energy": quartic_well, "batch": jnp.ones((2, 1)), "num_steps": 2, "step_size": 0.1}
    with pytest.raises(ValueError, match=message):
        contrastive.contrastive_divergence(jax.random.key(0), **{**good, **changes})


def test_examples_that_are_not_finite_are_refused_by_name():
    good, bad = jnp.ones((2, 1)), jnp.array([[1.0], [jnp.inf]])
    with pytest.raises(ValueError, match=r"x\[1, 0\] = inf"):
        contrastive.contrast(quartic_well, bad, good)
    with pytest.raises(ValueError, match=r"x_negative\[1, 0\] = inf"):
        contrastive.contrast(quartic_well, good, bad)
    with pytest.raises(ValueError, match=r"x\[1, 0\] = inf"):
        contrastive.negatives(jax.random.key(0), quartic_well, bad, num_steps=1, step_size=0.1)

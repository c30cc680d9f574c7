import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

import dsm
from dsm import nce, training

# Data from a mixture; noise N(0, 4). The energy leaves LOG_Z open.
DATA = dsm.gaussian_mixture([0.4, 0.6], [[-1.0], [1.5]], [0.3, 0.6])
NOISE = dsm.gaussian([0.3], 4.0)
LOG_Z = -1.7


def mixture_energy(params):
    """The truth at shift 0 and scale 1, where log Z = LOG_Z; at scale c it is LOG_Z - log c."""
    return lambda x: -DATA.logdensity(jnp.exp(params["log_scale"]) * (x - params["shift"])) - LOG_Z


TRUTH = {"shift": jnp.zeros(()), "log_scale": jnp.zeros(())}


def expected_loss(params, log_z, nu):
    """The mean of the loss over all data and noise: its two terms are separate, so each takes one integral."""
    grid = dsm.quadrature_grid(-14.0, 14.0, 160)
    here, there = grid.points[:, None], grid.points[80:81]
    loss = lambda x, y: nce.noise_contrastive(  # noqa: E731
        mixture_energy(params), log_z, x, y, NOISE.logdensity, ratio=nu
    )
    data, noise = (
        jnp.exp(grid.log_weights + jax.vmap(logdensity)(grid.points))
        for logdensity in (DATA.logdensity, NOISE.logdensity)
    )
    over_data = jnp.sum(data * jax.vmap(loss, (0, None))(here, there))
    over_noise = jnp.sum(noise * jax.vmap(loss, (None, 0))(there, here))
    return over_data + over_noise - loss(there, there)


GRADIENT = jax.jit(jax.value_and_grad(expected_loss, argnums=(0, 1)))


def test_the_gradient_is_zero_at_the_truth_and_at_log_z():
    for nu in (0.3, 1.0, 5.0):
        gradient = jax.tree.leaves(GRADIENT(TRUTH, LOG_Z, nu)[1])
        np.testing.assert_allclose(gradient, 0.0, atol=1e-10)
        elsewhere = jax.tree.leaves(GRADIENT(TRUTH, LOG_Z + 0.1, nu)[1])
        assert np.abs(elsewhere).max() > 1e-3


def test_minimising_recovers_log_z_and_the_parameters():
    def value_and_slope(theta):
        params = {"shift": theta[0], "log_scale": theta[1]}
        value, (slope, slope_z) = GRADIENT(params, theta[2], 2.0)
        return float(value), np.array([slope["shift"], slope["log_scale"], slope_z], dtype=float)

    found = optimize.minimize(value_and_slope, np.array([0.4, -0.3, 0.0]), jac=True, method="BFGS", tol=1e-9)
    np.testing.assert_allclose(found.x, [0.0, 0.0, LOG_Z], atol=1e-5)


def test_the_gradient_at_the_truth_is_zero_within_its_error():
    keys = jax.random.split(jax.random.key(0))
    x, x_noise = DATA.sample(keys[0], 4000), NOISE.sample(keys[1], 8000)

    def loss(params, log_z, x, y):
        return nce.noise_contrastive(mixture_energy(params), log_z, x, y, NOISE.logdensity, ratio=2.0)

    # 2000 batches of 2 and 4: their gradients are independent.
    gradients = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), (None, None, 0, 0)))(
        TRUTH, LOG_Z, x.reshape(-1, 2, 1), x_noise.reshape(-1, 4, 1)
    )
    for gradient in jax.tree.leaves(gradients):
        assert abs(gradient.mean()) < 4 * gradient.std() / np.sqrt(2000)


def test_the_loss_is_that_of_a_classifier_in_numpy():
    # Matrices for examples, and the ratio of the batches by default.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 2, 2)), 2 * rng.normal(size=(6, 2, 2))
    loss = nce.noise_contrastive(
        lambda x: jnp.sum(x**2),
        0.7,
        jnp.asarray(x),
        jnp.asarray(y),
        lambda x: -jnp.sum(x**2) / 8 - 2 * np.log(8 * np.pi).item(),
    )

    def h(x):
        model = np.exp(-np.sum(x**2, axis=(1, 2)) - 0.7)
        noise = stats.norm(0, 2).pdf(x).prod(axis=(1, 2))
        return model / (model + 2 * noise)

    np.testing.assert_allclose(loss, -np.mean(np.log(h(x))) - 2 * np.mean(np.log(1 - h(y))), rtol=1e-12)


def test_the_best_log_z_for_a_fixed_energy_is_bennetts():
    keys = jax.random.split(jax.random.key(1))
    x, y = DATA.sample(keys[0], 300), NOISE.sample(keys[1], 600)
    energy = mixture_energy(TRUTH)
    slope = jax.jit(jax.grad(lambda log_z: nce.noise_contrastive(energy, log_z, x, y, NOISE.logdensity)))
    log_z = optimize.brentq(lambda z: float(slope(jnp.asarray(z))), LOG_Z - 3, LOG_Z + 3, xtol=1e-12)
    log_ratio = jax.jit(jax.vmap(lambda x: -energy(x) - NOISE.logdensity(x)))
    # His iteration: Z = sum_noise f(log r) r / sum_data f(log r), r = exp(-E) / p_n, f = 1 / (r / Z + nu).
    r_x, r_y = (np.exp(np.asarray(log_ratio(a))) for a in (x, y))
    z = 1.0
    for _ in range(500):
        z = np.mean(r_y / (r_y / z + 2)) / np.mean(1 / (r_x / z + 2))
    np.testing.assert_allclose(log_z, np.log(z), atol=1e-9)
    assert abs(log_z - LOG_Z) < 0.2


@pytest.mark.slow
def test_training_learns_log_z_of_a_gaussian():
    # The data have variance 0.25 and mean 0.5 exactly; E = exp(l) (x - m)^2 / 2.
    z = np.random.default_rng(0).normal(size=(2000, 1))
    data = jnp.asarray(0.5 * (z - z.mean()) / z.std() + 0.5)
    noise = dsm.gaussian([0.3], 0.5)

    def batch_loss(key, params, batch):
        energy = lambda x: 0.5 * jnp.exp(params["l"]) * jnp.sum((x - params["m"]) ** 2)  # noqa: E731
        x_noise = noise.sample(key, 2000)
        return nce.noise_contrastive(energy, params["log_z"], batch, x_noise, noise.logdensity)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 600))
    state = training.init({name: jnp.zeros(()) for name in ("l", "m", "log_z")}, optimizer)
    state, _ = training.fit(
        jax.random.key(0), state, data, batch_loss=batch_loss, optimizer=optimizer, batch_size=None, num_steps=600
    )
    np.testing.assert_allclose(state.params["m"], 0.5, atol=0.03)
    np.testing.assert_allclose(state.params["l"], np.log(4), atol=0.06)
    np.testing.assert_allclose(state.params["log_z"], 0.5 * np.log(2 * np.pi / 4), atol=0.03)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_the_loss_and_its_gradient_are_finite_however_sure_the_classifier(offset, log_z):
    loss = lambda z: EXTREME(offset, z)  # noqa: E731
    value, slope = loss(log_z)
    # softplus(-u) + softplus(u) >= |u|: no digit of a great certainty is lost.
    assert np.isfinite(value) and value >= abs(offset + log_z) - 30
    assert -1 <= slope <= 1


EXTREME = jax.jit(
    jax.value_and_grad(
        lambda offset, log_z: nce.noise_contrastive(
            lambda x: 0.5 * jnp.sum(x**2) + offset, log_z, jnp.ones((2, 1)), jnp.ones((2, 1)), NOISE.logdensity
        ),
        argnums=1,
    )
)


def test_float32_stays_float32():
    x = jnp.ones((3, 1), jnp.float32)
    for ratio in (None, 2.0):
        value = nce.noise_contrastive(
            lambda x: 0.5 * jnp.sum(x**2), jnp.float32(0.9), x, 2 * x, lambda x: -0.1 * jnp.sum(x**2), ratio=ratio
        )
        assert value.dtype == jnp.float32 and jnp.isfinite(value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": jnp.zeros((0, 1))}, r"x has 0 examples and x_noise 3"),
        ({"x_noise": jnp.zeros((0, 1))}, r"x has 3 examples and x_noise 0"),
        ({"x": jnp.array([[0.0], [jnp.nan]])}, r"x\[1, 0\] = nan"),
        ({"x_noise": jnp.array([[jnp.inf]])}, r"x_noise\[0, 0\] = inf"),
        ({"ratio": 0.0}, r"ratio = 0.0"),
        ({"ratio": -2.0}, r"ratio = -2.0"),
        ({"ratio": float("nan")}, r"ratio = nan"),
        ({"ratio": float("inf")}, r"ratio = inf"),
        ({"energy": lambda x: x}, r"energy\(x\) has shape \(1,\)"),
        ({"noise_logdensity": lambda x: x}, r"noise_logdensity\(x\) has shape \(1,\)"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    good = {"energy": jnp.sum, "noise_logdensity": jnp.sum, "x": jnp.ones((3, 1)), "x_noise": jnp.ones((3, 1))}
    with pytest.raises(ValueError, match=message):
        nce.noise_contrastive(log_z=0.0, **{**good, **changes})

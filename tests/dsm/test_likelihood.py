import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

import dsm
from dsm import training

MEAN = jnp.array([0.4, -0.3])
PRECISION = jnp.array([[2.0, 0.5], [0.5, 1.0]])


def gaussian_energy(params):
    return dsm.quadratic(params["mean"], params["precision"])


def data_with_exact_moments(mean, covariance, num=50):
    """Points whose own mean and covariance are exactly these, so that maximum likelihood has a closed form."""
    z = np.random.default_rng(0).normal(size=(num, len(mean)))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T, bias=True).reshape(len(mean), -1))).T
    return jnp.asarray(z @ np.linalg.cholesky(covariance).T + np.asarray(mean))


def test_log_partition_of_a_gaussian_in_one_dimension():
    grid = dsm.quadrature_grid(-9.0, 11.0, 80)
    log_z = dsm.log_partition(dsm.quadratic(jnp.array([1.0]), jnp.array([[4.0]])), grid)
    np.testing.assert_allclose(log_z, 0.5 * np.log(2 * np.pi / 4), atol=1e-8)


def test_log_partition_of_a_gaussian_in_two_dimensions():
    grid = dsm.quadrature_grid((-8.0, -9.0), (8.0, 8.5), 60)
    assert grid.points.shape == (3600, 2)
    log_z = dsm.log_partition(dsm.quadratic(MEAN, PRECISION), grid)
    np.testing.assert_allclose(log_z, np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(PRECISION)[1], atol=1e-8)


def test_the_rule_is_exact_for_polynomials_on_an_uneven_box():
    grid = dsm.quadrature_grid((0.0, -1.0), (2.0, 3.0), 4)
    x, y = np.asarray(grid.points).T
    weights = np.exp(grid.log_weights)
    np.testing.assert_allclose(weights.sum(), 8.0, rtol=1e-13)
    # integral of x^5 over [0, 2] times that of y^2 over [-1, 3]
    np.testing.assert_allclose(weights @ (x**5 * y**2), 64 / 6 * 28 / 3, rtol=1e-12)


def test_a_density_that_does_not_vanish_at_the_edge_of_the_box():
    energy = lambda x: jnp.cos(3 * x[0]) - x[0]  # noqa: E731
    expected, _ = integrate.quad(lambda t: np.exp(t - np.cos(3 * t)), -1, 2)
    np.testing.assert_allclose(
        dsm.log_partition(energy, dsm.quadrature_grid(-1.0, 2.0, 40)), np.log(expected), rtol=1e-11
    )


def test_a_huge_energy_offset_does_not_overflow():
    grid = dsm.quadrature_grid(-8.0, 8.0, 60)
    log_z = dsm.log_partition(lambda x: 0.5 * x[0] ** 2 - 1e4, grid)
    np.testing.assert_allclose(log_z, 1e4 + 0.5 * np.log(2 * np.pi), rtol=1e-12)


def test_negative_log_likelihood_against_scipy():
    x = np.random.default_rng(0).normal(size=(30, 2))
    grid = dsm.quadrature_grid((-9.0, -9.0), (9.0, 9.0), 60)
    expected = -stats.multivariate_normal.logpdf(x, MEAN, np.linalg.inv(PRECISION)).mean()
    got = jax.jit(lambda params, x, grid: dsm.negative_log_likelihood(gaussian_energy(params), x, grid))(
        {"mean": MEAN, "precision": PRECISION}, jnp.asarray(x), grid
    )
    np.testing.assert_allclose(got, expected, atol=1e-8)


def test_the_gradient_is_zero_at_the_truth_and_equals_that_without_tiles():
    data = data_with_exact_moments(MEAN, np.linalg.inv(PRECISION))
    grid = dsm.quadrature_grid((-9.0, -9.0), (9.0, 9.0), 50)
    loss = lambda params: dsm.negative_log_likelihood(gaussian_energy(params), data, grid)  # noqa: E731
    gradient = jax.jit(jax.grad(loss))
    grads = gradient({"mean": MEAN, "precision": PRECISION})
    np.testing.assert_allclose(grads["mean"], 0.0, atol=1e-8)
    np.testing.assert_allclose(grads["precision"], 0.0, atol=1e-8)

    def in_one_piece(params):
        energy = jax.vmap(gaussian_energy(params))
        log_z = jax.nn.logsumexp(grid.log_weights - energy(grid.points))
        return jnp.mean(energy(data)) + log_z

    elsewhere = {"mean": MEAN + 0.5, "precision": 0.7 * PRECISION}
    got, expected = gradient(elsewhere), jax.jit(jax.grad(in_one_piece))(elsewhere)
    np.testing.assert_allclose(got["precision"], expected["precision"], rtol=1e-10)
    assert np.abs(got["precision"]).max() > 0.01


def test_fit_recovers_the_precision_of_a_gaussian():
    covariance = np.array([[0.5]])
    data = data_with_exact_moments([0.3], covariance)
    grid = dsm.quadrature_grid(-6.0, 6.0, 60)

    def negative_log_likelihood(key, params, batch):
        energy = dsm.quadratic(params["mean"], jnp.exp(params["log_precision"])[None, None])
        return dsm.negative_log_likelihood(energy, batch, grid)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 300))
    state = training.init({"mean": jnp.zeros(1), "log_precision": jnp.zeros(())}, optimizer)
    state, info = training.fit(
        jax.random.key(0),
        state,
        data,
        batch_loss=negative_log_likelihood,
        optimizer=optimizer,
        batch_size=None,
        num_steps=300,
    )
    np.testing.assert_allclose(np.exp(state.params["log_precision"]), 2.0, rtol=1e-4)
    np.testing.assert_allclose(state.params["mean"], [0.3], atol=1e-4)
    np.testing.assert_allclose(info.loss[-1], 0.5 * np.log(2 * np.pi * np.e * 0.5), rtol=1e-6)


def test_data_and_energies_that_do_not_fit_the_grid_are_refused():
    line = dsm.quadrature_grid(-6.0, 6.0, 60)
    energy = lambda x: 0.5 * jnp.sum(x**2)  # noqa: E731
    with pytest.raises(ValueError, match=r"x_batch has shape \(5, 2\), the points of the grid \(60, 1\): D must agree"):
        dsm.negative_log_likelihood(energy, jnp.zeros((5, 2)), line)
    with pytest.raises(ValueError, match=r"x_batch\[1, 0\] = nan"):
        dsm.negative_log_likelihood(energy, jnp.array([[0.0], [jnp.nan]]), line)
    with pytest.raises(ValueError, match=r"energy\(x\) has shape \(1,\) for x of shape \(1,\): it must be a scalar"):
        dsm.log_partition(lambda x: x**2, line)


def test_float32_stays_float32():
    grid = jax.tree.map(lambda a: a.astype(jnp.float32), dsm.quadrature_grid(-8.0, 8.0, 60))
    x = jnp.ones((3, 1), jnp.float32)
    value = dsm.negative_log_likelihood(lambda x: 0.5 * jnp.sum(x**2), x, grid)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 0.5 + 0.5 * np.log(2 * np.pi), rtol=1e-6)


@pytest.mark.parametrize(
    "lower, upper, num, message",
    [
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 5, r"lower has D = 3 entries"),
        ((0.0, 0.0), (1.0, 0.0), 5, r"lower\[1\] = 0.0, upper\[1\] = 0.0"),
        (1.0, -1.0, 5, r"lower\[0\] = 1.0, upper\[0\] = -1.0"),
        (0.0, np.inf, 5, r"upper\[0\] = inf"),
        (0.0, (1.0, 1.0), 5, r"shapes \(1,\) and \(2,\)"),
        (0.0, 1.0, 0, r"num = 0"),
    ],
)
def test_a_bad_grid_is_refused_by_name(lower, upper, num, message):
    with pytest.raises(ValueError, match=message):
        dsm.quadrature_grid(lower, upper, num)

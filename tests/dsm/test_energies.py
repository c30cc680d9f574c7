import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import dsm

MEAN = jnp.array([1.0, -2.0])
PRECISION = jnp.array([[2.0, 0.5], [0.5, 1.0]])


def test_the_score_of_a_quadratic_energy_is_linear():
    x = jnp.array([0.3, 0.7])
    expected = -np.asarray(PRECISION) @ np.asarray(x - MEAN)
    np.testing.assert_allclose(dsm.score_of(dsm.quadratic(MEAN, PRECISION))(x), expected, rtol=1e-14)


def test_a_quadratic_energy_is_the_gaussian_up_to_its_constant():
    energy = dsm.quadratic(MEAN, PRECISION)
    normal = stats.multivariate_normal(np.asarray(MEAN), np.linalg.inv(PRECISION))
    for x in ([0.0, 0.0], [1.5, -3.0]):
        log_z = np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(PRECISION)[1]
        np.testing.assert_allclose(-energy(jnp.array(x)) - log_z, normal.logpdf(x), rtol=1e-13)


def test_the_score_points_where_the_energy_falls():
    # The sign is the commonest error here: density must rise along the score.
    energy = dsm.quadratic(MEAN, PRECISION)
    x = jnp.array([3.0, 3.0])
    assert energy(x + 1e-3 * dsm.score_of(energy)(x)) < energy(x)


def test_the_gradient_is_with_respect_to_x_alone_and_keeps_its_shape():
    energy = lambda x, sigma: jnp.sum(x**4) / (4 * sigma**2)  # noqa: E731
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(dsm.score_of(energy)(x, jnp.array(2.0)), -(np.arange(6.0) ** 3).reshape(2, 3) / 4)


def test_a_score_integrates_back_to_the_log_density():
    energy = lambda x: jnp.sum(x**4) - jnp.cos(3 * x[0])  # noqa: E731
    score = dsm.score_of(energy)
    rise, _ = integrate.quad(lambda t: float(score(jnp.array([t]))[0]), -0.5, 1.0)
    np.testing.assert_allclose(rise, energy(jnp.array([-0.5])) - energy(jnp.array([1.0])), rtol=1e-10)


@pytest.mark.parametrize("energy", [lambda x: x**2, lambda x: jnp.sum(x**2, keepdims=True)])
def test_an_energy_that_is_no_scalar_is_refused_with_both_shapes(energy):
    with pytest.raises(ValueError, match=r"energy\(x\) has shape \(.+\) for x of shape \(3,\)"):
        jax.jit(dsm.score_of(energy))(jnp.ones(3))


def test_the_score_of_a_float32_energy_is_float32():
    energy = dsm.quadratic(MEAN.astype(jnp.float32), PRECISION.astype(jnp.float32))
    x = jnp.array([0.3, 0.7], jnp.float32)
    assert energy(x).dtype == dsm.score_of(energy)(x).dtype == jnp.float32

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsm.sde import VE, VP, SubVP

SDES = [VE(0.01, 50.0), VP(), SubVP(), VP(2.0, 2.0)]
TIMES = jnp.linspace(0.02, 1.0, 9)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_the_marginals_solve_the_moment_equations_of_the_sde(sde):
    # dx = f(t) x dt + g dw: the mean alpha x_0 has alpha' = f alpha, the variance std^2 has (std^2)' = 2 f std^2 + g^2.
    @jax.jit
    @jax.vmap
    def moments(t):
        one = jnp.ones_like(t)
        marginal = lambda t: (sde.marginal(t)[0], sde.marginal(t)[1] ** 2)  # noqa: E731
        return *jax.jvp(marginal, (t,), (one,)), sde.drift(one, t), sde.diffusion(t)

    (alpha, variance), (alpha_rate, variance_rate), f, g = moments(TIMES)
    np.testing.assert_allclose(alpha_rate, f * alpha, rtol=1e-12)
    np.testing.assert_allclose(variance_rate, 2 * f * variance + g**2, rtol=1e-9)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_at_time_zero_the_data_are_as_they_were(sde):
    alpha, std = sde.marginal(jnp.array(0.0))
    assert alpha == 1.0
    np.testing.assert_allclose(std, sde.sigma_min if isinstance(sde, VE) else 0.0, rtol=1e-14)


def test_the_marginals_are_those_of_the_paper():
    t, low, high = np.asarray(TIMES), 0.1, 20.0
    log_alpha = -0.25 * t**2 * (high - low) - 0.5 * t * low
    alpha, std = jax.vmap(VP(low, high).marginal)(TIMES)
    np.testing.assert_allclose(alpha, np.exp(log_alpha), rtol=1e-12)
    np.testing.assert_allclose(alpha**2 + std**2, 1.0, rtol=1e-13)
    alpha, std = jax.vmap(SubVP(low, high).marginal)(TIMES)
    np.testing.assert_allclose(alpha, np.exp(log_alpha), rtol=1e-12)
    np.testing.assert_allclose(std, 1 - np.exp(2 * log_alpha), rtol=1e-12)
    alpha, std = jax.vmap(VE(0.01, 50.0).marginal)(TIMES)
    np.testing.assert_allclose(alpha, 1.0)
    np.testing.assert_allclose(std, 0.01 * 5000.0**t, rtol=1e-12)


def test_the_drift_acts_on_any_shape_along_x():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(VP(1.0, 3.0).drift(x, 0.5), -0.5 * 2.0 * x, rtol=1e-14)
    np.testing.assert_allclose(SubVP(1.0, 3.0).drift(x, 0.5), -0.5 * 2.0 * x, rtol=1e-14)
    np.testing.assert_array_equal(VE(0.1, 1.0).drift(x, 0.5), 0.0 * x)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_float32_keeps_its_digits_near_time_zero(sde):
    t = jnp.array([1e-5, 1e-3, 1.0])
    double, single = jax.vmap(sde.marginal)(t), jax.vmap(sde.marginal)(t.astype(jnp.float32))
    diffusion = jax.vmap(sde.diffusion)(t.astype(jnp.float32))
    assert single[1].dtype == diffusion.dtype == jnp.float32
    np.testing.assert_allclose(single[1], double[1], rtol=2e-6)
    np.testing.assert_allclose(diffusion, jax.vmap(sde.diffusion)(t), rtol=2e-6)


def test_an_sde_is_a_pytree_and_may_be_traced():
    alpha, std = jax.jit(lambda sde, t: sde.marginal(t))(VP(0.1, 20.0), jnp.array(0.3))
    expected = VP(0.1, 20.0).marginal(jnp.array(0.3))
    np.testing.assert_allclose([alpha, std], expected, rtol=1e-14)


@pytest.mark.parametrize(
    "sde, message",
    [
        (VE(0.0, 1.0), r"sigma_min = 0.0"),
        (VE(1.0, 0.5), r"sigma_max = 0.5"),
        (VE(1.0, np.inf), r"sigma_max = inf"),
        (VP(-0.1, 1.0), r"beta_min = -0.1"),
        (VP(3.0, 1.0), r"beta_min = 3.0, beta_max = 1.0"),
        (SubVP(np.nan, 1.0), r"beta_min = nan"),
    ],
)
def test_bad_numbers_are_refused_by_name_where_they_are_used(sde, message):
    t = jnp.array(0.5)
    with pytest.raises(ValueError, match=message):
        jax.jit(sde.marginal)(t)
    with pytest.raises(ValueError, match=message):
        sde.diffusion(t)
    # The drift of VE is 0 whatever its numbers.
    if not isinstance(sde, VE):
        with pytest.raises(ValueError, match=message):
            sde.drift(jnp.ones(2), t)

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsm
from dsm import losses, training
from dsm.losses import denoising_continuous, denoising_control_variate
from dsm.sde import VE, VP, SubVP

SIGMA = 0.5


def mean_and_error(values):
    """The mean over the leading axis and its standard error."""
    values = np.asarray(values)
    return values.mean(0), values.std(0) / np.sqrt(len(values))


def draws(target, num, seed=0):
    """Keys for `denoising` and examples from the target."""
    key_noise, key_data = jax.random.split(jax.random.key(seed))
    return jax.random.split(key_noise, num), target.sample(key_data, num)


def test_explicit_is_half_the_squared_distance():
    x = jnp.arange(6.0).reshape(2, 3)
    value = dsm.explicit(lambda x: 2 * x, lambda x: x - 1, x)
    np.testing.assert_allclose(value, 0.5 * np.sum((np.arange(6.0) + 1) ** 2), rtol=1e-14)


def test_denoising_is_equation_2_at_the_perturbed_point():
    key, x = jax.random.key(0), jnp.arange(6.0).reshape(2, 3)
    x_tilde = np.asarray(dsm.perturb(key, x, SIGMA))
    expected = 0.5 * np.sum((np.sin(x_tilde) + (x_tilde - np.asarray(x)) / SIGMA**2) ** 2)
    np.testing.assert_allclose(dsm.denoising(key, jnp.sin, x, SIGMA), expected, rtol=1e-13)


def test_denoising_in_closed_form():
    # Data N(0, 1), E = a x^2 / 2: 1/2 (a^2 + (1/sigma - a sigma)^2), which is 1.625 at a = 1 and least at a = 0.8.
    keys, x = draws(dsm.gaussian([0.0], 1.0), 100_000)
    loss = jax.jit(jax.vmap(lambda key, x, a: dsm.denoising(key, lambda x: -a * x, x, SIGMA), in_axes=(0, 0, None)))
    for a in (0.0, 0.5, 1.0, 2.0):
        mean, error = mean_and_error(loss(keys, x, a))
        assert abs(mean - 0.5 * (a**2 + (1 / SIGMA - a * SIGMA) ** 2)) < 4 * error
    slope = jax.jit(
        jax.vmap(jax.grad(lambda a, key, x: dsm.denoising(key, lambda x: -a * x, x, SIGMA)), in_axes=(None, 0, 0))
    )
    mean, error = mean_and_error(slope(0.8, keys, x))
    assert abs(mean) < 4 * error
    # With a = 1, the score of the data themselves, equation (2) is not at its minimum: the slope is 0.25.
    mean, error = mean_and_error(slope(1.0, keys, x))
    assert abs(mean - 0.25) < 4 * error


def test_explicit_against_the_smoothed_score_in_closed_form():
    # At a = 1: 1/2 (1 - 0.8)^2 E[x~^2] = 0.02 * 1.25, the integral done by Gauss-Hermite, exact for polynomials.
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    smoothed = dsm.gaussian([0.0], 1.0).smooth(SIGMA)
    x_tilde = jnp.asarray(np.sqrt(1.25) * nodes)[:, None]
    loss = jax.jit(jax.vmap(lambda x: dsm.explicit(lambda x: -x, smoothed.score, x)))(x_tilde)
    np.testing.assert_allclose(loss @ weights / weights.sum(), 0.025, rtol=1e-12)


def bend(theta, score):
    """A family of scores through `score` at theta = 0, bent in three directions."""
    return lambda x: score(x) + theta[0] * x + theta[1] + theta[2] * jnp.sin(2 * x)


def test_the_gradient_vanishes_at_the_smoothed_score_and_not_at_the_data_score():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4])
    keys, x = draws(target, 40_000)

    def gradients(score):
        loss = lambda theta, key, x: dsm.denoising(key, bend(theta, score), x, SIGMA)  # noqa: E731
        return mean_and_error(jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0)))(jnp.zeros(3), keys, x))

    mean, error = gradients(target.smooth(SIGMA).score)
    assert np.all(np.abs(mean) < 4 * error)
    mean, error = gradients(target.score)
    assert np.abs(mean[0]) > 20 * error[0]


def test_equation_2_is_explicit_score_matching_on_smoothed_data_up_to_a_constant():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4])
    smoothed = target.smooth(SIGMA).score
    keys, x = draws(target, 40_000)

    def gap(theta):
        score = bend(theta, lambda x: -x)
        pair = lambda key, x: (  # noqa: E731
            dsm.denoising(key, score, x, SIGMA) - dsm.explicit(score, smoothed, dsm.perturb(key, x, SIGMA))
        )
        return jax.jit(jax.vmap(pair))(keys, x)

    reference = gap(jnp.zeros(3))
    for theta in ([0.5, 0.0, 0.0], [0.0, -1.0, 0.0], [-0.3, 0.4, 0.8]):
        # The same draws on both sides, so the error is that of the difference.
        mean, error = mean_and_error(gap(jnp.array(theta)) - reference)
        assert abs(mean) < 4 * error


@pytest.mark.slow
def test_a_linear_score_learns_the_smoothed_gaussian():
    # The data are the population here, so the truth is made of their own moments.
    target = dsm.gaussian([1.0, -0.5], [[1.0, 0.6], [0.6, 0.8]])
    data = target.sample(jax.random.key(0), 1000)
    mean, covariance = np.mean(data, axis=0), np.cov(data.T, bias=True)
    precision = np.linalg.inv(covariance + SIGMA**2 * np.eye(2))

    def loss(key, params, x):
        return dsm.denoising(key, lambda x: params["b"] - params["W"] @ x, x, SIGMA)

    steps, batch = 1500, 256
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))
    state = training.init({"W": jnp.zeros((2, 2)), "b": jnp.zeros(2)}, optimizer)
    state, _ = training.fit(
        jax.random.key(1),
        state,
        data,
        batch_loss=training.per_example(loss),
        optimizer=optimizer,
        batch_size=batch,
        num_steps=steps,
    )
    # Regression on the last third of the draws, with noise 1/sigma and the least variance of x~ 0.5: the standard
    # error is about (1/sigma) / sqrt(steps * batch / 3 * 0.5) = 0.008.
    np.testing.assert_allclose(state.params["W"], precision, atol=4 * 0.008)
    np.testing.assert_allclose(state.params["b"], precision @ mean, atol=4 * 0.008)


def test_denoising_over_levels_weighs_by_sigma_squared_and_draws_levels_evenly():
    # Data N(0, 1) and the exact score -x / (1 + sigma^2): equation (2) is 1/2 (1/sigma^2 - 1/(1 + sigma^2)), so level
    # sigma contributes 1/2 / (1 + sigma^2).
    sigmas = dsm.geometric_sigmas(4.0, 0.25, 5)
    keys, x = draws(dsm.gaussian([0.0], 1.0), 100_000)
    score = lambda x, sigma: -x / (1 + sigma**2)  # noqa: E731
    mean, error = mean_and_error(
        jax.jit(jax.vmap(lambda key, x: dsm.denoising_over_levels(key, score, x, sigmas)))(keys, x)
    )
    assert abs(mean - np.mean(0.5 / (1 + np.asarray(sigmas) ** 2))) < 4 * error


def test_one_level_is_the_weighted_denoising_loss():
    keys, x = draws(dsm.gaussian([0.0, 0.0], 1.0), 20_000)
    over_levels = lambda key, x: dsm.denoising_over_levels(  # noqa: E731
        key, lambda x, sigma: -x, x, jnp.array([SIGMA])
    )
    mean, error = mean_and_error(jax.jit(jax.vmap(over_levels))(keys, x))
    # 1/2 (1 + 2.25) for each of two coordinates, times sigma^2.
    assert abs(mean - 2 * 1.625 * SIGMA**2) < 4 * error


class Quadrature:
    """Gauss-Hermite in place of the noise: key(i) draws the i-th node, so that means over noise are exact sums."""

    def __init__(self, monkeypatch, num):
        nodes, weights = np.polynomial.hermite_e.hermegauss(num)
        self.nodes, self.weights = jnp.asarray(nodes), weights / weights.sum()
        self.keys = jax.vmap(jax.random.key)(jnp.arange(num))
        node = lambda key: self.nodes[jax.random.key_data(key)[1].astype(int)]  # noqa: E731
        monkeypatch.setattr(losses, "perturb", lambda key, x, sigma: x + sigma * node(key))

    def over_data_and_noise(self, loss):
        """The mean and the variance of loss(key, x) over x ~ N(0, 1) and the noise."""
        values = jax.vmap(jax.vmap(loss, (0, None)), (None, 0))(self.keys, self.nodes[:, None])
        weights = np.outer(self.weights, self.weights)
        mean = np.sum(weights * values)
        return mean, np.sum(weights * (values - mean) ** 2)


def cubic(theta):
    return lambda x: -theta * x + 0.3 * x**2 - 0.1 * x**3


def test_the_control_variate_leaves_the_mean_and_bounds_the_variance(monkeypatch):
    # The score is a cubic, so 14 nodes, exact up to degree 27, integrate the squares of losses of degree 6 exactly.
    quadrature = Quadrature(monkeypatch, 14)
    sigmas = [1.0, 0.1, 0.01, 1e-3]

    def moments(loss):
        value = lambda theta, key, x, sigma: loss(key, cubic(theta), x, sigma)  # noqa: E731
        both = jax.jit(lambda key, x, sigma: jnp.stack(jax.value_and_grad(value)(1.2, key, x, sigma)))
        values = lambda i, sigma: quadrature.over_data_and_noise(lambda key, x: both(key, x, sigma)[i])  # noqa: E731
        return np.array([[values(i, sigma) for sigma in sigmas] for i in (0, 1)])

    plain, controlled = moments(dsm.denoising), moments(denoising_control_variate)
    np.testing.assert_allclose(controlled[..., 0], plain[..., 0], rtol=1e-9)
    # From sigma = 0.1 down to 0.001 the variance stays, where that of equation (2) follows its power of sigma.
    np.testing.assert_allclose(controlled[:, 2:, 1], controlled[:, 1:2, 1] * np.ones((1, 2)), rtol=0.1)
    np.testing.assert_allclose(np.log10(plain[0, 1:, 1] / plain[0, :-1, 1])[1:], 4.0, atol=0.1)
    np.testing.assert_allclose(np.log10(plain[1, 1:, 1] / plain[1, :-1, 1])[1:], 2.0, atol=0.1)
    assert np.all(controlled[:, 0, 1] < 20 * controlled[:, 1, 1])


def test_the_control_variate_with_the_same_keys_has_the_same_mean():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4])
    keys, x = draws(target, 40_000)
    score = bend(jnp.array([-0.3, 0.4, 0.8]), lambda x: -x)
    pair = lambda key, x: (  # noqa: E731
        dsm.denoising(key, score, x, SIGMA) - denoising_control_variate(key, score, x, SIGMA)
    )
    mean, error = mean_and_error(jax.jit(jax.vmap(pair))(keys, x))
    assert abs(mean) < 4 * error
    # And at one point: equation (2) less s(x)' eps / sigma, with D for |eps|^2.
    eps = np.asarray(dsm.perturb(keys[0], x[0], SIGMA) - x[0]) / SIGMA
    expected = np.asarray(score(x[0])) @ eps / SIGMA + (eps @ eps - 2) / (2 * SIGMA**2)
    np.testing.assert_allclose(pair(keys[0], x[0]), expected, rtol=1e-10)


def test_for_small_noise_the_control_variate_is_sliced_with_its_variance_reduced():
    key, x, sigma = jax.random.key(0), jnp.array([0.3, -0.8]), 1e-5
    score = lambda x: jnp.sin(2 * x) - jnp.flip(x) ** 2  # noqa: E731
    value = denoising_control_variate(key, score, x, sigma) - 2 / (2 * sigma**2)
    # The eps that the loss draws, in the formula of `sliced`.
    eps = (dsm.perturb(key, x, sigma) - x) / sigma
    expected = jnp.vdot(eps, jax.jvp(score, (x,), (eps,))[1]) + 0.5 * jnp.sum(score(x) ** 2)
    np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_a_weight_over_levels_is_any_function_of_sigma():
    sigmas = dsm.geometric_sigmas(4.0, 0.25, 5)
    keys, x = draws(dsm.gaussian([0.0], 1.0), 100_000)
    score = lambda x, sigma: -x / (1 + sigma**2)  # noqa: E731
    weighted = lambda key, x, weight: dsm.denoising_over_levels(key, score, x, sigmas, weight=weight)  # noqa: E731
    loss = jax.jit(jax.vmap(lambda key, x: jnp.stack([weighted(key, x, w) for w in (None, jnp.square, jnp.cbrt)])))
    values = np.asarray(loss(keys, x))
    np.testing.assert_array_equal(values[:, 0], values[:, 1])
    mean, error = mean_and_error(values[:, 2])
    s = np.asarray(sigmas)
    assert abs(mean - np.mean(np.cbrt(s) * 0.5 / (s**2 * (1 + s**2)))) < 4 * error


CONTINUOUS = [VE(0.05, 5.0), VP(), SubVP()]


@pytest.mark.parametrize(
    "sde",
    [CONTINUOUS[0], *(pytest.param(sde, marks=pytest.mark.slow) for sde in CONTINUOUS[1:])],
    ids=lambda sde: type(sde).__name__,
)
def test_the_continuous_loss_of_gaussian_data_is_its_integral_over_time_and_least_at_the_marginal_score(sde):
    # Data N(0, v): the marginal is N(0, m), m = alpha^2 v + std^2; at its score equation (2) is 1/2 (1/std^2 - 1/m).
    v, t_min = 2.0, 0.05
    keys, x = draws(dsm.gaussian([0.0], v), 100_000)

    def score(scale):
        def scaled(x, t):
            alpha, std = sde.marginal(t)
            return -scale * x / (alpha**2 * v + std**2)

        return scaled

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0))
    def loss(key, x):
        value = lambda scale, weight: denoising_continuous(  # noqa: E731
            key, score(scale), x, sde, weight=weight, t_min=t_min
        )
        weights = (None, "likelihood", lambda t: t)
        return [jax.value_and_grad(value)(1.0, weight) for weight in weights]

    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = jnp.asarray(t_min + (1 - t_min) * (nodes + 1) / 2)
    (alpha, std), g = jax.jit(jax.vmap(lambda t: (sde.marginal(t), sde.diffusion(t))))(t)
    least = 0.5 * (1 / std**2 - 1 / (alpha**2 * v + std**2))
    for (value, slope), scale in zip(loss(keys, x), (std**2, g**2, t), strict=True):
        mean, error = mean_and_error(value)
        assert abs(mean - np.sum(weights / 2 * scale * least)) < 4 * error
        mean, error = mean_and_error(slope)
        assert abs(mean) < 4 * error


def test_times_are_uniform_from_t_min_to_one():
    # A zero score and the weight 1[t < 0.5] std^2 leave |eps|^2 / 2 with the probability of that event.
    weight = lambda t: jnp.where(t < 0.5, VP().marginal(t)[1] ** 2, 0.0)  # noqa: E731
    loss = lambda key: denoising_continuous(  # noqa: E731
        key, lambda x, t: 0 * x, jnp.zeros(1), VP(), weight=weight, t_min=0.2
    )
    mean, error = mean_and_error(jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(0), 20_000)))
    assert abs(mean - 0.5 * 0.3 / 0.8) < 4 * error


def test_any_shape_of_x():
    x = jnp.ones((2, 3, 4))
    sigmas = jnp.array([1.0, 0.5])

    def every_loss(key, x):
        yield dsm.denoising(key, lambda x: -x, x, SIGMA)
        yield dsm.denoising_over_levels(key, lambda x, sigma: -x, x, sigmas)
        yield denoising_control_variate(key, lambda x: -x, x, SIGMA)
        yield denoising_continuous(key, lambda x, t: -x, x, VP())

    for value in jax.eval_shape(lambda key, x: list(every_loss(key, x)), jax.random.key(0), x):
        assert value.shape == ()


def test_float32_stays_float32():
    x, sigmas = jnp.ones(3, jnp.float32), jnp.array([1.0, 0.5], jnp.float32)
    assert dsm.denoising(jax.random.key(0), lambda x: -x, x, SIGMA).dtype == jnp.float32
    assert dsm.explicit(lambda x: -x, lambda x: x, x).dtype == jnp.float32
    value = dsm.denoising_over_levels(jax.random.key(0), lambda x, sigma: -x / sigma, x, sigmas)
    assert value.dtype == jnp.float32
    assert denoising_control_variate(jax.random.key(0), lambda x: -x, x, SIGMA).dtype == jnp.float32
    for sde in CONTINUOUS:
        loss = lambda key, x: denoising_continuous(key, lambda x, t: -x * t, x, sde, weight="likelihood")  # noqa: B023, E731
        assert jax.eval_shape(loss, jax.random.key(0), x).dtype == jnp.float32


@pytest.mark.parametrize(
    "sigmas, message",
    [
        ([0.5, 1.0], r"sigmas\[1\] = 1.0 is not below sigmas\[0\] = 0.5"),
        ([1.0, 1.0], r"sigmas\[1\] = 1.0 is not below"),
        ([1.0, 0.0], r"sigmas\[1\] = 0.0"),
        ([np.nan, 1.0], r"sigmas\[0\] = nan"),
        ([], "sigmas is empty"),
    ],
)
def test_a_bad_ladder_is_refused_by_name(sigmas, message):
    sigmas = jnp.array(sigmas)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: dsm.denoising_over_levels(jax.random.key(0), lambda x, s: -x, x, sigmas))(jnp.ones(2))


def test_a_bad_sigma_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sigma = 0.0"):
        jax.jit(lambda x: dsm.denoising(jax.random.key(0), lambda x: -x, x, 0.0))(jnp.ones(2))
    with pytest.raises(ValueError, match=r"sigma = -1.0"):
        denoising_control_variate(jax.random.key(0), lambda x: -x, jnp.ones(2), -1.0)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"t_min": 0.0}, r"t_min = 0.0"),
        ({"t_min": 1.0}, r"t_min = 1.0"),
        ({"t_min": np.nan}, r"t_min = nan"),
        ({"weight": "uniform"}, r"weight = 'uniform'"),
    ],
)
def test_bad_times_and_weights_are_refused_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        denoising_continuous(jax.random.key(0), lambda x, t: -x, jnp.ones(2), VP(), **kwargs)


def test_a_score_of_another_shape_is_refused_with_both_shapes():
    # Without the check (1,) would broadcast against (3,) in silence.
    key, x, first = jax.random.key(0), jnp.ones(3), lambda x, *_: x[:1]
    message = r"score\(x\) has shape \(1,\) for x of shape \(3,\)"
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: dsm.denoising(key, first, x, SIGMA))(x)
    with pytest.raises(ValueError, match=message):
        denoising_control_variate(key, first, x, SIGMA)
    with pytest.raises(ValueError, match=message):
        dsm.denoising_over_levels(key, first, x, jnp.array([1.0, 0.5]))
    with pytest.raises(ValueError, match=message):
        denoising_continuous(key, first, x, VP())
    with pytest.raises(ValueError, match="true_" + message):
        dsm.explicit(lambda x: -x, first, x)
    with pytest.raises(ValueError, match="^" + message):
        dsm.explicit(first, lambda x: -x, x)


def test_an_example_that_is_not_finite_is_refused_where_it_is():
    x = jnp.array([[0.0, 1.0], [np.inf, 2.0]])
    with pytest.raises(ValueError, match=r"x\[1, 0\] = inf"):
        dsm.denoising(jax.random.key(0), lambda x: -x, x, SIGMA)
    with pytest.raises(ValueError, match=r"x\[1, 0\] = inf"):
        dsm.explicit(lambda x: -x, lambda x: -x, x)


def test_no_key_is_used_twice():
    x, sigmas = jnp.ones(3), jnp.array([1.0, 0.5])
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: dsm.denoising(key, lambda x: -x, x, SIGMA))(jax.random.key(0))
        jax.jit(lambda key: denoising_control_variate(key, lambda x: -x, x, SIGMA))(jax.random.key(0))
        jax.jit(lambda key: dsm.denoising_over_levels(key, lambda x, s: -x, x, sigmas))(jax.random.key(0))
        jax.jit(lambda key: denoising_continuous(key, lambda x, t: -x, x, VP()))(jax.random.key(0))

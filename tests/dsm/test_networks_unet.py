from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

import dsm
from dsm.networks import EnergyUNet, ScoreUNet
from dsm.networks.convolution import convolve
from dsm.networks.unet import fold, standardise_groups, unfold

TINY = {"widths": (4, 8), "num_heads": 2, "sigma_data": 0.5, "num_classes": 3}
SIGMAS = (1e-3, 1e-1, 1.0, 1e3)


def image(*shape, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), dtype)


def random_params(net, x, scale=0.2):
    """Random parameters in place of the initial ones, whose last layer is zero; found without compiling anything."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, jnp.ones((), x.dtype))
    return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape), a.dtype), shapes)


@pytest.fixture(scope="module")
def score_net():
    net = ScoreUNet(**TINY)
    params = random_params(net, image(8, 8))
    # One compiled program for all examples, noise scales and labels.
    return jax.jit(jax.vmap(net.apply, (None, 0, 0, 0))), params


@pytest.fixture(scope="module")
def energy_net():
    net = EnergyUNet(**TINY | {"patch": 1, "widths": (4,)})

    def score(params, x, sigma, label):
        return dsm.score_of(lambda x: net.apply(params, x, sigma, label))(x)

    return net, jax.jit(jax.vmap(score, (None, 0, 0, 0))), random_params(net, image(3, 4))


def test_convolve_and_its_derivatives_against_scipy():
    h, kernel, direction = image(5, 4, 2), image(3, 3, 2, 3), image(5, 4, 2)[::-1]

    def oracle(h, kernel):
        h, kernel = np.asarray(h), np.asarray(kernel)
        return np.stack([sum(correlate(h[..., c], kernel[..., c, d], "same") for c in range(2)) for d in range(3)], -1)

    value, tangent = jax.jvp(convolve, (h, kernel), (direction, kernel[::-1]))
    np.testing.assert_allclose(value, oracle(h, kernel), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(tangent, oracle(direction, kernel) + oracle(h, kernel[::-1]), rtol=1e-12, atol=1e-13)


def test_fold_keeps_every_square_together_and_unfold_undoes_it():
    h = image(4, 6, 3)
    folded = fold(h, 2)
    assert folded.shape == (2, 3, 12)
    np.testing.assert_array_equal(folded[1, 2], np.asarray(h)[2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(unfold(folded, 2), h)


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (24, 2), (6, 1)])
def test_groups_of_channels_are_standardised(channels, groups):
    h = 3.0 + 10.0 * image(3, 2, channels)
    u = np.asarray(standardise_groups(h)).reshape(6, groups, -1)
    np.testing.assert_allclose(u.mean((0, 2)), 0.0, atol=1e-12)
    np.testing.assert_allclose((u**2).mean((0, 2)), 1.0, rtol=1e-6)


@pytest.mark.slow
def test_unets_start_as_the_score_of_a_smoothed_gaussian():
    x, fields = image(3, 4, 2), {"widths": (4,), "patch": 1, "num_heads": 2, "sigma_data": 0.5}
    net, energy_net = ScoreUNet(**fields), EnergyUNet(**fields)

    @jax.jit
    def first_scores(key, sigma):
        params = net.init(key, x, 1.0)
        return net.apply(params, x, sigma), dsm.score_of(partial(energy_net.apply, params))(x, sigma)

    for sigma in SIGMAS:
        for start in first_scores(jax.random.key(0), sigma):
            np.testing.assert_allclose(start, -x / (sigma**2 + 0.25), rtol=1e-12)


@pytest.mark.slow
def test_score_unet_is_finite_at_every_sigma_and_denoises_nothing_without_noise(score_net):
    apply, params = score_net
    x = jnp.stack([image(8, 8)] * 4)
    score = np.asarray(apply(params, x, jnp.asarray(SIGMAS), jnp.zeros(4, int)))
    assert score.shape == (4, 8, 8) and np.isfinite(score).all()
    # D = x + sigma^2 s goes to x as sigma goes to 0, and forgets x as sigma grows.
    np.testing.assert_allclose(x[0] + SIGMAS[0] ** 2 * score[0], x[0], atol=0.1)
    far = apply(params, 10.0 * x, jnp.full(4, 1e6), jnp.zeros(4, int))[0]
    near = apply(params, x, jnp.full(4, 1e6), jnp.zeros(4, int))[0]
    np.testing.assert_allclose(1e12 * near + x[0], 1e12 * far + 10.0 * x[0], atol=1e-2)


def test_score_unet_is_the_preconditioned_denoiser(score_net):
    # F = (D - c_skip x) / c_out sees x and sigma_data only through c_in x: one F at every sigma_data.
    apply, params = score_net
    other = jax.jit(ScoreUNet(**TINY | {"sigma_data": 2.0}).apply)
    sigma, u, found = 0.8, image(8, 8), []
    for sigma_data in (0.5, 2.0):
        c_in = 1 / np.sqrt(sigma**2 + sigma_data**2)
        x = u / c_in
        if sigma_data == 0.5:
            four = jnp.stack([x] * 4), jnp.full(4, sigma), jnp.full(4, 2)
            score = apply(params, *four)[3]
        else:
            score = other(params, x, sigma, 2)
        denoised = x + sigma**2 * score
        found.append((denoised - sigma_data**2 * c_in**2 * x) / (sigma * sigma_data * c_in))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-10)
    assert np.abs(found[0]).max() > 1e-2


def test_the_label_matters_and_none_is_the_last(score_net):
    apply, params = score_net
    x, sigma = jnp.stack([image(8, 8)] * 4), jnp.ones(4)
    scores = np.asarray(apply(params, x, sigma, jnp.arange(4)))
    for i in range(4):
        for j in range(i):
            assert np.abs(scores[i] - scores[j]).max() > 1e-3
    alone = jax.jit(ScoreUNet(**TINY).apply)(params, x[0], 1.0)
    np.testing.assert_allclose(alone, scores[3], rtol=1e-10, atol=1e-12)
    # What is traced cannot raise.
    strays = apply(params, x, sigma, jnp.array([-1, 4, 0, 0]))
    assert np.isnan(strays[:2]).all() and np.isfinite(strays[2:]).all()


@pytest.mark.slow
def test_energy_unet_has_a_symmetric_jacobian_and_labels(energy_net):
    net, score, params = energy_net
    x = image(3, 4)
    D, step = x.size, 1e-4
    moves = step * jnp.eye(D).reshape(D, 3, 4)
    one, zero = jnp.ones(D), jnp.zeros(D, int)
    there, back = (score(params, x[None] + sign * moves, one, zero).reshape(D, D) for sign in (1, -1))
    jacobian = np.asarray(there - back) / (2 * step)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-6)
    assert np.abs(jacobian - np.diag(np.diag(jacobian))).max() > 1e-3
    # The score is the gradient of E as its equation has it.
    s = np.asarray(score(params, jnp.stack([x] * D), one, jnp.arange(D) % 4))
    energy = jax.jit(net.apply)
    difference = energy(params, x + moves[5], 1.0, 0) - energy(params, x - moves[5], 1.0, 0)
    np.testing.assert_allclose(s[0].ravel()[5], -difference / (2 * step), rtol=1e-5)
    assert np.abs(s[0] - s[1]).max() > 1e-3
    extreme = score(params, jnp.stack([x] * D), jnp.geomspace(1e-3, 1e3, D), zero)
    assert np.isfinite(extreme).all()


def test_energy_unet_is_half_the_square_of_u_less_the_inner_product_with_its_network(energy_net):
    net, _, params = energy_net
    x, sigma = image(3, 4), 0.8
    c_in = 1 / np.sqrt(sigma**2 + 0.25)
    plain = ScoreUNet(**TINY | {"patch": 1, "widths": (4,)})
    # Both have one tree of parameters, and s + c_in u = c_in sigma_data / sigma N.
    score, energy = jax.jit(lambda p: (plain.apply(p, x, sigma, 1), net.apply(p, x, sigma, 1)))(params)
    N = (score + c_in**2 * x) / (c_in * 0.5 / sigma)
    u = c_in * x
    expected = 0.5 * jnp.sum(u * u) - 0.5 / sigma * jnp.sum(u * N)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)


@pytest.mark.slow
def test_a_float32_unet_in_bfloat16_keeps_its_parameters_and_the_dtype_of_x():
    x, sigma = image(16, 8, 8, dtype=jnp.float32), jnp.float32(0.5)
    exact, half = ScoreUNet(**TINY), ScoreUNet(**TINY, dtype=jnp.bfloat16)
    params = random_params(half, x[0])
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    # Every layer rounds to a relative 2^-9 = 0.2%; in root mean square, six draws of the parameters gave 0.8% to 1.1%.
    F = [jax.jit(jax.vmap(net.apply, (None, 0, None)))(params, x, sigma) + 2 * x for net in (exact, half)]
    error = np.sqrt(np.mean(np.square(F[1] - F[0])) / np.mean(np.square(F[0])))
    assert 1e-4 < error < 0.02
    assert F[1].dtype == jnp.float32


def test_fashion_sized_images_pass_through_two_levels():
    x = image(28, 28, dtype=jnp.float32)
    shape = jax.eval_shape(lambda x: ScoreUNet().init_with_output(jax.random.key(0), x, x[0, 0]), x)[0]
    assert shape.shape == (28, 28) and shape.dtype == jnp.float32


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({}, (10, 8), "10 x 8 pixels: both must be multiples of 4"),
        ({"widths": (8, 8, 8, 8), "patch": 1}, (28, 28), "28 x 28 pixels: both must be multiples of 8"),
        ({}, (8,), r"shape \(8,\)"),
        ({}, (0, 8), r"shape \(0, 8\)"),
        ({"widths": ()}, (8, 8), "widths = "),
        ({"patch": 0}, (8, 8), "patch = 0"),
        ({"num_blocks": 0}, (8, 8), "num_blocks = 0"),
        ({"num_heads": -1}, (8, 8), "num_heads = -1"),
        ({"num_heads": 3}, (8, 8), "num_heads = 3 does not divide the last width, 64"),
        ({"num_classes": -1}, (8, 8), "num_classes = -1"),
    ],
)
def test_unets_refuse_what_they_cannot_do(fields, shape, message):
    for net in (ScoreUNet(**fields), EnergyUNet(**fields)):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape), 1.0)


@pytest.mark.parametrize(
    ("net", "label", "message"),
    [
        (ScoreUNet(**TINY), 4, r"label = 4: it must lie in 0..3"),
        (EnergyUNet(**TINY), -1, r"label = -1: it must lie in 0..3"),
        (ScoreUNet(), 0, "without classes"),
    ],
)
def test_unets_refuse_labels_out_of_range(net, label, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda key: net.init(key, jnp.zeros((8, 8)), 1.0, label), jax.random.key(0))

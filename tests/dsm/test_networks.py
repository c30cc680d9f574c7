import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import dsm
from dsm.networks import silu
from dsm.networks.preconditioning import precondition

EXTREMES = (1e-6, 1e-2, 1.0, 1e2, 1e6)


def init(net, *arguments):
    return jax.jit(net.init)(jax.random.key(0), *arguments)


def shake(params, scale=0.3):
    """Random parameters in place of the initial ones, whose last layer is zero."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape), a.dtype), params)


@pytest.fixture(scope="module")
def score_net():
    net = dsm.ScoreMLP(width=16, num_blocks=2, sigma_data=0.5)
    params = init(net, jnp.zeros(3), 1.0)
    return jax.jit(net.apply), params, shake(params)


def test_silu_is_silu():
    z = np.linspace(-40, 40, 101)
    np.testing.assert_allclose(silu(jnp.asarray(z)), z * expit(z), rtol=1e-12, atol=1e-13)


def test_energy_mlp_against_numpy():
    net = dsm.EnergyMLP(widths=(5, 4))
    x = jnp.array([0.3, -1.2, 2.0])
    params = shake(init(net, x))
    layers = [params["params"][f"Dense_{i}"] for i in range(3)]
    assert [layer["kernel"].shape for layer in layers] == [(3, 5), (5, 4), (4, 1)]
    h = np.asarray(x)
    for layer in layers[:2]:
        z = h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        h = z * expit(z)
    expected = h @ np.asarray(layers[2]["kernel"])[:, 0] + np.asarray(layers[2]["bias"])[0]
    energy = net.apply(params, x)
    assert energy.shape == ()
    np.testing.assert_allclose(energy, expected, rtol=1e-12)


@pytest.mark.parametrize("sigma", EXTREMES)
def test_score_mlp_starts_as_the_score_of_a_smoothed_gaussian(score_net, sigma):
    apply, params, _ = score_net
    for size in (1.0, 1e4):
        x = size * jnp.array([1.0, -2.0, 0.5])
        np.testing.assert_allclose(apply(params, x, sigma), -x / (sigma**2 + 0.25), rtol=1e-12)


def test_score_mlp_is_the_preconditioned_denoiser(score_net):
    # sigma (s + x / (sigma^2 + sigma_data^2)) = sigma_data c_in F: if F sees x only through c_in x and c_noise, then
    # scaling x with c_in held at c_in x gives one F at every sigma_data.
    _, _, params = score_net
    sigma, u = 0.8, jnp.array([0.7, -0.1, 0.4])
    found = []
    for sigma_data in (0.5, 2.0):
        net = dsm.ScoreMLP(width=16, num_blocks=2, sigma_data=sigma_data)
        c_in = 1 / np.sqrt(sigma**2 + sigma_data**2)
        x = u / c_in
        denoised = x + sigma**2 * net.apply(params, x, sigma)
        c_skip, c_out = sigma_data**2 * c_in**2, sigma * sigma_data * c_in
        found.append((denoised - c_skip * x) / c_out)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-11)
    assert np.abs(found[0]).min() > 1e-3


def test_score_mlp_starts_as_the_score_of_a_gaussian_with_deviations_of_its_own():
    deviations = (1e-4, 0.5, 30.0)
    net, x = dsm.ScoreMLP(width=16, num_blocks=1, sigma_data=deviations), jnp.array([1e-4, -2.0, 20.0])
    params, apply = init(net, x, 1.0), jax.jit(net.apply)
    for sigma in EXTREMES:
        expected = -x / (sigma**2 + np.square(deviations))
        np.testing.assert_allclose(apply(params, x, sigma), expected, rtol=1e-12)


def test_score_mlp_sees_the_best_linear_denoiser(score_net):
    # F = (D - c_skip x) / c_out, entry by entry, depends on x through c_skip x / rms only.
    _, _, params = score_net
    deviations, sigma, x = np.array([0.2, 1.0, 3.0]), 0.8, np.array([0.3, -0.6, 2.0])

    def parts(deviations, x):
        net = dsm.ScoreMLP(width=16, num_blocks=2, sigma_data=tuple(deviations))
        spread = np.hypot(sigma, deviations)
        denoised = x + sigma**2 * net.apply(params, jnp.asarray(x), sigma)
        F = (denoised - (deviations / spread) ** 2 * x) / (sigma * deviations / spread)
        return F, (deviations / spread) ** 2 * x / np.sqrt(np.mean(deviations**4 / spread**2))

    F, seen = parts(deviations, x)
    assert np.abs(F).min() > 1e-3
    # Other deviations and the x that then is seen as the same: the same F; another x: another.
    other = np.array([1.5, 0.4, 1.0])
    spread = np.hypot(sigma, other)
    same = seen * np.sqrt(np.mean(other**4 / spread**2)) * (spread / other) ** 2
    np.testing.assert_allclose(parts(other, same)[0], F, rtol=1e-10)
    assert np.abs(parts(other, x)[0] - F).max() > 1e-3
    # One deviation for all is one number for all.
    one, all_of_them = (dsm.ScoreMLP(width=16, num_blocks=2, sigma_data=d) for d in (0.5, (0.5, 0.5, 0.5)))
    np.testing.assert_allclose(
        one.apply(params, jnp.asarray(x), sigma), all_of_them.apply(params, jnp.asarray(x), sigma), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("sigma_data", "message"),
    [
        ((1.0, 2.0), "shape .2,.: a number is needed, or a sequence of 3"),
        ((1.0, 0.0, 1.0), "positive"),
        (-1.0, "positive"),
    ],
)
def test_deviations_that_cannot_be_are_refused(sigma_data, message):
    with pytest.raises(ValueError, match=message):
        dsm.ScoreMLP(width=4, num_blocks=1, sigma_data=sigma_data).init(jax.random.key(0), jnp.zeros(3), 1.0)


def test_an_energy_has_one_deviation():
    with pytest.raises(ValueError, match="one number"):
        precondition(jnp.zeros(3), 1.0, (1.0, 2.0, 3.0)).energy(jnp.zeros(()))


@pytest.mark.slow
def test_score_mlp_tells_levels_apart_by_more_than_the_scale_of_x(score_net):
    # The same c_in x at two levels: F = (D - c_skip x) / c_out differs only through c_noise.
    apply, _, params = score_net
    F = []
    for sigma in (0.1, 1.0):
        c_in = 1 / np.sqrt(sigma**2 + 0.25)
        x = jnp.array([0.7, -0.1, 0.4]) / c_in
        F.append((x + sigma**2 * apply(params, x, sigma) - 0.25 * c_in**2 * x) / (sigma * 0.5 * c_in))
    assert np.abs(F[0] - F[1]).max() > 1e-2


def test_score_mlp_denoises_nothing_without_noise_and_forgets_x_in_much(score_net):
    apply, _, params = score_net
    x = jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(x + 1e-12 * apply(params, x, 1e-6), x, atol=1e-4)
    near, far = (1e12 * apply(params, y, 1e6) + y for y in (x, 10 * x))
    np.testing.assert_allclose(near, far, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_networks_are_finite_at_every_sigma_and_keep_the_dtype(dtype):
    x = jnp.array([1.0, -2.0, 0.5], dtype)
    net, energy_net = dsm.ScoreMLP(width=8, num_blocks=1), dsm.ConditionalEnergyMLP(widths=(8, 8))
    params, energy_params = shake(init(net, x, x[0])), shake(init(energy_net, x, x[0]))
    assert {a.dtype for a in jax.tree.leaves((params, energy_params))} == {jnp.dtype(dtype)}

    @jax.jit
    @jax.vmap
    def scores(size, sigma):
        energy_score = dsm.score_of(lambda x, sigma: energy_net.apply(energy_params, x, sigma))
        return net.apply(params, size * x, sigma), energy_score(size * x, sigma)

    sizes, sigmas = np.meshgrid([0.0, 1.0, 1e4], EXTREMES)
    for s in scores(jnp.asarray(sizes.ravel(), dtype), jnp.asarray(sigmas.ravel(), dtype)):
        assert s.dtype == dtype and s.shape == (15, 3)
        assert np.isfinite(s).all()


@pytest.mark.slow
def test_score_mlp_keeps_any_shape(score_net):
    net = dsm.ScoreMLP(width=8, num_blocks=1)
    x = jax.random.normal(jax.random.key(0), (2, 3))
    params = shake(init(net, x, 1.0))
    score = net.apply(params, x, 0.5)
    assert score.shape == (2, 3)
    np.testing.assert_allclose(score.reshape(-1), net.apply(params, x.reshape(-1), 0.5), rtol=1e-13)


def test_a_batch_by_vmap_is_the_examples_one_by_one(score_net):
    apply, _, params = score_net
    x = jax.random.normal(jax.random.key(0), (4, 3))
    sigma = jnp.array([0.01, 0.1, 1.0, 10.0])
    together = jax.jit(jax.vmap(apply, in_axes=(None, 0, 0)))(params, x, sigma)
    for i in range(4):
        np.testing.assert_allclose(together[i], apply(params, x[i], sigma[i]), rtol=1e-10)


def test_conditional_energy_has_the_preconditioned_score():
    # With all parameters zero f = 0: the score of N(0, sigma_data^2 I) smoothed.
    net = dsm.ConditionalEnergyMLP(widths=(8,), sigma_data=0.5)
    x = jnp.array([1.0, -2.0])
    params = jax.tree.map(jnp.zeros_like, init(net, x, 1.0))
    score = dsm.score_of(lambda x, sigma: net.apply(params, x, sigma))
    np.testing.assert_allclose(score(x, 0.3), -x / (0.09 + 0.25), rtol=1e-13)
    # With f(u, c) = k . u the score gains -sigma_data / sigma c_in k: one inner layer would bend it, none is linear.
    linear = dsm.ConditionalEnergyMLP(widths=(), sigma_data=0.5)
    params = jax.tree.map(jnp.zeros_like, init(linear, x, 1.0))
    kernel = params["params"]["EnergyMLP_0"]["Dense_0"]["kernel"].at[:2, 0].set(jnp.array([3.0, 4.0]))
    params["params"]["EnergyMLP_0"]["Dense_0"]["kernel"] = kernel
    score = dsm.score_of(lambda x, sigma: linear.apply(params, x, sigma))
    c_in = 1 / np.sqrt(0.09 + 0.25)
    expected = -np.asarray(x) * c_in**2 - 0.5 / 0.3 * c_in * np.array([3.0, 4.0])
    np.testing.assert_allclose(score(x, 0.3), expected, rtol=1e-12)


def test_labels_of_score_mlp_matter_and_leave_the_other_parameters_as_they_were(score_net):
    _, plain, _ = score_net
    net = dsm.ScoreMLP(width=16, num_blocks=2, sigma_data=0.5, num_classes=2)
    x = jnp.array([1.0, -2.0, 0.5])
    params = init(net, x, 1.0)
    table = params["params"].pop("label")
    assert table["kernel"].shape == (3, 16)
    jax.tree.map(np.testing.assert_array_equal, params, plain)
    params["params"]["label"] = table
    apply, params = jax.jit(net.apply), shake(params)
    scores = [apply(params, x, 1.0, jnp.asarray(label)) for label in range(3)]
    for i in range(3):
        assert np.abs(scores[i] - scores[i - 1]).max() > 1e-3
    np.testing.assert_allclose(apply(params, x, 1.0), scores[2], rtol=1e-12)
    assert np.isnan(apply(params, x, 1.0, jnp.asarray(3))).all()
    assert np.isnan(apply(params, x, 1.0, jnp.asarray(-1))).all()
    for label in (-1, 3):
        with pytest.raises(ValueError, match=rf"label = {label}: it must lie in 0..2"):
            net.apply(params, x, 1.0, label)


def test_score_mlp_refuses_a_label_without_classes_and_fewer_classes_than_none(score_net):
    _, _, params = score_net
    with pytest.raises(ValueError, match="without classes"):
        dsm.ScoreMLP(width=16, num_blocks=2).apply(params, jnp.zeros(3), 1.0, 0)
    with pytest.raises(ValueError, match="num_classes = -1"):
        dsm.ScoreMLP(width=16, num_blocks=2, num_classes=-1).apply(params, jnp.zeros(3), 1.0)


def test_score_mlp_in_bfloat16_keeps_float32_parameters_and_the_dtype_of_x():
    x, sigma = jax.random.normal(jax.random.key(0), (64, 3), jnp.float32), jnp.float32(0.5)
    exact, half = (dsm.ScoreMLP(width=16, num_blocks=2, dtype=dtype) for dtype in (None, jnp.bfloat16))
    params = shake(jax.eval_shape(half.init, jax.random.key(0), x[0], sigma))
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    # The score less its Gaussian part is F to a constant. Every layer rounds to a relative 2^-9 = 0.2%; in root mean
    # square, six draws of the parameters gave 0.6% to 1.1% together. One example can be three times as far off.
    F = [jax.jit(jax.vmap(net.apply, (None, 0, None)))(params, x, sigma) + x / 1.25 for net in (exact, half)]
    error = np.sqrt(np.mean(np.square(F[1] - F[0])) / np.mean(np.square(F[0])))
    assert 1e-4 < error < 0.02
    assert F[1].dtype == jnp.float32
    assert jax.eval_shape(half.apply, params, x[0].astype(jnp.bfloat16), sigma).dtype == jnp.bfloat16

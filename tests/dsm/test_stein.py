import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsm
from dsm.stein import inverse_multiquadric, rbf, stein_discrepancy, stein_kernel

KERNELS = [rbf, inverse_multiquadric]
B = 1.3
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(7, 2, 3)))


def score(x):
    return -x + 0.3 * jnp.sin(2 * jnp.flip(x))


def closed_kernel(kernel, x, y):
    """k(x, y) written out from its definition."""
    u = jnp.sum((x - y) ** 2) / B**2
    return jnp.exp(-u / 2) if kernel is rbf else (1 + u) ** -0.5


@pytest.fixture(scope="module", params=KERNELS, ids=lambda k: k.__name__)
def pairs(request):
    """A kernel, and u_p over all pairs of X with derivatives of the kernel by jax.grad."""
    k = lambda x, y: closed_kernel(request.param, x, y)  # noqa: E731
    flat = lambda x: score(x.reshape(2, 3)).ravel()  # noqa: E731

    @jax.jit
    @jax.vmap
    def u(x, y):
        s, t = flat(x), flat(y)
        mixed = jnp.trace(jax.jacfwd(jax.grad(k, argnums=0), argnums=1)(x, y))
        slopes = jnp.dot(s, jax.grad(k, argnums=1)(x, y)) + jnp.dot(t, jax.grad(k, argnums=0)(x, y))
        return k(x, y) * jnp.dot(s, t) + slopes + mixed

    points = np.asarray(X).reshape(7, 6)
    i, j = np.divmod(np.arange(49), 7)
    return request.param, np.asarray(u(jnp.asarray(points[i]), jnp.asarray(points[j]))).reshape(7, 7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_comes_with_its_derivatives(kernel):
    u = jnp.array([0.0, 0.3, 2.0, 30.0])
    value = lambda u: kernel(u)[0]  # noqa: E731
    phi, slope, curvature = jax.jit(jax.vmap(kernel))(u)
    x, y = jnp.sqrt(u) * B, jnp.zeros(4)
    expected = lambda u, x, y: (closed_kernel(kernel, x, y), jax.grad(value)(u), jax.grad(jax.grad(value))(u))  # noqa: E731
    for got, truth in zip((phi, slope, curvature), jax.jit(jax.vmap(expected))(u, x, y), strict=True):
        np.testing.assert_allclose(got, truth, rtol=1e-12)


def test_the_stein_kernel_is_that_of_differentiated_kernels(pairs):
    kernel, u = pairs
    got = jax.jit(lambda x, y: stein_kernel(score, x, y, bandwidth=B, kernel=kernel))
    for i, j in ((0, 1), (4, 2), (3, 3)):
        np.testing.assert_allclose(got(X[i], X[j]), u[i, j], rtol=1e-11)


def test_the_discrepancy_is_the_mean_over_pairs(pairs):
    kernel, u = pairs
    mean = lambda unbiased: stein_discrepancy(score, X, bandwidth=B, kernel=kernel, unbiased=unbiased)  # noqa: E731
    np.testing.assert_allclose(mean(False), u.mean(), rtol=1e-11)
    np.testing.assert_allclose(mean(True), (u.sum() - np.trace(u)) / 42, rtol=1e-11)


def gauss_hermite(num):
    nodes, weights = np.polynomial.hermite_e.hermegauss(num)
    return jnp.asarray(nodes), jnp.asarray(weights / weights.sum())


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_mean_is_zero_at_the_true_score_and_known_for_a_wrong_one(kernel):
    # Sample N(0, 1), score -a x: E u_p = (1 - a)^2 E x y k(x, y), over two independent draws.
    nodes, weights = gauss_hermite(120)

    @jax.jit
    def mean(a):
        u = lambda x, y: stein_kernel(lambda x: -a * x, x, y, bandwidth=B, kernel=kernel)  # noqa: E731
        return weights @ jax.vmap(jax.vmap(u, (None, 0)), (0, None))(nodes, nodes) @ weights

    x, y = np.meshgrid(nodes, nodes)
    moment = (
        np.asarray(weights) @ (x * y * jax.vmap(jax.vmap(lambda x, y: closed_kernel(kernel, x, y)))(x, y)) @ weights
    )
    if kernel is rbf:
        # Of x - y and (x + y)/2, independent, the kernel tilts the first to the variance 2 c^2, c^-2 = 1 + 2/b^2.
        c = (1 + 2 / B**2) ** -0.5
        np.testing.assert_allclose(moment, 0.5 * c * (1 - c**2), rtol=1e-8)
    assert moment > 0.05
    assert abs(mean(1.0)) < 1e-8
    for a in (0.0, 0.5, 2.0):
        np.testing.assert_allclose(mean(a), (1 - a) ** 2 * moment, rtol=1e-7)


def test_for_a_true_score_the_mean_over_one_point_alone_is_zero():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0], [1.5]], [0.3, 0.6])
    grid = dsm.quadrature_grid(-8.0, 9.0, 200)
    u = lambda x: stein_kernel(target.score, x, jnp.array([0.4]), bandwidth=B)  # noqa: E731
    values, logdensity = jax.jit(jax.vmap(lambda x: (u(x), target.logdensity(x))))(grid.points)
    assert abs(np.sum(np.exp(grid.log_weights + logdensity) * values)) < 1e-9
    assert np.max(np.abs(values)) > 1.0


def test_the_u_statistic_is_unbiased_and_the_v_statistic_is_not_negative():
    target = dsm.gaussian([1.0, -0.5], [[1.0, 0.6], [0.6, 0.8]])
    samples = target.sample(jax.random.key(0), 300 * 20).reshape(300, 20, 2)

    @jax.jit
    @jax.vmap
    def statistics(x):
        both = [stein_discrepancy(target.score, x, bandwidth=1.0, unbiased=unbiased) for unbiased in (True, False)]
        return *both, stein_discrepancy(lambda x: 0.5 * target.score(x), x, bandwidth=1.0)

    u, v, wrong = (np.asarray(a) for a in statistics(samples))
    assert abs(u.mean()) < 4 * u.std() / np.sqrt(300)
    assert u.min() < 0 <= v.min()
    assert wrong.mean() > 10 * wrong.std() / np.sqrt(300)


def test_as_a_loss_it_has_the_gradient_of_the_plain_formula_and_leads_to_the_true_parameter():
    # The sample's own score family -a x: the loss is quadratic in a, so its minimiser follows from two gradients.
    x = dsm.gaussian([0.0, 0.0], 1.0).sample(jax.random.key(1), 400)

    def plain(a):
        r = x[:, None, :] - x[None, :, :]
        k = jnp.exp(-jnp.sum(r**2, axis=2) / 2)
        u = k * (a**2 * (x @ x.T) - a * jnp.sum(r**2, axis=2) + 2 - jnp.sum(r**2, axis=2))
        return (jnp.sum(u) - jnp.trace(u)) / (400 * 399)

    loss = jax.jit(jax.grad(lambda a: stein_discrepancy(lambda x: -a * x, x, bandwidth=1.0, kernel=rbf)))
    expected = jax.jit(jax.grad(plain))
    for a in (0.0, 1.0, 2.0):
        np.testing.assert_allclose(loss(a), expected(a), rtol=1e-10)
    # The standard error of the estimate of a is about 1 / sqrt(400).
    assert abs(loss(0.0) / (loss(0.0) - loss(1.0)) - 1.0) < 4 / np.sqrt(400)


def test_gradients_are_finite_where_points_coincide():
    twice = jnp.concatenate([X, X])
    for kernel in KERNELS:
        gradient = jax.jit(jax.grad(lambda x: stein_discrepancy(score, x, bandwidth=B, kernel=kernel)))  # noqa: B023
        assert np.all(np.isfinite(gradient(twice)))


def test_memory_is_linear_in_the_sample_under_grad():
    def compiled(num):
        loss = lambda a, x: stein_discrepancy(lambda x: -a * x, x, bandwidth=1.0)  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(1.0, jnp.zeros((num, 2))).compile().memory_analysis().temp_size_in_bytes

    # A square of the sample would be 8 MB at 1000 points.
    assert compiled(1000) < 1_000_000


def test_energies_shapes_and_float32():
    energy = lambda x: 0.5 * jnp.sum(x * x)  # noqa: E731
    compute = jax.jit(lambda x: stein_discrepancy(dsm.score_of(energy), x, bandwidth=B))
    single = compute(X.astype(jnp.float32))
    assert single.dtype == jnp.float32 and single.shape == ()
    np.testing.assert_allclose(single, stein_discrepancy(lambda x: -x, X.reshape(7, 6), bandwidth=B), rtol=1e-4)


def test_a_common_shift_changes_nothing():
    shift = 100.0
    expected = stein_discrepancy(score, X, bandwidth=B)
    got = stein_discrepancy(lambda x: score(x - shift), X + shift, bandwidth=B)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, np.nan, np.inf])
def test_a_bad_bandwidth_is_refused_by_name(bandwidth):
    with pytest.raises(ValueError, match=f"bandwidth = {bandwidth}"):
        stein_discrepancy(score, X, bandwidth=bandwidth)
    with pytest.raises(ValueError, match=f"bandwidth = {bandwidth}"):
        stein_kernel(score, X[0], X[1], bandwidth=bandwidth)


def test_bad_samples_and_scores_are_refused_by_name():
    with pytest.raises(ValueError, match="x_batch has 1 points: at least 2"):
        stein_discrepancy(score, X[:1], bandwidth=B)
    with pytest.raises(ValueError, match="x_batch has 0 points: at least 1"):
        stein_discrepancy(score, X[:0], bandwidth=B, unbiased=False)
    with pytest.raises(ValueError, match=r"x_batch\[3, 1, 2\] = nan"):
        stein_discrepancy(score, X.at[3, 1, 2].set(np.nan), bandwidth=B)
    with pytest.raises(ValueError, match=r"y\[0, 0\] = inf"):
        stein_kernel(score, X[0], X[1].at[0, 0].set(np.inf), bandwidth=B)
    for call in (stein_discrepancy, lambda s, x, **kw: stein_kernel(s, x[0], x[1], **kw)):
        with pytest.raises(ValueError, match=r"score\(x\) has shape \(3,\) for x of shape \(2, 3\)"):
            call(lambda x: x[0], X, bandwidth=B)


def test_the_v_statistic_of_one_point_is_its_own_stein_kernel():
    for kernel, x in itertools.product(KERNELS, (X[:1], X[2:3])):
        got = stein_discrepancy(score, x, bandwidth=B, kernel=kernel, unbiased=False)
        # u_p(x, x) = |s|^2 + D / b^2 for both kernels.
        expected = np.sum(np.asarray(score(x[0])) ** 2) + 6 / B**2
        np.testing.assert_allclose(got, expected, rtol=1e-13)

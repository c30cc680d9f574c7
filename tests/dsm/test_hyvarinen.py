import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import dsm
from dsm import hyvarinen
from dsm.hyvarinen import implicit, sliced, sliced_finite_difference

KEY = jax.random.key(0)


def energy(x):
    """Neither quadratic nor separable, on any shape."""
    flat = x.reshape(-1)
    return 0.5 * jnp.sum(flat**2) + jnp.sum(jnp.sin(flat) * jnp.roll(flat, 1)) + 0.05 * jnp.sum(flat) ** 4


score = dsm.score_of(energy)
exact = jax.jit(lambda x: implicit(score, x))
X = jnp.linspace(-1.0, 1.2, 6).reshape(2, 3)


def derivatives(x):
    """s(x) and grad s(x), flat, from jax.hessian."""
    flat = lambda u: energy(u.reshape(x.shape))  # noqa: E731
    gradient, hessian = jax.jit(lambda u: (jax.grad(flat)(u), jax.hessian(flat)(u)))(x.ravel())
    return -np.asarray(gradient), -np.asarray(hessian)


def every_sign(x):
    """All 2^D vectors of signs, each like x."""
    return jnp.array(list(itertools.product([-1.0, 1.0], repeat=x.size))).reshape(-1, *x.shape)


def test_implicit_is_the_trace_and_half_the_squared_score():
    s, jacobian = derivatives(X)
    np.testing.assert_allclose(exact(X), np.trace(jacobian) + 0.5 * s @ s, rtol=1e-12)


def test_implicit_and_explicit_differ_by_a_constant_and_have_the_same_gradient():
    target = dsm.gaussian_mixture([0.3, 0.7], [[-1.0], [1.5]], [0.3, 0.6])
    grid = dsm.quadrature_grid(-8.0, 9.0, 200)
    logdensity, true_score = jax.jit(jax.vmap(lambda x: (target.logdensity(x), target.score(x)[0])))(grid.points)
    weights = jnp.exp(grid.log_weights + logdensity)

    def model(theta):
        return lambda x: -theta[0] * x + theta[1] + theta[2] * jnp.sin(2 * x) + theta[3] * x**3

    def mean(loss):
        return lambda theta: jnp.sum(weights * jax.vmap(lambda x: loss(model(theta), x))(grid.points))

    by_parts = jax.jit(jax.value_and_grad(mean(implicit)))
    direct = jax.jit(jax.value_and_grad(mean(lambda s, x: dsm.explicit(s, target.score, x))))
    constant = 0.5 * jnp.sum(weights * true_score**2)
    for theta in ([1.0, 0.0, 0.0, 0.0], [0.3, -0.5, 0.8, -0.1]):
        (a, grad_a), (b, grad_b) = by_parts(jnp.array(theta)), direct(jnp.array(theta))
        np.testing.assert_allclose(a, b - constant, atol=1e-9)
        np.testing.assert_allclose(grad_a, grad_b, atol=1e-8)


def test_the_least_value_for_a_gaussian_is_minus_half_the_trace_of_its_precision():
    # Quadratic in x, so three Gauss-Hermite nodes along each axis are exact.
    covariance = np.array([[1.0, 0.6], [0.6, 0.8]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    z = np.array(list(itertools.product(nodes, nodes)))
    w = np.prod(list(itertools.product(weights, weights)), axis=1) / (2 * np.pi)
    x = jnp.asarray(z @ np.linalg.cholesky(covariance).T)
    precision = np.linalg.inv(covariance)
    loss = jax.jit(lambda A, x: jax.vmap(lambda x: implicit(dsm.score_of(dsm.quadratic(jnp.zeros(2), A)), x))(x))
    np.testing.assert_allclose(w @ loss(jnp.asarray(precision), x), -0.5 * np.trace(precision), rtol=1e-12)
    # E = A x^2 / 2 in general: -tr A + 1/2 tr A S A', the least value plus 1/2 tr (A - P) S (A - P)'.
    A = np.array([[2.0, -0.3], [-0.3, 0.5]])
    excess = 0.5 * np.trace((A - precision) @ covariance @ (A - precision))
    np.testing.assert_allclose(w @ loss(jnp.asarray(A), x), excess - 0.5 * np.trace(precision), rtol=1e-12)


def test_the_least_value_for_a_standard_normal_is_minus_one_half():
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    values = jax.jit(jax.vmap(lambda x: implicit(lambda x: -x, x)))(jnp.asarray(nodes)[:, None])
    np.testing.assert_allclose(values @ weights / weights.sum(), -0.5, rtol=1e-13)


@pytest.mark.parametrize("variance_reduced", [False, True])
def test_over_every_vector_of_signs_sliced_is_implicit(monkeypatch, variance_reduced):
    monkeypatch.setattr(hyvarinen, "_directions", lambda key, x, *_: every_sign(x))
    every = jax.jit(lambda x: sliced(KEY, score, x, variance_reduced=variance_reduced))(X)
    np.testing.assert_allclose(every, exact(X), rtol=1e-12)


@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("directions", ["rademacher", "gaussian"])
def test_sliced_has_the_mean_of_implicit_and_the_variance_of_its_quadratic_form(directions, variance_reduced):
    x = X.ravel()[:3]
    loss = lambda key: sliced(key, score, x, directions=directions, variance_reduced=variance_reduced)  # noqa: E731
    values = np.asarray(jax.jit(jax.vmap(loss))(jax.random.split(KEY, 50_000)))
    assert abs(values.mean() - exact(x)) < 4 * values.std() / np.sqrt(len(values))
    s, form = derivatives(x)
    form = form if variance_reduced else form + 0.5 * np.outer(s, s)
    if directions == "rademacher":
        form = form - np.diag(np.diag(form))
    squares = (values - values.mean()) ** 2
    assert abs(squares.mean() - 2 * np.sum(form**2)) < 4 * squares.std() / np.sqrt(len(values))


@pytest.mark.slow
def test_the_reduced_variance_is_lower_in_many_dimensions_and_may_be_higher_in_one():
    def variance(x, variance_reduced):
        loss = lambda key: sliced(  # noqa: E731
            key, lambda x: -x, x, directions="gaussian", variance_reduced=variance_reduced
        )
        return np.var(jax.jit(jax.vmap(loss))(jax.random.split(KEY, 5000)))

    # For s = -x: 2 |-I + xx'/2|^2 = 2 D - 2 |x|^2 + |x|^4 / 2 against 2 D.
    many, one = jnp.full(16, 1.0), jnp.array([1.0])
    assert variance(many, True) < 0.5 * variance(many, False)
    assert variance(one, True) > 2 * variance(one, False)


@pytest.mark.parametrize("num_directions", [1, 3])
def test_through_an_energy_sliced_is_that_of_its_score(num_directions):
    def both(a, x):
        energy = lambda x: jnp.sum(a * jnp.cosh(x - 0.3)) + 0.5 * jnp.sum(x) ** 2  # noqa: E731
        through = dsm.score_of(energy)
        return [sliced(KEY, s, x, num_directions=num_directions) for s in (through, lambda x: through(x))]

    values = jax.jit(both)(jnp.array(0.7), X)
    slopes = jax.jit(jax.jacrev(both))(jnp.array(0.7), X)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"energy\(x\) has shape \(2, 3\) for x of shape \(2, 3\)"):
        sliced(KEY, dsm.score_of(lambda x: x**2), X)
    with pytest.raises(ValueError, match=r"x\[0, 1\] = nan"):
        sliced(KEY, dsm.score_of(lambda x: jnp.sum(x**2)), X.at[0, 1].set(jnp.nan))


@pytest.mark.slow
def test_directions_are_averaged():
    v = np.asarray(jax.random.rademacher(KEY, (5, 2, 3), X.dtype)).reshape(5, 6)
    s, jacobian = derivatives(X)
    traces = np.einsum("ki,ij,kj->k", v, jacobian, v)
    np.testing.assert_allclose(
        sliced(KEY, score, X, num_directions=5), np.mean(traces + 0.5 * (v @ s) ** 2), rtol=1e-12
    )
    reduced = sliced(KEY, score, X, num_directions=5, variance_reduced=True)
    np.testing.assert_allclose(reduced, np.mean(traces) + 0.5 * s @ s, rtol=1e-12)


def test_finite_differences_converge_to_sliced_at_order_two():
    limit = sliced(KEY, score, X, num_directions=2)
    steps = jnp.array([0.02, 0.01, 0.005])
    values = jax.jit(
        lambda steps: jax.lax.map(lambda h: sliced_finite_difference(KEY, energy, X, step=h, num_directions=2), steps)
    )(steps)
    errors = np.abs(values - limit)
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 2.0, atol=0.1)


def test_finite_differences_lead_with_the_error_that_is_stated():
    x, h, v = jnp.array([0.7]), 1e-2, 1.0
    g = lambda r: -energy(x + r * v)  # noqa: E731
    orders = [g]
    for _ in range(4):
        orders.append(jax.grad(orders[-1]))
    d1, _, d3, d4 = jax.jit(lambda r: [d(r) for d in orders[1:]])(0.0)
    error = jax.jit(lambda x: sliced_finite_difference(KEY, energy, x, step=h) - sliced(KEY, score, x))(x)
    np.testing.assert_allclose(error, h**2 * (d4 / 12 + d1 * d3 / 6), rtol=1e-2)


def test_finite_differences_are_not_divided_by_the_dimension():
    # For N(0, I_3) and signs v, v' grad s v = -3 and v's = -v'x, with no truncation error.
    x = jnp.array([0.5, -1.0, 2.0])
    v = np.asarray(jax.random.rademacher(KEY, (1, 3), x.dtype))[0]
    value = sliced_finite_difference(KEY, lambda x: 0.5 * jnp.sum(x * x), x, step=0.1)
    np.testing.assert_allclose(value, -3 + 0.5 * (v @ np.asarray(x)) ** 2, rtol=1e-12)


@pytest.mark.parametrize(
    "dtype, tolerance", [(jnp.float64, 1e-6), pytest.param(jnp.float32, 1e-2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("directions", ["rademacher", "gaussian"])
def test_the_default_step_suits_the_dtype(dtype, tolerance, directions):
    x = X.ravel()[:3].astype(dtype)
    value = sliced_finite_difference(KEY, energy, x, directions=directions)
    assert value.dtype == dtype
    # Truncation and rounding are both of the order sqrt(u), 1.5e-8 and 3.5e-4, times derivatives of up to order 4.
    np.testing.assert_allclose(value, sliced(KEY, score, x, directions=directions), rtol=tolerance)


@pytest.mark.slow
def test_gradients_in_the_parameters_are_those_of_the_plain_formulas():
    def network(params, x):
        hidden = jnp.tanh(jnp.matmul(params["W"], x.ravel(), precision="highest"))
        return jnp.sum(params["w"] * hidden) + 0.5 * jnp.sum(x * x)

    rng = np.random.default_rng(0)
    params = {"W": jnp.asarray(rng.normal(size=(4, 6))), "w": jnp.asarray(rng.normal(size=4))}
    v = jax.random.rademacher(KEY, (2, 6), X.dtype)

    def plain(params, reduce):
        s = lambda x: -jax.grad(lambda x: network(params, x))(x)  # noqa: E731
        return reduce(jax.jacrev(s)(X.ravel()), s(X.ravel()))

    def losses(params):
        model = dsm.score_of(lambda x: network(params, x))
        return jnp.stack(
            [
                implicit(model, X),
                sliced(KEY, model, X, num_directions=2),
                sliced_finite_difference(KEY, lambda x: network(params, x), X, num_directions=2),
            ]
        )

    def oracles(params):
        form = lambda J, s: jnp.mean(jnp.einsum("ki,ij,kj->k", v, J, v) + 0.5 * (v @ s) ** 2)  # noqa: E731
        first = plain(params, lambda J, s: jnp.trace(J) + 0.5 * jnp.sum(s * s))
        return jnp.stack([first, plain(params, form), plain(params, form)])

    got, expected = jax.jit(jax.jacrev(losses))(params), jax.jit(jax.jacrev(oracles))(params)
    for row, tolerance in ((0, 1e-11), (1, 1e-11), (2, 1e-5)):
        a, b = (ravel_pytree(jax.tree.map(lambda leaf: leaf[row], tree))[0] for tree in (got, expected))  # noqa: B023
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_memory_under_grad_does_not_grow_with_the_number_of_directions():
    def compiled(num):
        def loss(a, x):
            one = lambda x: sliced(KEY, lambda x: jnp.tanh(a * x) - x, x, num_directions=num)  # noqa: E731
            return jnp.mean(jax.vmap(one)(x))

        return jax.jit(jax.grad(loss)).lower(1.0, jnp.zeros((64, 64))).compile().memory_analysis().temp_size_in_bytes

    # The directions themselves, shared by the batch, are 64 numbers each; activations would be 64 * 64 for each.
    assert compiled(128) - compiled(8) < 0.25 * (128 - 8) * 64 * 64 * 8


def test_jit_and_vmap_and_float32():
    @jax.jit
    def losses(keys, x):
        return jax.vmap(
            lambda key, x: (
                implicit(score, x),
                sliced(key, score, x),
                sliced(key, score, x, directions="gaussian", variance_reduced=True),
                sliced_finite_difference(key, energy, x),
            )
        )(keys, x)

    keys, x = jax.random.split(KEY, 3), jnp.stack([X, 0.5 * X, -X])
    double, single = losses(keys, x), losses(keys, x.astype(jnp.float32))
    assert all(value.dtype == jnp.float32 and value.shape == (3,) for value in single)
    np.testing.assert_allclose(double[0][1], exact(0.5 * X), rtol=1e-12)
    np.testing.assert_allclose(single[0], double[0], rtol=1e-4)
    np.testing.assert_allclose(single[1], double[1], rtol=1e-4)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_directions": 0}, "num_directions = 0"),
        ({"directions": "sphere"}, "directions = 'sphere'"),
    ],
)
def test_bad_directions_are_refused_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sliced(KEY, score, X, **kwargs)
    with pytest.raises(ValueError, match=message):
        sliced_finite_difference(KEY, energy, X, **kwargs)


@pytest.mark.parametrize("step", [0.0, -0.1, np.nan, np.inf])
def test_a_bad_step_is_refused_by_name(step):
    with pytest.raises(ValueError, match=f"step = {step}"):
        sliced_finite_difference(KEY, energy, X, step=step)


def test_a_score_of_another_shape_and_an_energy_that_is_no_scalar_are_refused():
    sums, many = lambda x: jnp.sum(x), lambda x: x**2
    with pytest.raises(ValueError, match=r"score\(x\) has shape \(\) for x of shape \(2, 3\)"):
        implicit(sums, X)
    with pytest.raises(ValueError, match=r"score\(x\) has shape \(\) for x of shape \(2, 3\)"):
        jax.jit(lambda x: sliced(KEY, sums, x))(X)
    with pytest.raises(ValueError, match=r"energy\(x\) has shape \(2, 3\) for x of shape \(2, 3\)"):
        sliced_finite_difference(KEY, many, X)
    with pytest.raises(ValueError, match=r"energy\(x\) has shape \(2, 3\)"):
        implicit(dsm.score_of(many), X)


def test_an_example_that_is_not_finite_is_refused_where_it_is():
    bad = X.at[1, 2].set(jnp.nan)
    with pytest.raises(ValueError, match=r"x\[1, 2\] = nan"):
        implicit(score, bad)
    with pytest.raises(ValueError, match=r"x\[1, 2\] = nan"):
        sliced(KEY, score, bad)
    with pytest.raises(ValueError, match=r"x\[1, 2\] = nan"):
        sliced_finite_difference(KEY, energy, bad)

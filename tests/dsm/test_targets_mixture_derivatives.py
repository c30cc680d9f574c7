"""The derivative of a mixture's log-density is written by hand: against the machine's, of a formula written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dsm

MIXTURE = dsm.gaussian_mixture(
    [0.3, 0.7], [[1.0, 0.0], [-0.5, 1.0]], [[[2.0, 0.8], [0.8, 1.0]], [[1.0, -0.3], [-0.3, 0.5]]]
)
X = jnp.array([[0.4, -0.2], [3.0, 1.0], [-1.0, -2.0]])


def naive(mixture, x):
    u = jnp.einsum("kji,kj->ki", mixture.axes, x[None] - mixture.means)
    quadratic = jnp.sum(u * u / mixture.variances + jnp.log(2 * np.pi * mixture.variances), axis=1)
    return jnp.log(jnp.sum(mixture.weights * jnp.exp(-0.5 * quadratic)))


def handmade(mixture, x):
    return mixture.logdensity(x)


def both(transform):
    return [jax.jit(jax.vmap(transform(f), (None, 0)))(MIXTURE, X) for f in (handmade, naive)]


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: f,
        lambda f: jax.grad(f, argnums=1),
        lambda f: jax.jacfwd(f, argnums=1),
        lambda f: jax.hessian(f, argnums=1),
        lambda f: jax.grad(f, argnums=0),
        lambda f: jax.grad(f, argnums=(0, 1)),
        # One leaf of the parameters alone, forwards.
        lambda f: lambda m, x: jax.jacfwd(lambda means: f(m._replace(means=means), x))(m.means),
        # Across: parameters of the score, as training on a score would need.
        lambda f: jax.jacrev(jax.grad(f, argnums=1), argnums=0),
    ],
    ids=["value", "grad", "jacfwd", "hessian", "parameters", "both", "means", "parameters of the score"],
)
def test_every_derivative_is_that_of_the_formula_written_out(transform):
    mine, machine = both(transform)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-10, atol=1e-12), mine, machine)


def test_the_derivative_in_the_parameters_does_not_lose_the_one_in_x():
    tangent = jax.tree.map(jnp.ones_like, MIXTURE)
    moved = jax.jit(lambda t: handmade(jax.tree.map(lambda a, d: a + t * d, MIXTURE, tangent), X[0] + t))
    step = 1e-6
    slope = (moved(step) - moved(-step)) / (2 * step)
    assert_allclose(jax.jvp(moved, (0.0,), (1.0,))[1], slope, rtol=1e-7)


def test_float32_keeps_its_derivatives_float32():
    mixture = jax.tree.map(lambda a: a.astype(jnp.float32), MIXTURE)
    shapes = jax.eval_shape(jax.grad(handmade, argnums=(0, 1)), mixture, X[0].astype(jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_a_component_of_no_weight_leaves_derivatives_alone():
    mixture = dsm.gaussian_mixture([1.0, 0.0], [[0.0], [1.0]], 1.0)
    x = jnp.array([0.3])
    # log N(0.3; 0, 1 + sigma^2) in sigma: (x^2 / (1 + sigma^2) - 1) sigma / (1 + sigma^2).
    slope = jax.jvp(lambda sigma: mixture.smooth(sigma).logdensity(x), (0.5,), (1.0,))[1]
    np.testing.assert_allclose(slope, (0.09 / 1.25 - 1) * 0.5 / 1.25, rtol=1e-12)


def test_a_point_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match="x has shape"):
        dsm.two_modes().logdensity(jnp.ones(1))

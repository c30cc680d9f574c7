"""Score-matching objectives with derivatives of the score, each for one example: they need neither p nor noise.

All of them have the mean of `implicit` or come close to it, and so the minimiser of `explicit`, the score of the data
themselves. A score is any function `score(x)` that returns an array like x; that of an energy is `score_of(energy)`.
x may have any shape.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from .energies import EnergyScore, check_finite, checked_score, scalar_energy
from .losses import half_squared_norm


def implicit(
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]], x: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """tr grad s(x) + 1/2 |s(x)|^2, whose mean over x ~ p is that of `explicit` less 1/2 E |grad log p|^2.

    Integration by parts, for p that vanishes at infinity: E s' grad log p = -E tr grad s. The least value is
    -1/2 E |grad log p|^2, for N(m, S) -1/2 tr inv(S).

    Exact; it costs D products with grad s, D the size of x, one at a time, so that memory grows no faster than x, here
    and in the gradient. Raises ValueError if score(x) is not like x, or x is known and not finite. Source:
    Hyvarinen (2005), equation 4.
    """
    s, diagonal = score_and_diagonal(score, x)
    return jnp.sum(diagonal) + half_squared_norm(s)


def sliced(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    *,
    num_directions: int = 1,
    directions: str = "rademacher",
    variance_reduced: bool = False,
) -> Float[Array, ""]:
    """v' grad s(x) v + 1/2 (v's(x))^2 for a random v with E v v' = I, averaged over num_directions of them.

    With variance_reduced it is v' grad s(x) v + 1/2 |s(x)|^2, Hutchinson's estimate of the trace in `implicit`. Either
    has the mean `implicit`, over v. Either is v'Av plus a constant: with signs (directions "rademacher") its variance
    is 2 sum_{i != j} A_ij^2, with v ~ N(0, I) ("gaussian") 2 sum_ij A_ij^2, A being the symmetric part of grad s, or of
    grad s + 1/2 s s'. Signs are never worse. "Variance reduced" is no theorem: in a few dimensions s s' may cancel some
    of grad s.

    It costs one product with grad s for each direction; for the score of an energy (`score_of`), unless variance
    reduced, less: both terms are derivatives of E along v, -E'' and 1/2 E'^2. An energy with a derivative of its own in
    reverse alone (`jax.custom_vjp`) has none forward twice: give `lambda x: -jax.grad(energy)(x)`.

    `key` is consumed. Raises ValueError if num_directions < 1, directions is another string, score(x) is not like x, or
    x is known and not finite. Source: Song, Garg, Shi and Ermon (2019), "Sliced score matching", equations 7 and 8;
    Hutchinson (1989).
    """
    v = _directions(key, x, num_directions, directions)
    if isinstance(score, EnergyScore) and not variance_reduced:
        check_finite("x", x)

        # Forward twice leaves 11 matrix products of a layer to the gradient, forward over reverse 12, and fewer arrays.
        def along(v: Float[Array, "*shape"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
            slope = lambda x: jax.jvp(lambda x: scalar_energy(score.energy, x), (x,), (v,))[1]  # noqa: E731
            return jax.jvp(slope, (x,), (v,))

        slopes, curvatures = _each(along, v)
        return jnp.mean(0.5 * slopes**2 - curvatures)
    s, curvatures = _along(score, x, v)
    if variance_reduced:
        return jnp.mean(curvatures) + half_squared_norm(s)
    return jnp.mean(curvatures + 0.5 * _dots(v, s) ** 2)


def sliced_finite_difference(
    key: Key[Array, ""],
    energy: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    x: Float[Array, "*shape"],
    *,
    step: float | Float[Array, ""] | None = None,
    num_directions: int = 1,
    directions: str = "rademacher",
) -> Float[Array, ""]:
    """(f(x + hv) - 2 f(x) + f(x - hv)) / h^2 + 1/2 ((f(x + hv) - f(x - hv)) / 2h)^2, f = -E, h = step.

    `sliced` from values of the energy alone, without a derivative in x, averaged over num_directions; the same key
    draws the same v. It differs from `sliced` by O(h^2), with g(r) = f(x + r v) by h^2 (g^(4) / 12 + g^(1) g^(3) / 6)
    to begin with, and by rounding, about 4 u |E| / h^2, u the rounding unit. The default step u^(1/4), 1.2e-4 in
    float64 and 0.019 in float32, is for energies that vary over distances of order 1. |v|^2 has the mean D, so nothing
    is to be divided by D.

    `key` is consumed. Raises ValueError if step is known and not positive, num_directions < 1, directions is another
    string, the energy is not a scalar, or x is known and not finite. Source: Pang et al. (2020), "Efficient learning of
    generative models via finite-difference score matching".
    """
    check_finite("x", x)
    h = float(jnp.finfo(x.dtype).eps) ** 0.25 if step is None else step
    if not isinstance(h, Tracer) and not 0 < float(h) < np.inf:
        raise ValueError(f"step = {h}: it must be positive and finite")
    h = jnp.asarray(h, x.dtype)
    here = -scalar_energy(energy, x)

    def along(v: Float[Array, "*shape"]) -> Float[Array, ""]:
        ahead, behind = -scalar_energy(energy, x + h * v), -scalar_energy(energy, x - h * v)
        # Differences of neighbours first: f(x + hv) + f(x - hv) would round off what is sought.
        return ((ahead - here) - (here - behind)) / h**2 + 0.5 * ((ahead - behind) / (2.0 * h)) ** 2

    return jnp.mean(_each(along, _directions(key, x, num_directions, directions)))


def score_and_diagonal(
    score: Callable[..., Float[Array, "*shape"]], x: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, " D"]]:
    """s(x) and the diagonal of grad s(x), D the size of x, one entry at a time: the Jacobian of an image is too large.

    Raises ValueError if score(x) is not like x, or x is known and not finite.
    """
    return _along(score, x, jnp.arange(x.size), lambda i: jax.nn.one_hot(i, x.size, dtype=x.dtype))


def _along(
    score: Callable[..., Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    seeds: Array,
    direction: Callable[[Array], Array] = lambda v: v,
) -> tuple[Float[Array, "*shape"], Float[Array, " k"]]:
    """s(x), and v_i' grad s(x) v_i for each v_i = direction(seeds_i), of as many entries as x."""
    s, product = jax.linearize(checked_score(score, x), x)

    def curvature(seed):
        v = direction(seed).reshape(x.shape)
        return jnp.sum(v * product(v))

    return s, _each(curvature, seeds)


def _each(function: Callable[[Array], Any], seeds: Array) -> Any:
    """function(seed) for each seed, stacked."""
    if seeds.shape[0] == 1:
        return jax.tree.map(lambda a: a[None], function(seeds[0]))
    # One at a time and recomputed in the backward pass: a vmap holds the activations of all directions, and where
    # there are many of them it is several times slower under grad, on a CPU.
    return jax.lax.map(jax.checkpoint(function), seeds)


def _dots(v: Float[Array, "k *shape"], s: Float[Array, "*shape"]) -> Float[Array, " k"]:
    return jnp.matmul(v.reshape(v.shape[0], -1), s.reshape(-1), precision="highest")


def _directions(key: Key[Array, ""], x: Float[Array, "*shape"], num: int, directions: str) -> Float[Array, "k *shape"]:
    if num < 1:
        raise ValueError(f"num_directions = {num}: at least one direction is needed")
    if directions == "rademacher":
        return jax.random.rademacher(key, (num, *x.shape), x.dtype)
    if directions == "gaussian":
        return jax.random.normal(key, (num, *x.shape), x.dtype)
    raise ValueError(f"directions = {directions!r}: they are 'rademacher' or 'gaussian'")

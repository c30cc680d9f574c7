"""Energies E, of which a model is the density p(x) = exp(-E(x)) / Z, and the scores that they define.

An energy is any function `energy(x) -> scalar`; over noise levels it is `energy(x, sigma) -> scalar`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def score_of(energy: Callable[..., Float[Array, ""]]) -> Callable[..., Float[Array, "..."]]:
    """s(x) = grad_x log p(x) = -grad_x E(x), in which the unknown constant Z has dropped out.

    Further arguments pass through: `score_of(energy)(x, sigma)` is -grad_x E(x, sigma). x may have any shape.
    """

    def score(x: Float[Array, "*shape"], *args) -> Float[Array, "*shape"]:
        return -jax.grad(energy)(x, *args)

    return score


def quadratic(
    mean: Float[Array, " D"], precision: Float[Array, "D D"]
) -> Callable[[Float[Array, " D"]], Float[Array, ""]]:
    """E(x) = 1/2 (x - mean)' P (x - mean), the energy of the Gaussian N(mean, inv(P)).

    Its log Z is D/2 log 2 pi - 1/2 log det P. The precision P is taken as it is: if it is not symmetric,
    its symmetric part counts.
    """

    def energy(x: Float[Array, " D"]) -> Float[Array, ""]:
        u = x - mean
        return 0.5 * jnp.vdot(u, jnp.matmul(precision, u, precision="highest"), precision="highest")

    return energy

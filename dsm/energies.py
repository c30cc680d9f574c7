"""Energies E, of which a model is the density p(x) = exp(-E(x)) / Z, and the scores that they define.

An energy is any function `energy(x) -> scalar`; over noise levels it is `energy(x, sigma) -> scalar`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Num


@dataclass(frozen=True, eq=False)
class EnergyScore:
    """The score of an energy, with the energy at hand for objectives that are cheaper through it; see `score_of`."""

    energy: Callable[..., Float[Array, ""]]

    def __call__(self, x: Float[Array, "*shape"], *args) -> Float[Array, "*shape"]:
        """-grad_x E(x, *args)."""
        return -jax.grad(lambda x: scalar_energy(self.energy, x, *args))(x)


def score_of(energy: Callable[..., Float[Array, ""]]) -> EnergyScore:
    """s(x) = grad_x log p(x) = -grad_x E(x), in which the unknown constant Z has dropped out.

    Further arguments pass through: `score_of(energy)(x, sigma)` is -grad_x E(x, sigma). x may have any shape.
    The score raises ValueError if the energy is not a scalar.
    """
    return EnergyScore(energy)


def scalar_energy(
    energy: Callable[..., Float[Array, "..."]], x: Float[Array, "*shape"], *args, name: str = "energy"
) -> Float[Array, ""]:
    """E(x), or another function that goes by `name`. Raises ValueError unless it is a scalar."""
    value = energy(x, *args)
    if jnp.shape(value) != ():
        raise ValueError(f"{name}(x) has shape {jnp.shape(value)} for x of shape {x.shape}: it must be a scalar")
    return value


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


def checked_score(
    score: Callable[..., Float[Array, "..."]], x: Float[Array, "*shape"], name: str = "score"
) -> Callable[..., Float[Array, "*shape"]]:
    """The same score, for an objective at x: it raises ValueError where its value has not the shape of its argument.

    A value of another shape would broadcast in silence. Raises ValueError if x is known and not finite.
    """
    check_finite("x", x)

    def like_its_argument(x: Float[Array, "*shape"], *args) -> Float[Array, "*shape"]:
        value = score(x, *args)
        if jnp.shape(value) != x.shape:
            raise ValueError(f"{name}(x) has shape {jnp.shape(value)} for x of shape {x.shape}: they must agree")
        return value

    return like_its_argument


def check_finite(name: str, x: Num[Array, "*shape"]) -> None:
    """Raises ValueError unless all of x is finite, with the first place where it is not; a traced x passes unseen."""
    if isinstance(x, Tracer):
        return
    bad = np.argwhere(~np.isfinite(np.asarray(x)))
    if len(bad):
        place = f"[{', '.join(map(str, bad[0]))}]" if x.ndim else ""
        raise ValueError(f"{name}{place} = {np.asarray(x)[tuple(bad[0])]}: it must be finite")

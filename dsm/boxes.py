"""A box with reflecting walls, for chains that must not leave it."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float


class Box(NamedTuple):
    """{x: lower <= x <= upper}; bounds broadcast against x and may be infinite. Made by `box`, which checks them."""

    lower: Float[Array, "..."]
    upper: Float[Array, "..."]

    def reflect(self, x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Bool[Array, "*shape"]]:
        """x folded back into the box, as often as it takes, and which coordinates now run the other way.

        On an interval [l, l + w] a point at distance y past l comes to l + |y mod 2w - 2w [y mod 2w > w]|. Reflection
        keeps volume, and a step density that is symmetric stays so.
        """
        lower, upper = (jnp.broadcast_to(jnp.asarray(b, x.dtype), x.shape) for b in self)
        width = upper - lower
        closed = jnp.isfinite(width)
        turn = jnp.where(closed, 2.0 * width, 1.0)
        y = jnp.mod(x - jnp.where(closed, lower, 0.0), turn)
        folded = jnp.clip(jnp.where(closed, lower, 0.0) + jnp.minimum(y, turn - y), lower, upper)
        # With one wall, or none, a point is on the wrong side once at most.
        single = jnp.where(x < lower, 2.0 * lower - x, jnp.where(x > upper, 2.0 * upper - x, x))
        inside = (x >= lower) & (x <= upper)
        reversed_ = jnp.where(closed, y > 0.5 * turn, True) & ~inside
        return jnp.where(inside, x, jnp.where(closed, folded, single)), reversed_

    def contains(self, x: Float[Array, "*shape"]) -> Bool[Array, ""]:
        """Whether all of x lies in the box."""
        return jnp.all((x >= jnp.asarray(self.lower, x.dtype)) & (x <= jnp.asarray(self.upper, x.dtype)))


def box(lower: float | Float[Array, "..."], upper: float | Float[Array, "..."]) -> Box:
    """The box [lower, upper], coordinate by coordinate. Raises ValueError unless lower < upper, where known."""
    if not isinstance(lower, Tracer) and not isinstance(upper, Tracer):
        low, high = np.asarray(lower), np.asarray(upper)
        ok = np.atleast_1d(low < high)
        if not ok.all():
            i = np.unravel_index(np.argmin(ok), ok.shape)
            pair = tuple(np.broadcast_to(b, ok.shape)[i] for b in (low, high))
            raise ValueError(f"lower = {pair[0]}, upper = {pair[1]} at {tuple(map(int, i))}: lower must be below upper")
    return Box(jnp.asarray(lower, jnp.result_type(float)), jnp.asarray(upper, jnp.result_type(float)))

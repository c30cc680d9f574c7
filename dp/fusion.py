"""Where XLA on CPU must not join two computations into one loop.

It likes to compute `max_a q` and `argmax_a q` in one loop with q itself, once for each, and gathers every successor as
often: a backup of a sparse model then takes five times as long. An optimization barrier does not survive on CPU. So q
is computed inside a conditional, across which nothing is joined.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def apart(valid: Bool[Array, ""], f: Callable[..., Array], *args) -> Array:
    """Return `f(*args)` as an array of its own; NaN where not valid, which must not be known at compile time."""

    def alone(valid, *args) -> Array:
        shape = jax.eval_shape(f, *args)
        return jax.lax.cond(valid, f, lambda *_: jnp.full(shape.shape, jnp.nan, shape.dtype), *args)

    return jax.lax.platform_dependent(valid, *args, cpu=alone, default=lambda valid, *args: f(*args))

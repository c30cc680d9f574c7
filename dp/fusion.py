"""Where XLA on CPU must not join two computations into one loop.

It likes to compute `max_a q` and `argmax_a q` in one loop with q itself, once for each, and gathers every successor as
often: a backup of a sparse model then takes five times as long. An optimization barrier does not survive on CPU. So q
is computed inside a conditional, across which nothing is joined.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def apart(gamma: float | Float[Array, ""], f: Callable[..., Any], *args) -> Any:
    """Return `f(*args)` as arrays of their own; NaN (or 0) where γ is NaN, which is not known at compile time."""

    def nothing(*args) -> Any:
        def full(x: jax.ShapeDtypeStruct) -> Array:
            return jnp.full(x.shape, jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else 0, x.dtype)

        return jax.tree.map(full, jax.eval_shape(f, *args))

    def alone(valid, *args) -> Any:
        return jax.lax.cond(valid, f, nothing, *args)

    return jax.lax.platform_dependent(~jnp.isnan(gamma), *args, cpu=alone, default=lambda valid, *args: f(*args))

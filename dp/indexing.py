"""Indexing by numbers that are known to be in range, as those of a checked model are."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int


def at(x: Array, index: Int[Array, "..."] | tuple[Any, ...]) -> Array:
    """Return `x[index]` without a look at whether an index is out of range or counts from the end.

    XLA makes these looks a pass over the indices of its own, and in a loop keeps the result: another copy of them.
    """
    return jnp.asarray(x).at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)

"""The two modes of `experiments.mixing`, 4/5 N((5, 5), I) + 1/5 N((-5, -5), I): where chains start, and end."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

HEAVY = 0.8
"""The weight of the heavy mode, the one at (5, 5)."""
HALF_WIDTH = 8.0
"""Chains start uniformly on [-8, 8]^2."""


def starts(key: Key[Array, ""], num: int, dtype: jnp.dtype | None = None) -> Float[Array, "num 2"]:
    """Uniform on the square. `key` is consumed."""
    return jax.random.uniform(key, (num, 2), dtype, -HALF_WIDTH, HALF_WIDTH)


def heavy(x: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    """1 nearer to (5, 5), 0 nearer to (-5, -5)."""
    return (jnp.sum(x, axis=-1) > 0).astype(x.dtype)


def attracted() -> float:
    """The share of starts that the score draws to the heavy mode: those above the line x_1 + x_2 = -log(4) / 10."""
    side = 2 * HALF_WIDTH
    return 1 - (side - math.log(4) / 10) ** 2 / (2 * side**2)

"""What all networks are made of: activation, dense and convolutional layers, the embedding of noise scale and label."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .convolution import Conv

Label = int | Int[Array, ""] | None


def silu(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """z / (1 + exp(-z)) = z/2 (1 + tanh(z/2)), smooth, as a score by differentiation needs."""
    # XLA has a fast vectorised tanh on the CPU and a slow exp and divide; the gradient is cheaper too.
    return 0.5 * z * (1.0 + jnp.tanh(0.5 * z))


@dataclass(frozen=True)
class Layers:
    """How layers compute: activations in `dtype` (None: that of the parameters), parameters in `param_dtype`."""

    dtype: DTypeLike | None
    param_dtype: DTypeLike
    precision: str

    def dense(self, features: int, **kwargs) -> nn.Dense:
        """W h + b along the last axis of h."""
        return nn.Dense(features, dtype=self.dtype, param_dtype=self.param_dtype, precision=self.precision, **kwargs)

    def conv(self, features: int, **kwargs) -> Conv:
        """3x3 convolution of h [H, W, C] with zeros around it."""
        return Conv(features, self.dtype, self.param_dtype, **kwargs)


def embed(layers: Layers, width: int, c_noise: Float[Array, ""], label: Label, num_classes: int) -> Float[Array, " n"]:
    """silu(W fourier(c_noise) + b + V[label]): what tells a network the noise scale and the class.

    V has num_classes + 1 rows, the last for "no class", which None means too; without classes there is no V. A label
    that is out of range and traced gives NaN. Raises ValueError if the label is known and not in 0..num_classes, if
    there are no classes to label, or if num_classes < 0.
    """
    if num_classes < 0:
        raise ValueError(f"num_classes = {num_classes}: it must not be negative")
    z = layers.dense(width)(_fourier(c_noise))
    if num_classes == 0:
        if label is not None:
            raise ValueError("a label was given to a network without classes: set num_classes")
        return silu(z)
    label = num_classes if label is None else label
    if not isinstance(label, Tracer) and not 0 <= int(label) <= num_classes:
        raise ValueError(f"label = {label}: it must lie in 0..{num_classes}, and {num_classes} means no class")
    # A product, not a lookup, so that no gradient is a scatter, whose sums may have any order on an accelerator.
    row = jax.nn.one_hot(label, num_classes + 1, dtype=c_noise.dtype)
    row = jnp.where(jnp.any(row != 0), row, jnp.nan)
    table = layers.dense(width, use_bias=False, kernel_init=nn.initializers.normal(1.0), name="label")
    return silu(z + table(row))


def standardise(h: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """h with mean 0 and mean square 1, the layer norm without parameters."""
    # The embedding scales and shifts, or the next layer does. In half precision means would be far off.
    wide = at_least_float32(h)
    u = wide - jnp.mean(wide)
    return (u * jax.lax.rsqrt(jnp.mean(u * u) + 1e-6)).astype(h.dtype)


def at_least_float32(a: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same numbers, in float32 if they have fewer bits."""
    return a.astype(jnp.float32) if a.dtype.itemsize < 4 else a


def _fourier(c: Float[Array, ""], num: int = 16) -> Float[Array, " two_num"]:
    # Periods from a hundred e-folds of sigma down to three quarters of one: finer than neighbouring levels
    # differ would be noise.
    angle = c * jnp.geomspace(0.25, 32.0, num, dtype=c.dtype)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])

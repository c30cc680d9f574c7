"""The 3x3 convolution of one image, in forms that are fast on a CPU inside of a scan too.

In the body of a loop XLA for CPUs has fast code only for a convolution as it is written here, not for its derivatives
as JAX writes them: these took up to a hundred times as long as outside of it. Sums of products with shifted images do
not suffer from that, nor do their own derivatives.
"""

from functools import reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class Conv(nn.Module):
    """y[a, b] = sum_ij h[a + i - 1, b + j - 1] K[i, j] + bias, with zeros around h."""

    features: int
    dtype: DTypeLike | None
    param_dtype: DTypeLike
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, h: Float[Array, "H W C"]) -> Float[Array, "H W features"]:
        """h [H, W, C] to [H, W, features]."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, h.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        h, kernel, bias = (a.astype(self.dtype or self.param_dtype) for a in (h, kernel, bias))
        return convolve(h, kernel) + bias[None, None]


@jax.custom_jvp
def convolve(h: Float[Array, "H W C"], kernel: Float[Array, "3 3 C D"]) -> Float[Array, "H W D"]:
    """y[a, b] = sum_ij h[a + i - 1, b + j - 1] kernel[i, j], with zeros around h."""
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(h[None], kernel, (1, 1), "SAME", dimension_numbers=numbers, precision="highest")
    return y[0]


@convolve.defjvp
def _(primals, tangents):
    (h, kernel), (dh, dkernel) = primals, tangents
    return convolve(h, kernel), _shifted(dh, kernel) + _shifted(h, dkernel)


def _shifted(h: Float[Array, "H W C"], kernel: Float[Array, "3 3 C D"]) -> Float[Array, "H W D"]:
    """`convolve`, as the sum of nine products."""
    H, W, _ = h.shape
    padded = jnp.pad(h, ((1, 1), (1, 1), (0, 0)))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return reduce(
        jnp.add, (jnp.matmul(padded[i : i + H, j : j + W], kernel[i, j], precision="highest") for i, j in shifts)
    )

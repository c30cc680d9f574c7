"""The scaling that all networks over noise levels share, for a denoiser D = c_skip x + c_out F(c_in x, c_noise).

c_skip = sigma_data^2 / (sigma^2 + sigma_data^2), c_out = sigma sigma_data c_in, c_in = (sigma^2 + sigma_data^2)^(-1/2)
and c_noise = log(sigma) / 4, where sigma_data is the standard deviation of the (centred) data: what F sees and what it
has to give have unit variance at every sigma. Source: Karras et al. (2022), "Elucidating the design space of
diffusion-based generative models", equation 7 and Table 1.

Where the coordinates of x have deviations of their own and no correlations, as principal components do, sigma_data has
one entry for each, and so have all c but c_noise. What F has to give still has unit variance in each. At first, when F
is 0, D is then the best linear denoiser (Wiener's), and the score that of N(0, diag(sigma_data^2)) smoothed: nothing is
left to learn of the many directions in which data hardly vary. What F sees is this denoiser's result, c_skip x, over
its root mean square: no noise, where noise is all. One sigma_data for all coordinates makes that c_in x again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .layers import at_least_float32


class Preconditioned(NamedTuple):
    """x and sigma as the network within sees them, and the way back to a score or an energy."""

    u: Float[Array, "*shape"]
    """c_in x, in float32 or better."""
    sigma: Float[Array, ""]
    spread: Float[Array, "..."]
    """(sigma^2 + sigma_data^2)^(1/2) = 1 / c_in, one number or like x."""
    sigma_data: Float[Array, "..."]

    def c_noise(self) -> Float[Array, ""]:
        """log(sigma) / 4."""
        return 0.25 * jnp.log(self.sigma)

    def seen(self) -> Float[Array, "*shape"]:
        """What F sees: c_skip x over its root mean square, which is u for one sigma_data."""
        if self.sigma_data.ndim == 0:
            return self.u
        # c_skip x = r u, where r is the deviation of c_skip x; over the largest sigma_data, so that no square is lost.
        largest = jnp.max(self.sigma_data)
        r = (self.sigma_data / largest) ** 2 * (largest / self.spread)
        return r / jnp.sqrt(jnp.mean(r * r)) * self.u

    def score(self, F: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """(D - x) / sigma^2 = c_in (-u + sigma_data / sigma F)."""
        # The cancellation is done on paper: nothing is lost as sigma goes to 0.
        return (-self.u + self.sigma_data / self.sigma * F) / self.spread

    def energy(self, f: Float[Array, ""]) -> Float[Array, ""]:
        """|u|^2 / 2 + sigma_data / sigma f, whose score is that of F = -f'(u), for one sigma_data."""
        if self.sigma_data.ndim:
            raise ValueError("sigma_data of an energy must be one number")
        return 0.5 * jnp.sum(self.u * self.u) + self.sigma_data / self.sigma * f


def precondition(
    x: Float[Array, "*shape"], sigma: float | Float[Array, ""], sigma_data: float | Sequence[float]
) -> Preconditioned:
    """x and sigma, scaled. Raises ValueError unless sigma_data is a number or has x.size entries, all positive."""
    x = at_least_float32(x)
    deviations = np.asarray(sigma_data, float)
    if deviations.ndim and deviations.shape != (x.size,):
        raise ValueError(
            f"sigma_data has shape {deviations.shape}: a number is needed, or a sequence of {x.size}, as x has"
        )
    if not np.all((deviations > 0) & np.isfinite(deviations)):
        raise ValueError("sigma_data must be positive and finite")
    data = jnp.asarray(deviations.reshape(x.shape) if deviations.ndim else deviations, x.dtype)
    sigma = jnp.asarray(sigma, x.dtype)
    spread = jnp.hypot(sigma, data)
    return Preconditioned(x / spread, sigma, spread, data)

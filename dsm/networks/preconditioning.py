"""The scaling that all networks over noise levels share, for a denoiser D = c_skip x + c_out F(c_in x, c_noise).

c_skip = sigma_data^2 / (sigma^2 + sigma_data^2), c_out = sigma sigma_data c_in, c_in = (sigma^2 + sigma_data^2)^(-1/2)
and c_noise = log(sigma) / 4, where sigma_data is the standard deviation of the (centred) data: what F sees and what it
has to give have unit variance at every sigma. Source: Karras et al. (2022), "Elucidating the design space of
diffusion-based generative models", equation 7 and Table 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from .layers import at_least_float32


class Preconditioned(NamedTuple):
    """x and sigma as the network within sees them, and the way back to a score or an energy."""

    u: Float[Array, "*shape"]
    """c_in x, in float32 or better."""
    sigma: Float[Array, ""]
    spread: Float[Array, ""]
    """(sigma^2 + sigma_data^2)^(1/2) = 1 / c_in."""
    sigma_data: float

    def c_noise(self) -> Float[Array, ""]:
        """log(sigma) / 4."""
        return 0.25 * jnp.log(self.sigma)

    def score(self, F: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """(D - x) / sigma^2 = c_in (-u + sigma_data / sigma F)."""
        # The cancellation is done on paper: nothing is lost as sigma goes to 0.
        return (-self.u + self.sigma_data / self.sigma * F) / self.spread

    def energy(self, f: Float[Array, ""]) -> Float[Array, ""]:
        """|u|^2 / 2 + sigma_data / sigma f, whose score is that of F = -f'(u)."""
        return 0.5 * jnp.sum(self.u * self.u) + self.sigma_data / self.sigma * f


def precondition(x: Float[Array, "*shape"], sigma: float | Float[Array, ""], sigma_data: float) -> Preconditioned:
    """x and sigma, scaled."""
    x = at_least_float32(x)
    sigma = jnp.asarray(sigma, x.dtype)
    spread = jnp.hypot(sigma, jnp.asarray(sigma_data, x.dtype))
    return Preconditioned(x / spread, sigma, spread, sigma_data)

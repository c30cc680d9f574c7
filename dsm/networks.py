"""Networks for energies and scores, for one example; parameters take the dtype of the x of `init`."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def silu(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """z / (1 + exp(-z)) = z/2 (1 + tanh(z/2)), smooth, as a score by differentiation needs."""
    # XLA has a fast vectorised tanh on the CPU and a slow exp and divide; the gradient is cheaper too.
    return 0.5 * z * (1.0 + jnp.tanh(0.5 * z))


class EnergyMLP(nn.Module):
    """E(x), an unconstrained perceptron with SiLU layers of the given widths; its score is `score_of`.

    Nothing makes exp(-E) integrable: an energy trained by score matching is trustworthy only where there was
    data.
    """

    widths: Sequence[int] = (128, 128)
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """x [D] to the scalar E(x)."""
        h = x
        for width in self.widths:
            h = silu(_dense(self, width, h))
        return _dense(self, 1, h)[0]


class ConditionalEnergyMLP(nn.Module):
    """E(x, sigma) = |c_in x|^2 / 2 + sigma_data / sigma f(c_in x, c_noise), f an `EnergyMLP`.

    c_in and c_noise are those of `ScoreMLP`. With F = -f', -grad_x E is the preconditioned score of
    `ScoreMLP`. The loss weighted by sigma^2 then gives f the weight sigma_data^2 / (sigma^2 + sigma_data^2).
    Source: Karras et al. (2022), Table 1; Salimans and Ho (2021) for energies.
    """

    widths: Sequence[int] = (128, 128)
    sigma_data: float = 1.0
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Float[Array, " D"], sigma: float | Float[Array, ""]) -> Float[Array, ""]:
        """x [D] and sigma to the scalar E(x, sigma)."""
        sigma = jnp.asarray(sigma, x.dtype)
        spread = jnp.hypot(sigma, jnp.asarray(self.sigma_data, x.dtype))
        u = x / spread
        f = EnergyMLP(self.widths, self.precision)(jnp.concatenate([u, _c_noise(sigma)[None]]))
        return 0.5 * jnp.sum(u * u) + self.sigma_data / sigma * f


class ScoreMLP(nn.Module):
    """s(x, sigma) = (D(x, sigma) - x) / sigma^2 with the denoiser D = c_skip x + c_out F(c_in x, c_noise).

    c_skip = sigma_data^2 / (sigma^2 + sigma_data^2), c_out = sigma sigma_data c_in, c_in = (sigma^2 +
    sigma_data^2)^(-1/2), c_noise = log(sigma) / 4. F is a residual perceptron: num_blocks blocks of two
    layers of the given width, each shifted and scaled by an embedding of c_noise. F is 0 at first, so
    training starts from the score of N(0, sigma_data^2 I) smoothed. sigma_data is the standard deviation of
    the (centred) data. Source: Karras et al. (2022), equation 7 and Table 1.
    """

    width: int = 128
    num_blocks: int = 3
    sigma_data: float = 1.0
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], sigma: float | Float[Array, ""]) -> Float[Array, "*shape"]:
        """x of any shape and sigma to a score like x."""
        sigma = jnp.asarray(sigma, x.dtype)
        spread = jnp.hypot(sigma, jnp.asarray(self.sigma_data, x.dtype))
        u = x.reshape(-1) / spread
        emb = silu(_dense(self, self.width, _fourier(_c_noise(sigma))))
        h = _dense(self, self.width, u)
        for _ in range(self.num_blocks):
            scale, shift = jnp.split(_dense(self, 2 * self.width, emb), 2)
            r = _dense(self, self.width, silu((1.0 + scale) * _standardise(h) + shift))
            h = h + _dense(self, self.width, silu(r))
        F = _dense(self, x.size, silu(_standardise(h)), kernel_init=nn.initializers.zeros)
        # (D - x) / sigma^2 with the cancellation done on paper: nothing is lost as sigma goes to 0.
        return ((-u + self.sigma_data / sigma * F) / spread).reshape(x.shape)


def _dense(module: nn.Module, features: int, h: Float[Array, " n"], **kwargs) -> Float[Array, " m"]:
    return nn.Dense(features, precision=module.precision, param_dtype=h.dtype, **kwargs)(h)  # type: ignore


def _c_noise(sigma: Float[Array, ""]) -> Float[Array, ""]:
    return 0.25 * jnp.log(sigma)


def _fourier(c: Float[Array, ""], num: int = 16) -> Float[Array, " two_num"]:
    # Periods from a hundred e-folds of sigma down to three quarters of one: finer than neighbouring levels
    # differ would be noise.
    angle = c * jnp.geomspace(0.25, 32.0, num, dtype=c.dtype)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


def _standardise(h: Float[Array, " n"]) -> Float[Array, " n"]:
    # Layer norm without parameters of its own: the embedding scales and shifts, or the next layer does.
    u = h - jnp.mean(h)
    return u * jax.lax.rsqrt(jnp.mean(u * u) + 1e-6)

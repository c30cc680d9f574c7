"""Perceptrons, for points of few dimensions and small images."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .layers import Label, Layers, embed, silu, standardise
from .preconditioning import precondition


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
        layers, h = Layers(None, x.dtype, self.precision), x
        for width in self.widths:
            h = silu(layers.dense(width)(h))
        return layers.dense(1)(h)[0]


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
        scaled = precondition(x, sigma, self.sigma_data)
        f = EnergyMLP(self.widths, self.precision)(jnp.concatenate([scaled.u, scaled.c_noise()[None]]))
        return scaled.energy(f).astype(x.dtype)


class ScoreMLP(nn.Module):
    """s(x, sigma) = (D(x, sigma) - x) / sigma^2 with the denoiser D = c_skip x + c_out F(c_in x, c_noise).

    c_skip = sigma_data^2 / (sigma^2 + sigma_data^2), c_out = sigma sigma_data c_in, c_in = (sigma^2 +
    sigma_data^2)^(-1/2), c_noise = log(sigma) / 4. F is a residual perceptron: num_blocks blocks of two
    layers of the given width, each shifted and scaled by an embedding of c_noise and, with num_classes > 0, of a
    label. F is 0 at first, so training starts from the score of N(0, sigma_data^2 I) smoothed. sigma_data is the
    standard deviation of the (centred) data.

    For data of unlike and uncorrelated coordinates, such as principal components, sigma_data has an entry for each: so
    have the c then, and F sees c_skip x over its root mean square in place of c_in x (see `preconditioning`). For
    images of 28 x 28 pixels that saves most of the training. Source: Karras et al. (2022), equation 7 and Table 1.
    """

    width: int = 128
    num_blocks: int = 3
    sigma_data: float | Sequence[float] = 1.0
    precision: str = "highest"
    num_classes: int = 0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape"], sigma: float | Float[Array, ""], label: Label = None
    ) -> Float[Array, "*shape"]:
        """x of any shape, sigma and a label in 0..num_classes to a score like x; num_classes or None means no class.

        Raises ValueError if the label is known and out of range, or there are no classes.
        """
        scaled = precondition(x, sigma, self.sigma_data)
        layers = Layers(self.dtype, scaled.u.dtype, self.precision)
        emb = embed(layers, self.width, scaled.c_noise(), label, self.num_classes)
        h = layers.dense(self.width)(scaled.seen().reshape(-1))
        for _ in range(self.num_blocks):
            scale, shift = jnp.split(layers.dense(2 * self.width)(emb), 2)
            r = layers.dense(self.width)(silu((1.0 + scale) * standardise(h) + shift))
            h = h + layers.dense(self.width)(silu(r))
        F = layers.dense(x.size, kernel_init=nn.initializers.zeros)(silu(standardise(h)))
        return scaled.score(F.astype(scaled.u.dtype).reshape(x.shape)).astype(x.dtype)

"""U-Nets for images."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .layers import Label, Layers, at_least_float32, embed, silu
from .preconditioning import precondition


class UNet(nn.Module):
    """F(u, c_noise, label) like the image u [H, W, C], 0 at first; `ScoreUNet` says what the fields mean."""

    widths: Sequence[int] = (32, 64)
    num_blocks: int = 1
    patch: int = 2
    num_heads: int = 4
    sigma_data: float = 1.0
    precision: str = "highest"
    num_classes: int = 0
    dtype: DTypeLike | None = None

    @nn.compact
    def network(self, u: Float[Array, "H W C"], c_noise: Float[Array, ""], label: Label) -> Float[Array, "H W C"]:
        """F(u, c_noise, label)."""
        layers = Layers(self.dtype, u.dtype, self.precision)
        emb = embed(layers, 4 * self.widths[0], c_noise, label, self.num_classes)
        h = layers.conv(self.widths[0])(fold(u, self.patch))
        skips = []
        for width in self.widths[1:]:
            h = self._blocks(layers, h, emb)
            skips.append(h)
            h = layers.dense(width)(fold(h, 2))
        h = self._blocks(layers, h, emb)
        if self.num_heads:
            h = Attention(self.num_heads, layers)(h)
        h = self._blocks(layers, h, emb)
        for skip in reversed(skips):
            # A sum costs half of what putting the channels side by side does.
            h = unfold(layers.dense(4 * skip.shape[-1])(h), 2) + skip
            h = self._blocks(layers, h, emb)
        last = layers.conv(self.patch**2 * u.shape[-1], kernel_init=nn.initializers.zeros)
        return unfold(last(silu(standardise_groups(h))), self.patch).astype(u.dtype)

    def image(self, x: Float[Array, "*shape"]) -> tuple[int, int, int]:
        """(H, W, C). Raises ValueError unless x is an image whose sides can be halved at every level."""
        for name, least in (("num_blocks", 1), ("patch", 1), ("num_heads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be at least {least}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths = {tuple(self.widths)}: one positive width is needed for each level")
        if self.num_heads and self.widths[-1] % self.num_heads:
            raise ValueError(f"num_heads = {self.num_heads} does not divide the last width, {self.widths[-1]}")
        if x.ndim not in (2, 3) or x.size == 0:
            raise ValueError(f"x has shape {x.shape}: an image [H, W] or [H, W, C] is needed")
        H, W = x.shape[:2]
        block = self.patch * 2 ** (len(self.widths) - 1)
        if H % block or W % block:
            raise ValueError(
                f"x has {H} x {W} pixels: both must be multiples of {block}, which is "
                f"patch = {self.patch} times 2 for each of the {len(self.widths) - 1} widths after the first"
            )
        return H, W, x.shape[2] if x.ndim == 3 else 1

    def _blocks(self, layers, h, emb):
        for _ in range(self.num_blocks):
            h = ResidualBlock(layers)(h, emb)
        return h


class ScoreUNet(UNet):
    """s(x, sigma) = (D(x, sigma) - x) / sigma^2 as `ScoreMLP`, with a U-Net for F, for images [H, W] or [H, W, C].

    The image is cut into squares of patch x patch pixels, each of which becomes one pixel of many channels:
    convolutions at full resolution are dear on a CPU. There is a level for each of `widths`, which are its channels,
    each of half the resolution of the one before; a level has num_blocks residual blocks on the way down and as many
    on the way up, where what left it on the way down is added. At the lowest level there is self-attention with
    num_heads heads in between; 0 leaves it out. The embedding of c_noise and, with num_classes > 0, of a label scales
    and shifts within every block. F is 0 at first, so training starts from the score of N(0, sigma_data^2 I) smoothed.
    precision is that of the dense layers and of attention. H and W must be multiples of
    patch 2^(levels - 1). Source: Ronneberger et al. (2015); Ho et al. (2020), appendix B; Karras et al. (2022).
    """

    def __call__(
        self, x: Float[Array, "*shape"], sigma: float | Float[Array, ""], label: Label = None
    ) -> Float[Array, "*shape"]:
        """x [H, W] or [H, W, C], sigma and a label in 0..num_classes to a score like x.

        The label num_classes or None means no class. Raises ValueError if x has another shape or cannot be halved so
        often, if a field is out of range, if the label is known and out of range, or if there are no classes.
        """
        image, scaled = self.image(x), precondition(x, sigma, self.sigma_data)
        F = self.network(scaled.u.reshape(image), scaled.c_noise(), label)
        return scaled.score(F.reshape(x.shape)).astype(x.dtype)


class EnergyUNet(UNet):
    """E(x, sigma) = |u|^2 / 2 - sigma_data / sigma <u, N(u, c_noise)>, u = c_in x, N the U-Net of `ScoreUNet`.

    Its score by `score_of` is that of `ScoreUNet` with F = N + (dN/du)' u, the gradient of <u, N>: conservative, and at
    first that of N(0, sigma_data^2 I) smoothed, since N is 0. All of N is smooth, as a loss on the score needs.
    Source: Salimans and Ho (2021), "Should EBMs model the energy or the score?", whose energy is the square of x - D.
    """

    def __call__(
        self, x: Float[Array, "*shape"], sigma: float | Float[Array, ""], label: Label = None
    ) -> Float[Array, ""]:
        """x [H, W] or [H, W, C], sigma and a label in 0..num_classes to the scalar E(x, sigma, label).

        Raises ValueError as `ScoreUNet` does.
        """
        image, scaled = self.image(x), precondition(x, sigma, self.sigma_data)
        N = self.network(scaled.u.reshape(image), scaled.c_noise(), label)
        return scaled.energy(-jnp.sum(scaled.u.reshape(image) * N)).astype(x.dtype)


class ResidualBlock(nn.Module):
    """h + conv(silu(a norm(conv(silu(norm(h)))) + b)), with a - 1 and b linear in the embedding.

    The second convolution is 0 at first.
    """

    layers: Layers

    @nn.compact
    def __call__(self, h: Float[Array, "H W C"], emb: Float[Array, " n"]) -> Float[Array, "H W C"]:
        """h [H, W, C] and the embedding to the shape of h."""
        C = h.shape[-1]
        r = self.layers.conv(C)(silu(standardise_groups(h)))
        scale, shift = jnp.split(self.layers.dense(2 * C)(emb)[None, None], 2, axis=-1)
        r = silu((1.0 + scale) * standardise_groups(r) + shift)
        return h + self.layers.conv(C, kernel_init=nn.initializers.zeros)(r)


class Attention(nn.Module):
    """h + W softmax(q k' / sqrt(d)) v over the pixels, for each head; W is 0 at first."""

    num_heads: int
    layers: Layers

    @nn.compact
    def __call__(self, h: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """h [H, W, C] to the same shape."""
        H, W, C = h.shape
        qkv = self.layers.dense(3 * C)(standardise_groups(h))
        q, k, v = qkv.reshape(H * W, 3, self.num_heads, C // self.num_heads).transpose(1, 2, 0, 3)
        logits = jnp.einsum("hid,hjd->hij", q, k, precision=self.layers.precision) / math.sqrt(q.shape[-1])
        weights = jax.nn.softmax(at_least_float32(logits), axis=-1).astype(h.dtype)
        r = jnp.einsum("hij,hjd->ihd", weights, v, precision=self.layers.precision).reshape(H, W, C)
        return h + self.layers.dense(C, kernel_init=nn.initializers.zeros)(r)


def standardise_groups(h: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """h with mean 0 and mean square 1 in each group of channels: up to eight groups, of four channels at least."""
    C = h.shape[-1]
    groups = max(1, math.gcd(C, 32) // 4)
    wide = at_least_float32(h)

    def mean(a):
        # Over pixels first: summing over a few channels of each would be slow.
        return jnp.repeat(a.mean((0, 1)).reshape(groups, -1).mean(1), C // groups)[None, None]

    u = wide - mean(wide)
    return (u * jax.lax.rsqrt(mean(u * u) + 1e-6)).astype(h.dtype)


def fold(h: Float[Array, "H W C"], p: int) -> Float[Array, "h w c"]:
    """Each square of p x p pixels to one pixel with the channels of all."""
    H, W, C = h.shape
    return h.reshape(H // p, p, W // p, p, C).transpose(0, 2, 1, 3, 4).reshape(H // p, W // p, p * p * C)


def unfold(h: Float[Array, "H W C"], p: int) -> Float[Array, "h w c"]:
    """The inverse of `fold`."""
    H, W, C = h.shape
    return h.reshape(H, W, p, p, C // p**2).transpose(0, 2, 1, 3, 4).reshape(H * p, W * p, C // p**2)

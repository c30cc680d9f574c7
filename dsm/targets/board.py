"""The checkerboard, sharp or under Gaussian noise."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc
from jaxtyping import Array, Float, Key

from . import checks


class Checkerboard(NamedTuple):
    """p(x) = (e(x_1) e(x_2) + o(x_1) o(x_2)) / 32: the black squares of the board [-4, 4]^2, under N(0, s^2 I).

    e and o are the probabilities that the noise leads from a coordinate into an even or an odd column of width 2,
    sums of differences of normal distribution functions. The square at (-4, -4) is black. With s = 0 the
    density is 1/32 on the black squares and 0 elsewhere. Make one with `checkerboard`.
    """

    variance: Float[Array, ""]
    """s^2 >= 0."""

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x), normalised; x [2]. With s = 0 it is -inf off the black squares."""
        log_mass, _ = self._columns(x)
        even = jnp.sum(jnp.logaddexp(log_mass[0], log_mass[2]))
        odd = jnp.sum(jnp.logaddexp(log_mass[1], log_mass[3]))
        column = jnp.floor((x + 4.0) / 2.0)
        black = jnp.all((column >= 0) & (column < 4)) & (jnp.mod(jnp.sum(column), 2.0) == 0)
        sharp = jnp.where(black, 0.0, -jnp.inf).astype(x.dtype)
        return jnp.where(self.variance > 0, jnp.logaddexp(even, odd), sharp) - math.log(32.0)

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """grad log p(x); x [2]. With s = 0 it is 0 everywhere: the edges, where it is not a function, are not seen."""
        log_mass, slope = self._columns(x)
        even = jnp.logaddexp(log_mass[0], log_mass[2])
        odd = jnp.logaddexp(log_mass[1], log_mass[3])
        first, second = jax.nn.sigmoid(log_mass[:2] - log_mass[2:]), jax.nn.sigmoid(log_mass[2:] - log_mass[:2])
        slopes = first * slope[:2] + second * slope[2:]
        gap = jnp.sum(even) - jnp.sum(odd)
        score = jax.nn.sigmoid(gap) * slopes[0] + jax.nn.sigmoid(-gap) * slopes[1]
        return jnp.where(self.variance > 0, score, 0.0)

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} 2"]:
        """num independent draws. `key` is consumed."""
        key_square, key_place, key_noise = jax.random.split(key, 3)
        square = jax.random.randint(key_square, (num,), 0, 8)
        row = square // 2
        corner = 2 * jnp.stack([2 * (square % 2) + row % 2, row], axis=1) - 4
        place = 2.0 * jax.random.uniform(key_place, (num, 2), self.variance.dtype)
        noise = jnp.sqrt(self.variance) * jax.random.normal(key_noise, (num, 2), self.variance.dtype)
        return corner.astype(self.variance.dtype) + place + noise

    def smooth(self, sigma: float | Float[Array, ""]) -> "Checkerboard":
        """The distribution of x + sigma eps, eps ~ N(0, I): s^2 becomes s^2 + sigma^2.

        Raises ValueError if sigma is known and negative or not finite.
        """
        checks.noise_scale(sigma)
        return self._replace(variance=self.variance + sigma**2)

    def mean(self) -> Float[Array, " 2"]:
        """E[x] = 0."""
        return jnp.zeros(2, self.variance.dtype)

    def covariance(self) -> Float[Array, "2 2"]:
        """Cov[x] = (16/3 + s^2) I, and 1 off the diagonal."""
        board = jnp.asarray([[16 / 3, 1.0], [1.0, 16 / 3]], self.variance.dtype)
        return board + self.variance * jnp.eye(2, dtype=self.variance.dtype)

    def _columns(self, x):
        # log(Phi(a) - Phi(b)) and its derivative, [column, coordinate]; a = (x - left) / s, b = (x - right) / s.
        # With m the Mills ratio, Phi(-z) = phi(z) m(z), an interval on one side of x has the mass
        # phi(near) (m(near) - m(far) exp(-(far^2 - near^2) / 2)): no digit is lost however far x is. Some are
        # where the noise is much wider than a square, which then hardly shows: s / 2 units in the last place.
        checks.point(x, 2)
        std = jnp.sqrt(jnp.where(self.variance > 0, self.variance, 1.0))
        z = (x[None, :] - jnp.asarray(_EDGES, x.dtype)[:, None]) / std
        log_phi = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
        a, b = z[:-1], z[1:]
        beyond, before = b >= 0, a <= 0
        # |a| and |b|, but on an edge with the slope of the branch that is taken there: that of |.| at 0 is 0 in JAX.
        size_a, size_b = jnp.where(before, -a, a), jnp.where(beyond, b, -b)
        mills_a, mills_b = _mills_ratio(size_a), _mills_ratio(size_b)
        left, right = (size_a, mills_a, log_phi[:-1]), (size_b, mills_b, log_phi[1:])
        near, m_near, log_phi_near = (jnp.where(beyond, r, l) for l, r in zip(left, right, strict=True))
        far, m_far, _ = (jnp.where(beyond, l, r) for l, r in zip(left, right, strict=True))
        aside = beyond | before
        drop = jnp.where(aside, 0.5 * (far - near) * (far + near), 1.0)
        share = jnp.where(aside, m_near - m_far * jnp.exp(-drop), 1.0)
        phi_a, phi_b = jnp.exp(log_phi[:-1]), jnp.exp(log_phi[1:])
        mass = jnp.where(aside, 1.0, 1.0 - phi_a * mills_a - phi_b * mills_b)
        log_mass = jnp.where(aside, log_phi_near + jnp.log(share), jnp.log(mass))
        outside = jnp.where(beyond, 1.0, -1.0).astype(x.dtype) * jnp.expm1(-drop) / share
        return log_mass, jnp.where(aside, outside, (phi_a - phi_b) / mass) / std


_EDGES = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])


def _mills_ratio(z):
    # m(z) = Phi(-z) / phi(z) for z >= 0; by its asymptotic series where erfc is about to underflow.
    last = 20.0 if z.dtype == jnp.float64 else 10.0
    body, tail = jnp.where(z > last, last, z), jnp.where(z > last, z, last)
    v = 1.0 / (tail * tail)
    series = jnp.ones_like(z)
    for k in range(8, 0, -1):
        series = 1.0 - (2 * k - 1) * v * series
    return jnp.where(
        z > last, series / tail, math.sqrt(math.pi / 2) * erfc(body / math.sqrt(2.0)) * jnp.exp(0.5 * body * body)
    )


def checkerboard(std=0.0) -> Checkerboard:
    """Uniform on the 8 black squares, of side 2, of a 4 x 4 board on [-4, 4]^2, plus noise N(0, std^2 I).

    Raises ValueError unless std is finite and not negative.
    """
    s = checks.positive("std", std, or_zero=True)
    return Checkerboard(jnp.asarray(s**2, checks.floating_dtype(std)))

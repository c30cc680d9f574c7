"""Curves in the plane under Gaussian noise: a ring, and two moons."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, Float, Key

from . import checks


class Ring(NamedTuple):
    """p(x) = exp(-(r^2 + R^2) / 2 s^2) I_0(r R / s^2) / (2 pi s^2), r = |x|: a circle of radius R under N(0, s^2 I).

    Make one with `ring`. It is a pytree: pass it to jitted functions as an argument.
    """

    radius: Float[Array, ""]
    """R."""
    variance: Float[Array, ""]
    """s^2."""

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x), normalised; x [2]. Smooth at the centre."""
        u, square, a, r = self._bessel_argument(x)
        near = (
            u * (1 / 4 - u * (1 / 64 - u * (1 / 576 - u * 11 / 49152)))
            - (square + self.radius**2) / 2.0 / self.variance
        )
        far = jnp.log(i0e(a)) - (r - self.radius) ** 2 / 2.0 / self.variance
        return jnp.where(u < _SERIES, near, far) - jnp.log(2.0 * np.pi * self.variance)

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """grad log p(x) = (R I_1(a) / I_0(a) - r) x / (r s^2), a = r R / s^2; x [2]."""
        u, _, a, r = self._bessel_argument(x)
        near = self.radius**2 / self.variance * (1 / 2 - u * (1 / 16 - u * (1 / 96 - u * 11 / 6144))) - 1.0
        far = (self.radius * (i1e(a) / i0e(a)) - r) / r
        return x * (jnp.where(u < _SERIES, near, far) / self.variance)

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} 2"]:
        """num independent draws. `key` is consumed."""
        key_angle, key_noise = jax.random.split(key)
        angle = jax.random.uniform(key_angle, (num,), self.variance.dtype, 0.0, 2.0 * np.pi)
        circle = self.radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
        return circle + jnp.sqrt(self.variance) * jax.random.normal(key_noise, (num, 2), self.variance.dtype)

    def smooth(self, sigma: float | Float[Array, ""]) -> "Ring":
        """The distribution of x + sigma eps, eps ~ N(0, I): s^2 becomes s^2 + sigma^2.

        Raises ValueError if sigma is known and negative or not finite.
        """
        checks.noise_scale(sigma)
        return self._replace(variance=self.variance + sigma**2)

    def mean(self) -> Float[Array, " 2"]:
        """E[x] = 0."""
        return jnp.zeros(2, self.variance.dtype)

    def covariance(self) -> Float[Array, "2 2"]:
        """Cov[x] = (R^2 / 2 + s^2) I."""
        return (self.radius**2 / 2.0 + self.variance) * jnp.eye(2, dtype=self.variance.dtype)

    def _bessel_argument(self, x):
        # u = a^2 is smooth in x where a is not: at the centre, I_0 and I_1 are taken from their series in u. The other
        # branch gets a harmless r there, or its infinite derivative would reach the gradient through `where`.
        checks.point(x, 2)
        square = jnp.sum(x * x)
        slope = self.radius / self.variance
        u = square * slope**2
        r = jnp.sqrt(jnp.where(u < _SERIES, self.variance**2, square))
        return u, square, r * slope, r


# Below it the first term left out of either series is under 1e-14 of the sum.
_SERIES = 2.5e-3


def ring(radius=2.0, std=0.2) -> Ring:
    """A circle about the origin of the plane, uniform, plus noise N(0, std^2 I).

    Raises ValueError unless radius and std are positive and finite.
    """
    dtype = checks.floating_dtype(radius, std)
    R, s = checks.positive("radius", radius), checks.positive("std", std)
    return Ring(jnp.asarray(R, dtype), jnp.asarray(s**2, dtype))


class TwoMoons(NamedTuple):
    """p(x) = 1/2 sum_k 1/pi int_0^pi N(x; c_k(t), s^2 I) dt: two half circles in the plane under N(0, s^2 I).

    c_1(t) = (cos t, sin t) and c_2(t) = (1 - cos t, 1/2 - sin t). Make one with `two_moons`.

    The integrals are Gauss-Legendre sums over the piece of each arc where the integrand is within exp(-28) of
    its largest, which is known in closed form: the error of log p stays under 1e-11 (64 bits), whatever s and
    x are.
    """

    variance: Float[Array, ""]
    """s^2."""

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x), normalised; x [2]."""
        joint, top, _, _ = self._joint(x)
        return top + jnp.log(jnp.sum(joint)) - jnp.log(2.0 * np.pi * self.variance)

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """grad log p(x) = (E[c | x] - x) / s^2, c the point of the arcs that the noise moved to x; x [2]."""
        joint, _, offset, (cos, sin) = self._joint(x)
        along, across = jnp.sum(joint * offset[0], axis=2), jnp.sum(joint * offset[1], axis=2)
        turned = jnp.stack([cos * along - sin * across, sin * along + cos * across])
        sign = jnp.asarray(_SIGNS, x.dtype)
        return jnp.sum(sign[None, :, None] * turned, axis=(1, 2)) / (jnp.sum(joint) * self.variance)

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} 2"]:
        """num independent draws. `key` is consumed."""
        key_moon, key_angle, key_noise = jax.random.split(key, 3)
        dtype = self.variance.dtype
        moon = jax.random.bernoulli(key_moon, shape=(num,)).astype(int)
        angle = jax.random.uniform(key_angle, (num,), dtype, 0.0, np.pi)
        arc = jnp.asarray(_SIGNS, dtype)[moon][:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
        noise = jnp.sqrt(self.variance) * jax.random.normal(key_noise, (num, 2), dtype)
        return jnp.asarray(_CENTRES, dtype).T[moon] + arc + noise

    def smooth(self, sigma: float | Float[Array, ""]) -> "TwoMoons":
        """The distribution of x + sigma eps, eps ~ N(0, I): s^2 becomes s^2 + sigma^2.

        Raises ValueError if sigma is known and negative or not finite.
        """
        checks.noise_scale(sigma)
        return self._replace(variance=self.variance + sigma**2)

    def mean(self) -> Float[Array, " 2"]:
        """E[x] = (1/2, 1/4)."""
        return jnp.asarray([0.5, 0.25], self.variance.dtype)

    def covariance(self) -> Float[Array, "2 2"]:
        """Cov[x] = diag(1/2, 1/2 - 4/pi^2) + d d' / 4 + s^2 I, d = (1, 1/2 - 4/pi) between the moons' means."""
        d = np.array([1.0, 0.5 - 4 / np.pi])
        arcs = np.diag([0.5, 0.5 - 4 / np.pi**2]) + np.outer(d, d) / 4
        return jnp.asarray(arcs, self.variance.dtype) + self.variance * jnp.eye(2, dtype=self.variance.dtype)

    def _joint(self, x):
        # The terms of the two sums, over exp(top); the offset of their points from x, and the axes of that offset.
        # Everything about the nodes is not differentiated: to move them does not change an integral.
        checks.point(x, 2)
        # u [2, moon]: x as each moon sees it, moved and turned onto the upper half of the unit circle.
        u = jnp.asarray(_SIGNS, x.dtype)[None, :] * (x[:, None] - jnp.asarray(_CENTRES, x.dtype))
        start, stop = self._pieces(*jax.lax.stop_gradient((u, self.variance)))
        middle = (start + stop) / 2.0
        # The barrier: or the compiler works these out anew for every node.
        cos, sin, largest = jax.lax.optimization_barrier(
            (jnp.cos(middle), jnp.sin(middle), jnp.tan((stop - start) / 4.0))
        )
        u_along, u_across = cos * u[0][:, None] + sin * u[1][:, None], cos * u[1][:, None] - sin * u[0][:, None]
        # From the middle of a piece the angle is 2 arctan m, and its cosine and sine are rational in m.
        m = largest[..., None] * jnp.asarray(_NODES, x.dtype)[None, None]
        scale = 1.0 / (1.0 + m * m)
        offset = (1.0 - m * m) * scale - u_along[..., None], 2.0 * m * scale - u_across[..., None]
        exponent = -(offset[0] ** 2 + offset[1] ** 2) / (2.0 * self.variance)
        top = jax.lax.stop_gradient(jnp.max(exponent))
        weights = largest[..., None] * jnp.asarray(_WEIGHTS / np.pi, x.dtype)[None, None] * scale
        return weights * jnp.exp(exponent - top), top, offset, (cos, sin)

    def _pieces(self, u, variance):
        # The integrand is exp(kappa cos(t - theta)): it is within exp(-cut) of its largest on the arc where
        # sin^2((t - theta) / 2) <= sin^2(nearest / 2) + cut / (2 kappa). With theta beyond the ends these
        # are two pieces, one at each end; else one, cut in the middle. `reach` is how far they go past the point
        # nearest to x, without cancellation.
        theta = jnp.arctan2(u[1], u[0])
        cut = _CUT / 2.0 * variance / jnp.maximum(jnp.hypot(u[0], u[1]), jnp.finfo(u.dtype).tiny)
        to_first, to_last = -theta, np.pi + theta
        inside = theta >= 0
        nearest = jnp.where(inside, 0.0, jnp.minimum(to_first, to_last))
        width = 2.0 * jnp.arcsin(jnp.sqrt(jnp.minimum(jnp.sin(nearest / 2.0) ** 2 + cut, 1.0)))
        reach = 2.0 * jnp.arcsin(jnp.minimum(cut / jnp.sin((width + nearest) / 2.0), 1.0))
        reach = jnp.minimum(reach, np.pi - nearest)
        low, high = jnp.maximum(theta - reach, 0.0), jnp.minimum(theta + reach, np.pi)
        first = jnp.maximum(reach - (to_first - nearest), 0.0)
        last = np.pi - jnp.maximum(reach - (to_last - nearest), 0.0)
        start = jnp.where(inside[None], jnp.stack([low, (low + high) / 2.0]), jnp.stack([jnp.zeros_like(last), last]))
        stop = jnp.where(
            inside[None], jnp.stack([(low + high) / 2.0, high]), jnp.stack([first, jnp.full_like(last, np.pi)])
        )
        return start.T, stop.T


_SIGNS = np.array([1.0, -1.0])
_CENTRES = np.array([[0.0, 1.0], [0.0, 0.5]])
_CUT = 28.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def two_moons(std=0.1) -> TwoMoons:
    """Two interleaved half circles of radius 1, centred at (0, 0) and (1, 1/2), plus noise N(0, std^2 I).

    Raises ValueError unless std is positive and finite.
    """
    s = checks.positive("std", std)
    return TwoMoons(jnp.asarray(s**2, checks.floating_dtype(std)))

"""A Gaussian bent along its first axis, and the same under Gaussian noise."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from . import checks


class Banana(NamedTuple):
    """x_1 ~ N(0, s_1^2), x_i | x_1 ~ N(b_i (x_1^2 - s_1^2), s_i^2): a Gaussian on R^D bent along its first axis.

    Make one with `banana`. It is a pytree: pass it to jitted functions as an argument.
    """

    bends: Float[Array, " D-1"]
    """b_i, i = 2..D."""
    variances: Float[Array, " D"]
    """s_i^2."""

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x) = log N(x_1; 0, s_1^2) + sum_i log N(x_i; b_i (x_1^2 - s_1^2), s_i^2)."""
        u = self._straight(x)
        return -0.5 * jnp.sum(u * u / self.variances + jnp.log(2.0 * np.pi * self.variances))

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """grad log p(x): z_i = -(x_i - b_i (x_1^2 - s_1^2)) / s_i^2, and first -x_1 / s_1^2 - 2 x_1 sum_i b_i z_i."""
        z = -self._straight(x) / self.variances
        return z.at[0].add(-2.0 * x[0] * jnp.sum(self.bends * z[1:]))

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} D"]:
        """num independent draws. `key` is consumed."""
        std = jnp.sqrt(self.variances)
        u = std[None, :] * jax.random.normal(key, (num, len(self.variances)), self.variances.dtype)
        return u.at[:, 1:].add(self.bends[None, :] * (u[:, :1] ** 2 - self.variances[0]))

    def smooth(self, sigma: float | Float[Array, ""]) -> "SmoothedBanana":
        """The distribution of x + sigma eps, eps ~ N(0, I).

        Raises ValueError if sigma is known and negative or not finite.
        """
        checks.noise_scale(sigma)
        return SmoothedBanana(self, jnp.zeros_like(self.variances[0]) + sigma**2)

    def mean(self) -> Float[Array, " D"]:
        """E[x] = 0."""
        return jnp.zeros_like(self.variances)

    def covariance(self) -> Float[Array, "D D"]:
        """Cov[x] = diag(s^2) + 2 s_1^4 b b', b_1 = 0."""
        b = jnp.concatenate([jnp.zeros_like(self.bends, shape=(1,)), self.bends])
        return jnp.diag(self.variances) + 2.0 * self.variances[0] ** 2 * b[:, None] * b[None, :]

    def _straight(self, x):
        checks.point(x, len(self.variances))
        return x.at[1:].add(-self.bends * (x[0] ** 2 - self.variances[0]))


class SmoothedBanana(NamedTuple):
    """p(x) = int N(t; 0, s_1^2) N(x_1; t, n) prod_i N(x_i; b_i (t^2 - s_1^2), w_i) dt: the banana under N(0, n I).

    w_i = s_i^2 + n. Given x_1 alone t is m + tau z with z ~ N(0, 1), m = x_1 s_1^2 / (s_1^2 + n) and
    tau^2 = s_1^2 n / (s_1^2 + n), so p(x) = N(x_1; 0, s_1^2 + n) int N(z; 0, 1) prod_i N(q_i(z); 0, w_i) dz,
    q_i(z) = x_i - b_i ((m + tau z)^2 - s_1^2), which stays exact as n goes to 0.

    The integrand is exp of a quartic. Its integral is a Gauss-Legendre sum over where it is within exp(-32) of
    its largest, one interval or two, found by bisection: the relative error of log p is under 1e-11 (64 bits)
    for |x_1| of up to 30 standard deviations. Made by `Banana.smooth`.
    """

    banana: Banana
    noise: Float[Array, ""]
    """n, the variance of the noise."""

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x), normalised."""
        log_terms, _, _ = self._terms(x)
        variances = self.banana.variances + self.noise
        log_scale = jnp.sum(jnp.log(2.0 * np.pi * variances)) + math.log(2 * math.pi)
        return jax.nn.logsumexp(log_terms) - 0.5 * (x[0] ** 2 / variances[0] + log_scale)

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """-E[q_i | x] / w_i, and first -x_1 / (s_1^2 + n) + s_1^2 / (s_1^2 + n) sum_i 2 b_i E[t q_i | x] / w_i."""
        log_terms, t, q = self._terms(x)
        variances = self.banana.variances + self.noise
        posterior = jax.nn.softmax(log_terms)
        pull = jnp.sum(posterior * t * jnp.sum((self.banana.bends / variances[1:])[:, None] * q, axis=0))
        first = (2.0 * self.banana.variances[0] * pull - x[0]) / variances[0]
        return jnp.concatenate([first[None], -jnp.sum(posterior[None, :] * q, axis=1) / variances[1:]])

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} D"]:
        """num independent draws. `key` is consumed."""
        key_banana, key_noise = jax.random.split(key)
        x = self.banana.sample(key_banana, num)
        return x + jnp.sqrt(self.noise) * jax.random.normal(key_noise, x.shape, x.dtype)

    def smooth(self, sigma: float | Float[Array, ""]) -> "SmoothedBanana":
        """The distribution of x + sigma eps, eps ~ N(0, I): n becomes n + sigma^2.

        Raises ValueError if sigma is known and negative or not finite.
        """
        checks.noise_scale(sigma)
        return self._replace(noise=self.noise + sigma**2)

    def mean(self) -> Float[Array, " D"]:
        """E[x] = 0."""
        return self.banana.mean()

    def covariance(self) -> Float[Array, "D D"]:
        """Cov[x]: the banana's, plus n I."""
        return self.banana.covariance() + jnp.diag(jnp.full_like(self.banana.variances, self.noise))

    def _terms(self, x):
        # The log of each term, with t and q [D - 1, node]. The nodes are not differentiated: to move them does not
        # change the integral.
        checks.point(x, len(self.banana.variances))
        start, stop = self._pieces(jax.lax.stop_gradient((self, x)))
        half = (stop - start)[:, None] / 2.0
        z = ((start + stop)[:, None] / 2.0 + half * jnp.asarray(_NODES, x.dtype)[None, :]).ravel()
        log_weights = jnp.log(half * jnp.asarray(_WEIGHTS, x.dtype)[None, :]).ravel()
        m, tau = self._given_first(x)
        q = self._residuals(x, z)
        return log_weights - self._energy(z, q), m + tau * z, q

    def _given_first(self, x):
        share = self.banana.variances[0] / (self.banana.variances[0] + self.noise)
        return share * x[0], jnp.sqrt(share * self.noise)

    def _residuals(self, x, z):
        m, tau = self._given_first(x)
        at_zero = x[1:] - self.banana.bends * (m * m - self.banana.variances[0])
        return at_zero[:, None] - self.banana.bends[:, None] * (tau * z * (2.0 * m + tau * z))[None, :]

    def _energy(self, z, q):
        return 0.5 * (z * z + jnp.sum(q * q / (self.banana.variances[1:] + self.noise)[:, None], axis=0))

    @staticmethod
    def _pieces(known):
        # Four pieces [start, stop] that cover where the energy is within _CUT of its least, a well between two each.
        # By symmetry let x_1 >= 0. In t the energy is A t^4 + B t^2 - C t with C >= 0: on t >= 0 it has one well;
        # on t <= 0 its slope is concave and largest where t^2 = -B / 6A. If it is positive there, a second well lies
        # beyond, and a barrier before.
        self, x = known
        sign = jnp.where(x[0] < 0, -1.0, 1.0).astype(x.dtype)
        x = x.at[0].multiply(sign)
        m, tau = self._given_first(x)
        bends, w = self.banana.bends, self.banana.variances[1:] + self.noise

        def energy(z):
            return self._energy(z, self._residuals(x, z))

        def slope(z):
            t = m + tau * z
            return z - 2.0 * tau * t * jnp.sum((bends / w)[:, None] * self._residuals(x, z), axis=0)

        # z^2 / 2 <= energy(z), which need not pass energy(0) + _CUT.
        far = jnp.sqrt(2.0 * (energy(jnp.zeros_like(x[:1]))[0] + _CUT))
        tiny = jnp.finfo(x.dtype).tiny
        middle = jnp.maximum(-m / jnp.maximum(tau, tiny), -far)
        A = 0.5 * tau**4 * jnp.sum(bends**2 / w)
        B = 0.5 - tau**2 * jnp.sum(bends * (x[1:] + bends * self.banana.variances[0]) / w)
        steepest = jnp.maximum(middle - jnp.sqrt(jnp.maximum(-B, 0.0) / jnp.maximum(6.0 * A, tiny)), -far)
        barred = slope(steepest[None])[0] > 0

        rises = jnp.array([1.0, 1.0, -1.0], x.dtype)
        well, second, barrier = _bisect(
            lambda z: rises * slope(z) > 0, jnp.stack([middle, -far, steepest]), jnp.stack([far, steepest, middle])
        )
        second, barrier = jnp.where(barred, second, well), jnp.where(barred, barrier, well)
        level = jnp.min(energy(jnp.stack([well, second]))) + _CUT
        outside = jnp.array([True, False, True, False])
        low, high = jnp.stack([-far, second, barrier, well]), jnp.stack([second, barrier, well, far])
        # Walking from low to high the energy falls to the level, or rises to it.
        ends = _bisect(lambda z: (energy(z) <= level) == outside, low, high)
        start, stop = jnp.where(outside, ends, low), jnp.where(outside, high, ends)
        return jnp.where(sign > 0, start, -stop), jnp.where(sign > 0, stop, -start)


def _bisect(right_of_it, low, high):
    # Where the condition turns from false to true between low and high; an end where it does not.
    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        right = right_of_it(middle)
        return jnp.where(right, low, middle), jnp.where(right, middle, high)

    low, high = jax.lax.fori_loop(0, 50, halve, (low, high))
    return 0.5 * (low + high)


_CUT = 32.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def banana(bend=0.1, std=3.0, spread=1.0, *, D: int = 2) -> Banana:
    """x_1 ~ N(0, std^2), x_2 | x_1 ~ N(bend (x_1^2 - std^2), spread^2), further coordinates N(0, 1).

    bend and spread may also be arrays [D - 1], one number for each of x_2..x_D. Haario's own has bend -0.1 or
    -0.03, std 10 and spread 1.

    Source: Haario, Saksman and Tamminen (1999), Section 4.

    Raises ValueError unless all are finite, std and spread positive, and D >= 2.
    """
    D = checks.dimension(D, least=2)
    dtype = checks.floating_dtype(bend, std, spread)
    s = checks.positive("std", std)
    bends = checks.finite_array("bend", bend, (D - 1,)).copy()
    spreads = checks.finite_array("spread", spread, (D - 1,), positive=True).copy()
    if np.ndim(bend) == 0:
        bends[1:] = 0.0
    if np.ndim(spread) == 0:
        spreads[1:] = 1.0
    return Banana(jnp.asarray(bends, dtype), jnp.asarray(np.concatenate([[s], spreads]) ** 2, dtype))

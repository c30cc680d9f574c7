"""A double well in every coordinate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from scipy.special import ive

from . import checks


class DoubleWells(NamedTuple):
    """p(x) = prod_i exp(-a_i (x_i^2 - b_i)^2) / Z_i on R^D: 2^D modes, at x_i = +-sqrt(b_i).

    Make one with `double_wells`, which computes the constants from a and b. It is a pytree.
    """

    a: Float[Array, " D"]
    b: Float[Array, " D"]
    log_partitions: Float[Array, " D"]
    """log Z_i, Z = pi/2 sqrt(b) exp(-c) (I_{-1/4}(c) + I_{1/4}(c)), c = a b^2 / 2."""
    variances: Float[Array, " D"]
    """E[x_i^2] = b/2 (1 + (I_{-3/4}(c) + I_{3/4}(c)) / (I_{-1/4}(c) + I_{1/4}(c)))."""

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x) = -sum_i (a_i (x_i^2 - b_i)^2 + log Z_i)."""
        checks.point(x, len(self.a))
        return -jnp.sum(self.a * (x * x - self.b) ** 2 + self.log_partitions)

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """-4 a_i x_i (x_i^2 - b_i)."""
        checks.point(x, len(self.a))
        return -4.0 * self.a * x * (x * x - self.b)

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} D"]:
        """num independent draws, by rejection: exact, in about log(num D) rounds. `key` is consumed.

        For |x|: with deep wells the proposal is N(sqrt(b), 1/(2 a b)), as (x^2 - b)^2 >= b (x - sqrt(b))^2 for
        x >= 0; else it is N(0, 1/(2 l)), as a (y - b)^2 >= l (y - b) - l^2 / (4 a) for any l. Between them,
        half of the draws or more are accepted.
        """
        a, b = self.a[None, :], self.b[None, :]
        deep = a * b * b > _DEEP
        slope = a / (a * b + jnp.sqrt(a * a * b * b + a))
        centre = jnp.where(deep, jnp.sqrt(b), 0.0)
        precision = jnp.where(deep, a * b, slope)
        bound = jnp.where(deep, 0.0, slope * b + slope * slope / (4.0 * a))
        shape = (num, len(self.a))

        def propose(state: tuple[Key[Array, ""], Float[Array, "num D"], Bool[Array, "num D"]]):
            key, x, waiting = state
            key, key_place, key_accept = jax.random.split(key, 3)
            y = centre + jax.random.normal(key_place, shape, x.dtype) * jax.lax.rsqrt(2.0 * precision)
            log_ratio = precision * (y - centre) ** 2 - a * (y * y - b) ** 2 - bound
            reject = -jax.random.exponential(key_accept, shape, x.dtype) >= log_ratio
            # A NaN in the parameters is accepted: it is better returned than waited for.
            reject = reject | (deep & (y < 0))
            return key, jnp.where(waiting & ~reject, jnp.abs(y), x), waiting & reject

        key_sign, key_loop = jax.random.split(key)
        start = key_loop, jnp.zeros(shape, self.a.dtype), jnp.ones(shape, bool)
        _, x, _ = jax.lax.while_loop(lambda state: jnp.any(state[2]), propose, start)
        return x * jax.random.rademacher(key_sign, shape, x.dtype)

    def mean(self) -> Float[Array, " D"]:
        """E[x] = 0."""
        return jnp.zeros_like(self.a)

    def covariance(self) -> Float[Array, "D D"]:
        """Cov[x] = diag(E[x_i^2])."""
        return jnp.diag(self.variances)


# Of a b^2: where the two proposals accept equally often.
_DEEP = 0.6


def _scaled_bessel(order, c):
    # exp(-c) I_order(c); SciPy gives NaN for very large c, where two terms of the expansion are exact to rounding.
    large = (1 - (4 * order**2 - 1) / (8 * c)) / np.sqrt(2 * np.pi * c)
    return np.where(c > 1e8, large, ive(order, np.minimum(c, 1e8)))


def double_wells(a=1.0, b=1.0, *, D: int = 1) -> DoubleWells:
    """exp(-a (x^2 - b)^2) / Z in each of D coordinates; a and b are numbers, or arrays [D].

    The wells are at +-sqrt(b) with a barrier of a b^2 between them.

    Raises ValueError unless a and b are positive and finite and D >= 1.
    """
    D = checks.dimension(D, least=1)
    dtype = checks.floating_dtype(a, b)
    a, b = (checks.finite_array(name, value, (D,), positive=True) for name, value in (("a", a), ("b", b)))
    c = a * b**2 / 2
    quarters = _scaled_bessel(-0.25, c) + _scaled_bessel(0.25, c)
    log_partitions = np.log(np.pi / 2 * np.sqrt(b) * quarters)
    variances = b / 2 * (1 + (_scaled_bessel(-0.75, c) + _scaled_bessel(0.75, c)) / quarters)
    return DoubleWells(*(jnp.asarray(v, dtype) for v in (a, b, log_partitions, variances)))

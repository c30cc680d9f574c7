"""Neal's funnel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from . import checks


class Funnel(NamedTuple):
    """v = x_1 ~ N(0, s_1^2), x_i | v ~ N(0, s_i^2 exp(v)) on R^D. Make one with `funnel`.

    Source: Neal (2003), "Slice sampling", Section 8.
    """

    variances: Float[Array, " D"]
    """s_i^2."""

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x) = log N(v; 0, s_1^2) + sum_i log N(x_i; 0, s_i^2 exp(v))."""
        z = self._standardise(x)
        log_scale = jnp.sum(jnp.log(2.0 * np.pi * self.variances)) + (len(self.variances) - 1) * x[0]
        return -0.5 * (jnp.sum(z * z) + log_scale)

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """-x_i / (s_i^2 exp(v)), and first -v / s_1^2 + 1/2 sum_i (x_i^2 / (s_i^2 exp(v)) - 1)."""
        z = self._standardise(x)
        std = jnp.sqrt(self.variances)
        first = -z[:1] / std[:1] + 0.5 * jnp.sum(z[1:] ** 2 - 1.0)
        return jnp.concatenate([first, -z[1:] * jnp.exp(-0.5 * x[0]) / std[1:]])

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} D"]:
        """num independent draws. `key` is consumed."""
        std = jnp.sqrt(self.variances)
        u = std[None, :] * jax.random.normal(key, (num, len(self.variances)), self.variances.dtype)
        return u.at[:, 1:].multiply(jnp.exp(0.5 * u[:, :1]))

    def mean(self) -> Float[Array, " D"]:
        """E[x] = 0."""
        return jnp.zeros_like(self.variances)

    def covariance(self) -> Float[Array, "D D"]:
        """Cov[x]: diagonal, s_1^2 and then s_i^2 exp(s_1^2 / 2)."""
        return jnp.diag(self.variances.at[1:].multiply(jnp.exp(0.5 * self.variances[0])))

    def _standardise(self, x):
        # x exp(-v/2) before it is squared: exp(-v) would overflow at half the distance.
        checks.point(x, len(self.variances))
        return x.at[1:].multiply(jnp.exp(-0.5 * x[0])) / jnp.sqrt(self.variances)


def funnel(D: int = 10, std=3.0) -> Funnel:
    """v ~ N(0, std^2), and D - 1 coordinates x_i | v ~ N(0, exp(v)).

    Source: Neal (2003), "Slice sampling", Section 8: D = 10, std = 3.

    Raises ValueError unless std is positive and finite and D >= 2.
    """
    D = checks.dimension(D, least=2)
    s = checks.positive("std", std)
    return Funnel(jnp.asarray(np.r_[s**2, np.ones(D - 1)], checks.floating_dtype(std)))

"""Noise in continuous time: dx = f(x, t) dt + g(t) dw on t in [0, 1], from the data at 0 to nearly pure noise at 1.

All of them are linear, f(x, t) = f(t) x, so that p(x_t | x_0) = N(alpha(t) x_0, std(t)^2 I) in closed form, with
alpha' = f alpha and (std^2)' = 2 f std^2 + g^2. Each has `marginal(t) -> (alpha, std)`, `drift(x, t)` and
`diffusion(t)`, which raise ValueError where they use its own numbers, if these are known and wrong. Source of all: Song
et al. (2021), "Score-based generative modeling through stochastic differential equations", appendices B and C.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

Scalar = float | Float[Array, ""]


class VE(NamedTuple):
    """Variance exploding: dx = sqrt(d sigma^2 / dt) dw, sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    The ladder of `geometric_sigmas` in continuous time. alpha = 1 and std = sigma(t): as at the end of a ladder, the
    data at t = 0 are taken to hold the noise sigma_min already. sigma_max is about the largest distance between two
    data points. Source: equations 30 and 31.
    """

    sigma_min: Scalar
    sigma_max: Scalar

    def marginal(self, t: Scalar) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(alpha, std) of p(x_t | x_0) = N(alpha x_0, std^2 I)."""
        return jnp.ones_like(t), self.sigma_min * jnp.exp(self._rate() * t)

    def drift(self, x: Float[Array, "*shape"], t: Scalar) -> Float[Array, "*shape"]:
        """f(x, t) = 0."""
        return jnp.zeros_like(x)

    def diffusion(self, t: Scalar) -> Float[Array, ""]:
        """g(t) = sigma(t) sqrt(2 log(sigma_max / sigma_min))."""
        return self.marginal(t)[1] * jnp.sqrt(2.0 * self._rate())

    def _rate(self) -> Float[Array, ""]:
        _check_range("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        return jnp.log(self.sigma_max / self.sigma_min)


class VP(NamedTuple):
    """Variance preserving: dx = -1/2 beta x dt + sqrt(beta) dw, beta(t) = beta_min + t (beta_max - beta_min).

    alpha = exp(-1/2 int_0^t beta) and alpha^2 + std^2 = 1: data of unit variance keep it. It is the limit of DDPM.
    Source: equations 32 and 33.
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0

    def marginal(self, t: Scalar) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(alpha, std) of p(x_t | x_0) = N(alpha x_0, std^2 I)."""
        total = _total_beta(self, t)
        return jnp.exp(-0.5 * total), jnp.sqrt(-jnp.expm1(-total))

    def drift(self, x: Float[Array, "*shape"], t: Scalar) -> Float[Array, "*shape"]:
        """f(x, t) = -1/2 beta(t) x."""
        return -0.5 * _beta(self, t) * x

    def diffusion(self, t: Scalar) -> Float[Array, ""]:
        """g(t) = sqrt(beta(t))."""
        return jnp.sqrt(_beta(self, t))


class SubVP(NamedTuple):
    """Below the variance of `VP`: dx = -1/2 beta x dt + sqrt(beta (1 - exp(-2 int_0^t beta))) dw, the same beta.

    alpha is that of `VP`, and std = 1 - alpha^2, the square of its std. Source: equation 29.
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0

    def marginal(self, t: Scalar) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(alpha, std) of p(x_t | x_0) = N(alpha x_0, std^2 I)."""
        total = _total_beta(self, t)
        return jnp.exp(-0.5 * total), -jnp.expm1(-total)

    def drift(self, x: Float[Array, "*shape"], t: Scalar) -> Float[Array, "*shape"]:
        """f(x, t) = -1/2 beta(t) x."""
        return -0.5 * _beta(self, t) * x

    def diffusion(self, t: Scalar) -> Float[Array, ""]:
        """g(t) = sqrt(beta(t) (1 - exp(-2 int_0^t beta)))."""
        return jnp.sqrt(-_beta(self, t) * jnp.expm1(-2.0 * _total_beta(self, t)))


def check_t_min(t_min: float | Float[Array, ""]) -> None:
    """Raises ValueError unless t_min lies in (0, 1); a traced value passes unseen."""
    if not isinstance(t_min, Tracer) and not 0 < float(t_min) < 1:
        raise ValueError(f"t_min = {t_min}: it must lie in (0, 1)")


def _beta(sde: VP | SubVP, t: Scalar) -> Float[Array, ""]:
    _check_range("beta_min", sde.beta_min, "beta_max", sde.beta_max)
    return jnp.asarray(sde.beta_min + t * (sde.beta_max - sde.beta_min))


def _total_beta(sde: VP | SubVP, t: Scalar) -> Float[Array, ""]:
    # int_0^t beta: the mean of a linear function is half way.
    return t * _beta(sde, 0.5 * t)


def _check_range(name_low: str, low: Scalar, name_high: str, high: Scalar) -> None:
    if isinstance(low, Tracer) or isinstance(high, Tracer):
        return
    if not 0 < float(low) <= float(high) < np.inf:
        raise ValueError(f"{name_low} = {low}, {name_high} = {high}: they must be positive and finite, and not descend")

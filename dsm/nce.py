"""Noise-contrastive estimation: maximum likelihood's unknown Z becomes one more parameter of a classifier."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from .energies import check_finite, scalar_energy


def noise_contrastive(
    energy: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    log_z: float | Float[Array, ""],
    x: Float[Array, "n *shape"],
    x_noise: Float[Array, "m *shape"],
    noise_logdensity: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    *,
    ratio: float | Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """J = -mean_x log h(x) - nu mean_x_noise log(1 - h(x_noise)), h(x) = sigmoid(G(x) - log nu),
    G(x) = -E(x) - log_z - log p_n(x).

    h is the probability that x is datum and not noise. Learn log_z together with the parameters of E, all from
    this one loss: at its least value exp(-E - log_z) is the density of the data, so log_z is log Z and no integral
    was needed. Z itself is learned: adding a constant to E moves log_z and changes nothing else. With E held fixed
    and x drawn from exp(-E) / Z, the best log_z is Bennett's acceptance ratio, the best way to combine the two
    samples.

    The noise must have density wherever the data do, be easy to sample, and be near the data: noise far from them
    is told apart by any E, and the loss then teaches nothing. A Gaussian with the data's mean and covariance is
    the usual first choice; more noise (a larger nu) lowers the error of the estimate towards that of maximum
    likelihood. x_noise should be drawn afresh at every step.

    Raises ValueError if either batch is empty, or ratio is known and not positive. Source: Gutmann and Hyvarinen
    (2012), equation 8, here with the sign of a loss; Bennett (1976).

    Args:
        log_z: the learned estimate of log Z, a scalar.
        x, x_noise: draws of the data and of the noise.
        noise_logdensity: log p_n(x), normalised, for one example.
        ratio: nu, noise against data; by default m / n, what the batches hold.
    """
    n, m = x.shape[0], x_noise.shape[0]
    if n == 0 or m == 0:
        raise ValueError(f"x has {n} examples and x_noise {m}: at least one of each is needed")
    check_finite("x", x)
    check_finite("x_noise", x_noise)
    nu = m / n if ratio is None else ratio
    if not isinstance(nu, Tracer) and not 0 < float(nu) < float("inf"):
        raise ValueError(f"ratio = {ratio}: it must be positive and finite")
    nu = jnp.asarray(nu, x.dtype)

    def logit(x: Float[Array, "*shape"]) -> Float[Array, ""]:
        log_noise = scalar_energy(noise_logdensity, x, name="noise_logdensity")
        return -scalar_energy(energy, x) - log_z - log_noise - jnp.log(nu)

    # -log sigmoid(u) = softplus(-u) and -log(1 - sigmoid(u)) = softplus(u): no digit is lost where h is near 0 or 1.
    loss_data = jnp.mean(jax.nn.softplus(-jax.vmap(logit)(x)))
    loss_noise = jnp.mean(jax.nn.softplus(jax.vmap(logit)(x_noise)))
    return loss_data + nu * loss_noise

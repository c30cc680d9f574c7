"""How far chains can be trusted: effective sample size, R-hat, and the error of a mean over draws.

Draws are x [C, T, *shape]: C chains, T draws of each, in order, warm-up left out. Every coordinate is judged by
itself, so answers have the shape [*shape]; `energy_trace` makes one more coordinate to judge. Chains are split into
halves first, so that one which drifts disagrees with itself: below, M = 2C halves of N = floor(T/2) draws (the middle
draw of an odd T is dropped). A coordinate with a draw that is not finite answers nan.

The Fourier transforms hold up to 4 C T numbers per coordinate.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Summary(NamedTuple):
    """What chains say of each coordinate."""

    mean: Float[Array, "*shape"]
    std: Float[Array, "*shape"]
    """Standard deviation of all draws together."""
    mcse: Float[Array, "*shape"]
    """Standard error of the mean: `monte_carlo_error`."""
    ess: Float[Array, "*shape"]
    r_hat: Float[Array, "*shape"]
    energy: "Summary | None" = None
    """The same for the energy of the draws, a scalar, if there is one."""


def summary(
    x: Float[Array, "C T *shape"],
    energy: Callable[[Float[Array, "*shape"]], Float[Array, ""]] | None = None,
) -> Summary:
    """Mean, standard deviation, `monte_carlo_error`, `effective_sample_size` and `split_r_hat` of each coordinate.

    Args:
        x: draws.
        energy: E(x), for one example; a coordinate that looks at all others. Modes of different depth show in it.
    """
    ess = effective_sample_size(x)
    mean, std = _pooled(x)
    about_energy = None if energy is None else summary(energy_trace(energy, x))
    return Summary(mean, std, std / jnp.sqrt(ess), ess, split_r_hat(x), about_energy)


def autocorrelation(x: Float[Array, "C T *shape"]) -> Float[Array, "C T *shape"]:
    """rho_t = sum_i (x_i - m)(x_{i+t} - m) / sum_i (x_i - m)^2 at the lags t = 0, ..., T - 1.

    Each chain by itself, m its mean. The sum has T - t terms and is not rescaled, so late lags shrink to 0 rather than
    grow noisy. A chain that never moves has rho_t = 1.
    """
    _check(x)
    covariance = _autocovariance(_moments(x)[1])
    return _ratio(covariance, covariance[:, :1])


def effective_sample_size(x: Float[Array, "C T *shape"]) -> Float[Array, "*shape"]:
    """ESS = M N / tau, tau = 1 + 2 sum_{t >= 1} rho_t: so many independent draws would know the mean as well.

    rho_t = 1 - (W - V_t) / v, with W the mean over the M halves of their variance, V_t that of their autocovariance
    at lag t, and v = (N - 1)/N W + B/N, B/N the variance of their means: halves that disagree correlate at every lag.
    The sum is Geyer's initial monotone sequence: pairs P_k = rho_{2k} + rho_{2k+1}, rho_0 = 1, each replaced by the
    smallest up to it, up to the first that is not positive.

    It is C T for independent draws, C T (1 - r) / (1 + r) for x' = r x + noise. Chains that alternate can know more
    than C T draws would; no more than M N log10(M N) is claimed. Chains that never move have all rho_t = 1: each is
    worth about one draw. Raises ValueError if T < 4. Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021),
    equation 10; Geyer (1992), section 3.3.
    """
    _check(x)
    means, deviations = _moments(_halves(x))
    halves, num = deviations.shape[:2]
    covariance = jnp.mean(_autocovariance(deviations), axis=0)
    within = covariance[0] * (num / (num - 1))
    variance = _marginal_variance(means, within, num)
    rho = 1 - _ratio(within[None] - covariance, variance[None], where_zero=0.0)
    rho = rho.at[0].set(1)
    pairs = rho[: num - num % 2].reshape(num // 2, 2, *rho.shape[1:]).sum(axis=1)
    monotone = jnp.maximum(jax.lax.cummin(pairs), 0)
    tau = 2 * jnp.sum(monotone, axis=0) - 1
    size = halves * num
    return size / jnp.maximum(tau, 1 / np.log10(size).item())


def split_r_hat(x: Float[Array, "C T *shape"], *, rank_normalised: bool = False) -> Float[Array, "*shape"]:
    """R = sqrt(v / W), v = (N - 1)/N W + B/N: how much wider all halves of chains are together than each by itself.

    W is the mean variance within the M halves, B/N the variance of their means. 1 when the chains agree; above 1.01
    they do not, or are too short. rank_normalised replaces draws by the normal scores of their ranks, which needs no
    variance to exist, and returns the larger of that and the same for |x - median|, which sees chains that agree in
    place but not in width.

    Chains that never move answer inf, or nan if they are all at one place: no variance, nothing to compare. Raises
    ValueError if T < 4. Source: Gelman et al. (2013), Bayesian Data Analysis, equation 11.4; Vehtari et al. (2021),
    equations 1 to 4 and 14.
    """
    _check(x)
    halves = _halves(x)
    if not rank_normalised:
        return _r_hat(halves)
    folded = jnp.abs(halves - jnp.median(halves, axis=(0, 1), keepdims=True))
    # A fold that leaves one value says nothing, and must not hide what the ranks say.
    return jnp.fmax(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores(folded)))


def monte_carlo_error(x: Float[Array, "C T *shape"]) -> Float[Array, "*shape"]:
    """std(x) / sqrt(ESS): the standard error of the mean over all draws. Units: those of x.

    Zero for chains that all stay at one place, which is no sign of accuracy. Raises ValueError if T < 4.
    """
    ess = effective_sample_size(x)
    return _pooled(x)[1] / jnp.sqrt(ess)


def energy_trace(
    energy: Callable[[Float[Array, "*shape"]], Float[Array, ""]], x: Float[Array, "C T *shape"]
) -> Float[Array, "C T"]:
    """E(x[c, t]) for every draw: a scalar to judge chains by, when x has many coordinates."""
    values = jax.lax.map(energy, x.reshape(-1, *x.shape[2:]), batch_size=1024)
    return values.reshape(x.shape[:2])


def _halves(x: Float[Array, "C T *shape"]) -> Float[Array, "M N *shape"]:
    half = x.shape[1] // 2
    return jnp.concatenate([x[:, :half], x[:, x.shape[1] - half :]])


def _moments(x: Float[Array, "M N *shape"]) -> tuple[Float[Array, "M *shape"], Float[Array, "M N *shape"]]:
    """Means, up to a constant that all chains share, and deviations from them."""
    # Measured from the first draws: a far origin costs no digits, and a chain that never moves deviates by exactly 0.
    first = x[:, :1]
    moved = x - first
    shift = jnp.mean(moved, axis=1, keepdims=True)
    return (first - first[:1] + shift)[:, 0], moved - shift


def _autocovariance(deviations: Float[Array, "M N *shape"]) -> Float[Array, "M N *shape"]:
    """1/N sum_i d_i d_{i+t} at the lags t = 0, ..., N - 1, as the transform of the power spectrum."""
    num = deviations.shape[1]
    # Zeros up to twice the length keep the end of a chain from meeting its start; a power of two is fast.
    padded = 1 << (2 * num - 1).bit_length()
    spectrum = jnp.fft.rfft(deviations, padded, axis=1)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.fft.irfft(power, padded, axis=1)[:, :num] / num


def _marginal_variance(means: Float[Array, "M *shape"], within: Float[Array, "*shape"], num: int) -> Array:
    """v = (N - 1)/N W + B/N."""
    return within * ((num - 1) / num) + jnp.var(means, axis=0, ddof=1)


def _r_hat(halves: Float[Array, "M N *shape"]) -> Float[Array, "*shape"]:
    means, deviations = _moments(halves)
    num = halves.shape[1]
    within = jnp.mean(jnp.sum(deviations**2, axis=1), axis=0) / (num - 1)
    return jnp.sqrt(_marginal_variance(means, within, num) / within)


def _normal_scores(x: Float[Array, "M N *shape"]) -> Float[Array, "M N *shape"]:
    """Phi^-1((r - 3/8) / (S + 1/4)), r the rank among all S = M N draws, ties sharing their mean rank."""
    flat = x.reshape(-1, *x.shape[2:])
    # rankdata has its own dtype; a rank is exact in float32 up to 2^24 draws.
    rank = jax.scipy.stats.rankdata(flat, axis=0).astype(x.dtype)
    scores = jax.scipy.special.ndtri((rank - 0.375) / (flat.shape[0] + 0.25))
    # A nan would have a rank like any other number.
    return jnp.where(jnp.all(jnp.isfinite(flat), axis=0, keepdims=True), scores, jnp.nan).reshape(x.shape)


def _pooled(x: Float[Array, "C T *shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Mean and standard deviation of all draws together, measured from the first of them."""
    moved = x - x[:1, :1]
    return x[0, 0] + jnp.mean(moved, axis=(0, 1)), jnp.std(moved, axis=(0, 1), ddof=1)


def _ratio(a: Array, b: Array, where_zero: float = 1.0) -> Array:
    return jnp.where(b == 0, where_zero, a / jnp.where(b == 0, 1, b))


def _check(x: Array) -> None:
    if x.ndim < 2 or x.shape[0] < 1:
        raise ValueError(f"x has shape {x.shape}, not [C, T, *shape] with at least one chain")
    if x.shape[1] < 4:
        raise ValueError(f"x has T = {x.shape[1]} draws of each chain: at least 4 are needed")

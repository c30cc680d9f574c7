"""Mixtures of Gaussians: exact log-density, score, sampler, moments and Gaussian smoothing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Key

from . import checks


class GaussianMixture(NamedTuple):
    """p(x) = sum_k w_k N(x; m_k, C_k) on R^D, with C_k = Q_k diag(lambda_k) Q_k'.

    Covariances are kept factorised: no method has to factorise, and smoothing only adds to lambda. Make one
    with `gaussian_mixture`, which checks the values. It is a pytree: pass it to jitted functions as an
    argument.
    """

    weights: Float[Array, " K"]
    means: Float[Array, "K D"]
    variances: Float[Array, "K D"]
    """lambda: the eigenvalues of each covariance."""
    axes: Float[Array, "K D D"]
    """Q: the eigenvectors, in columns."""

    @property
    def covariances(self) -> Float[Array, "K D D"]:
        """C_k = Q_k diag(lambda_k) Q_k'."""
        return jnp.einsum("kij,kj,klj->kil", self.axes, self.variances, self.axes, precision="highest")

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x) = log sum_k w_k N(x; m_k, C_k), normalised."""
        return _logdensity(self, x)

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """grad log p(x) = -sum_k r_k(x) inv(C_k) (x - m_k), r_k(x) the probability of component k given x."""
        return _logdensity_and_score(self, x)[1]

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} D"]:
        """num independent draws. `key` is consumed."""
        key_component, key_noise = jax.random.split(key)
        component = jax.random.categorical(key_component, jnp.log(self.weights), shape=(num,))
        eps = jax.random.normal(key_noise, (num, self.means.shape[1]), self.means.dtype)

        # One component at a time: gathering the axes of each draw would take num D^2 of memory.
        def place(x, parts):
            k, mean, variance, axes = parts
            y = mean[None, :] + jnp.matmul(eps * jnp.sqrt(variance)[None, :], axes.T, precision="highest")
            return jnp.where((component == k)[:, None], y, x), None

        index = jnp.arange(self.weights.shape[0])
        return jax.lax.scan(place, eps, (index, self.means, self.variances, self.axes))[0]

    def smooth(self, sigma: float | Float[Array, ""]) -> "GaussianMixture":
        """The distribution of x + sigma eps, eps ~ N(0, I): every C_k becomes C_k + sigma^2 I.

        Its score is what equation (2) learns.

        Raises ValueError if sigma is known and negative.
        """
        checks.noise_scale(sigma)
        return self._replace(variances=self.variances + sigma**2)

    def mean(self) -> Float[Array, " D"]:
        """E[x] = sum_k w_k m_k."""
        return jnp.matmul(self.weights, self.means, precision="highest")

    def covariance(self) -> Float[Array, "D D"]:
        """Cov[x] = sum_k w_k (C_k + (m_k - m)(m_k - m)'), m the mean."""
        u = self.means - self.mean()[None, :]
        within = jnp.einsum("k,kij->ij", self.weights, self.covariances, precision="highest")
        return within + jnp.einsum("k,ki,kj->ij", self.weights, u, u, precision="highest")

    def _whitening(self) -> Float[Array, "K D D"]:
        # W_k = lambda_k^(-1/2) Q_k', so that inv(C_k) = W_k' W_k.
        return jnp.swapaxes(self.axes / jnp.sqrt(self.variances)[:, None, :], 1, 2)

    def _log_joint(self, squares: Float[Array, " K"]) -> Float[Array, " K"]:
        # log w_k N(x; m_k, C_k), from |z_k|^2 with z_k = W_k (x - m_k).
        log_scale = 0.5 * jnp.sum(jnp.log(2.0 * np.pi * self.variances), axis=1)
        # A weight of 0 has no derivative here, and must not make those in other things nan.
        log_weights = jnp.log(jnp.where(self.weights > 0, self.weights, 1.0))
        return jnp.where(self.weights > 0, log_weights, -jnp.inf) - log_scale - 0.5 * squares


def _logdensity_and_score(
    mixture: GaussianMixture, x: Float[Array, " D"]
) -> tuple[Float[Array, ""], Float[Array, " D"]]:
    checks.point(x, mixture.means.shape[1])
    whitening = mixture._whitening()
    z = jnp.einsum("kij,kj->ki", whitening, x[None, :] - mixture.means, precision="highest")
    log_joint = mixture._log_joint(jnp.sum(z * z, axis=1))
    score = -jnp.einsum("k,kij,ki->j", jax.nn.softmax(log_joint), whitening, z, precision="highest")
    return jax.nn.logsumexp(log_joint), score


@jax.custom_jvp
def _logdensity(mixture: GaussianMixture, x: Float[Array, " D"]) -> Float[Array, ""]:
    return _logdensity_and_score(mixture, x)[0]


def _logdensity_jvp(primals, tangents):
    # Chains differentiate in x: the score written out takes a third of the time of the derivative found by machine.
    (mixture, x), (d_mixture, d_x) = primals, tangents
    value, score = _logdensity_and_score(mixture, x)
    slope = jnp.zeros_like(value)
    if not isinstance(d_x, SymbolicZero):
        slope = slope + jnp.vdot(score, d_x, precision="highest")
    if not all(isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(d_mixture)):
        d_mixture = jax.tree.map(
            lambda a, d: jnp.zeros_like(a) if isinstance(d, SymbolicZero) else d, mixture, d_mixture
        )
        slope = slope + jax.jvp(lambda mixture: _logdensity_and_score(mixture, x)[0], (mixture,), (d_mixture,))[1]
    return value, slope


_logdensity.defjvp(_logdensity_jvp, symbolic_zeros=True)


def gaussian_mixture(weights, means, covariances) -> GaussianMixture:
    """sum_k w_k N(m_k, C_k); weights [K], means [K, D], covariances [K, D, D], or variances [K] or a scalar.

    A host function: it takes lists, NumPy or JAX arrays, not traced ones. The dtype is that of means where it
    is floating, else JAX's default. Weights are normalised after the check.

    Raises ValueError unless shapes agree, all numbers are finite, weights are non-negative and sum to one (to
    1e-5), and covariances are symmetric (to 1e-5 of the largest entry) and positive definite; it names the
    index and the number.
    """
    dtype = jax.dtypes.canonicalize_dtype(getattr(means, "dtype", float))
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jax.dtypes.canonicalize_dtype(float)
    w, m, C = (np.asarray(a, np.float64) for a in (weights, means, covariances))
    if m.ndim != 2 or 0 in m.shape:
        raise ValueError(f"means has shape {m.shape}, not [K, D]")
    K, D = m.shape
    if w.shape != (K,):
        raise ValueError(f"weights has shape {w.shape}, not ({K},) as means asks")
    if C.shape not in ((), (K,), (K, D, D)):
        raise ValueError(f"covariances has shape {C.shape}, not (), ({K},) or ({K}, {D}, {D})")
    for name, a in (("weights", w), ("means", m), ("covariances", C)):
        checks.require(np.isfinite(a), name, a, "must be finite")
    checks.require(w >= 0, "weights", w, "must not be negative")
    if abs(w.sum() - 1) > 1e-5:
        raise ValueError(f"weights sum to {w.sum()}, not to 1")
    if C.ndim < 3:
        checks.require(C > 0, "covariances", C, "must be a positive variance")
        variances = np.broadcast_to(np.broadcast_to(C, (K,))[:, None], (K, D))
        axes = np.broadcast_to(np.eye(D), (K, D, D))
    else:
        asymmetry = np.abs(C - C.swapaxes(1, 2))
        symmetric = asymmetry <= 1e-5 * np.abs(C).max(axis=(1, 2), keepdims=True)
        checks.require(symmetric, "covariances", C, "must be that of the transpose")
        variances, axes = np.linalg.eigh((C + C.swapaxes(1, 2)) / 2)
        for k in range(K):
            if variances[k, 0] <= 0:
                raise ValueError(f"covariances[{k}] has the eigenvalue {variances[k, 0]}: it is not positive definite")
    return GaussianMixture(*(jnp.asarray(a, dtype) for a in (w / w.sum(), m, variances, axes)))


def gaussian(mean, covariance) -> GaussianMixture:
    """N(mean, covariance), a mixture of one: mean [D], covariance [D, D] or a scalar variance, all checked."""
    if np.ndim(mean) != 1:
        raise ValueError(f"mean has shape {np.shape(mean)}, not [D]")
    if np.ndim(covariance) not in (0, 2):
        raise ValueError(f"covariance has shape {np.shape(covariance)}, not () or [D, D]")
    mean = mean if hasattr(mean, "dtype") else np.asarray(mean, np.float64)
    covariance = np.asarray(covariance)
    return gaussian_mixture([1.0], mean[None], covariance[None] if covariance.ndim == 2 else covariance)


def eight_gaussians(radius: float = 2.0, std: float = 0.3) -> GaussianMixture:
    """Eight equal Gaussians N(m_k, std^2 I) on a ring in the plane, m_k = radius (cos k pi/4, sin k pi/4)."""
    angle = np.arange(8) * np.pi / 4
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return gaussian_mixture(np.full(8, 1 / 8), means, std**2)


def two_modes() -> GaussianMixture:
    """4/5 N((5, 5), I) + 1/5 N((-5, -5), I), whose modes Langevin chains cannot weigh.

    Source: Song and Ermon (2019), Section 3.2.2.
    """
    return gaussian_mixture([0.8, 0.2], [[5.0, 5.0], [-5.0, -5.0]], 1.0)

"""The multivariate Student t distribution."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import betaln, gammaln

from . import checks


class StudentT(NamedTuple):
    """p(x) = c (1 + q / nu)^(-(nu + D) / 2), q = (x - m)' inv(S) (x - m), S = Q diag(lambda) Q', on R^D.

    Make one with `student_t`, which checks the values and computes the constant. Only location, scales and axes
    may be replaced by others (of the same determinant): c is of these and of nu. It is a pytree.
    """

    location: Float[Array, " D"]
    scales: Float[Array, " D"]
    """lambda: the eigenvalues of the scale matrix S, which is not the covariance."""
    axes: Float[Array, "D D"]
    """Q: its eigenvectors, in columns."""
    dof: Float[Array, ""]
    """nu."""
    log_constant: Float[Array, ""]
    """log c = log Gamma((nu + D)/2) - log Gamma(nu/2) - D/2 log(nu pi) - 1/2 log det S."""

    def logdensity(self, x: Float[Array, " D"]) -> Float[Array, ""]:
        """log p(x), normalised."""
        y = self._along_axes(x)
        q = jnp.sum(y * y / self.scales)
        return self.log_constant - 0.5 * (self.dof + len(self.location)) * jnp.log1p(q / self.dof)

    def score(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """grad log p(x) = -(nu + D) / (nu + q) inv(S) (x - m)."""
        y = self._along_axes(x)
        z = y / self.scales
        factor = -(self.dof + len(self.location)) / (self.dof + jnp.sum(y * z))
        return factor * jnp.matmul(self.axes, z, precision="highest")

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} D"]:
        """num independent draws, m + z / sqrt(chi^2_nu / nu) with z ~ N(0, S). `key` is consumed."""
        key_normal, key_chisquare = jax.random.split(key)
        dtype = self.location.dtype
        eps = jax.random.normal(key_normal, (num, len(self.location)), dtype)
        z = jnp.matmul(eps * jnp.sqrt(self.scales)[None, :], self.axes.T, precision="highest")
        # chi^2_nu / 2 is Gamma(nu / 2). By its logarithm: with few degrees of freedom it underflows.
        log_half_chisquare = jax.random.loggamma(key_chisquare, 0.5 * self.dof, (num,), dtype)
        return self.location[None, :] + z * jnp.exp(0.5 * (jnp.log(0.5 * self.dof) - log_half_chisquare))[:, None]

    def mean(self) -> Float[Array, " D"]:
        """E[x] = m where nu > 1, else NaN."""
        return jnp.where(self.dof > 1.0, self.location, jnp.nan)

    def covariance(self) -> Float[Array, "D D"]:
        """Cov[x] = nu / (nu - 2) S where nu > 2, else NaN."""
        S = jnp.einsum("ij,j,kj->ik", self.axes, self.scales, self.axes, precision="highest")
        return jnp.where(self.dof > 2.0, self.dof / (self.dof - 2.0) * S, jnp.nan)

    def _along_axes(self, x):
        checks.point(x, len(self.location))
        return jnp.matmul(self.axes.T, x - self.location, precision="highest")


def student_t(location, scale, dof) -> StudentT:
    """Student's t: location [D], scale matrix [D, D] or a number s for s I, degrees of freedom dof.

    A host function. The dtype is that of location where it is floating, else JAX's default.

    Raises ValueError unless all are finite, dof is positive, and scale is symmetric (to 1e-5 of its largest
    entry) and positive definite.
    """
    if np.ndim(location) != 1 or np.size(location) == 0:
        raise ValueError(f"location has shape {np.shape(location)}, not [D]")
    dtype = checks.floating_dtype(location)
    D = np.size(location)
    m = checks.finite_array("location", location, (D,))
    nu = checks.positive("dof", dof)
    if np.ndim(scale) == 0:
        scales, axes = np.full(D, checks.positive("scale", scale)), np.eye(D)
    else:
        S = checks.finite_array("scale", scale, (D, D))
        asymmetry = np.abs(S - S.T)
        if asymmetry.max() > 1e-5 * np.abs(S).max():
            i, j = np.unravel_index(np.argmax(asymmetry), S.shape)
            raise ValueError(f"scale[{i}, {j}] = {S[i, j]} is not symmetric")
        scales, axes = np.linalg.eigh((S + S.T) / 2)
        if scales[0] <= 0:
            raise ValueError(f"scale has the eigenvalue {scales[0]}: it is not positive definite")
    # The difference of two log-gammas of nu / 2, without their cancellation where nu is large.
    log_gammas = gammaln(D / 2) - betaln(nu / 2, D / 2)
    log_constant = log_gammas - D / 2 * np.log(nu * np.pi) - np.log(scales).sum() / 2
    return StudentT(*(jnp.asarray(a, dtype) for a in (m, scales, axes, nu, log_constant)))

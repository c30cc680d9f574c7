"""The densities of `experiments.tables`: a score network that starts as a Gaussian, and the classical ones beside it.

Network. In coordinates z = inv(L) (x - m) the training rows have mean 0 and covariance about I, and `dsm.ScoreMLP`,
which begins as the score of N(0, I) smoothed, begins as the full-covariance Gaussian of the rows; training adds what
is not Gaussian. Of a `dsm.VP` the flow of that Gaussian stands still, so that the ODE solver works for the rest only.

Choice. The density is that of the mean score of a few networks. For each fold of the training rows there are as many
that see neither its rows nor coordinates from them, trained beside the others. When to stop, and which noise sigma_min
to keep, is what gives the rows of the folds the greatest likelihood.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.linalg import solve_triangular
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity

import dsm
from dsm import flow

SDE = dsm.VP()
SHRINKAGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
MIXTURES = {
    "n_components": [1, 2, 3, 4, 5, 6, 8, 10],
    "covariance_type": ["full", "tied", "diag"],
    "reg_covar": [1e-6, 1e-3, 1e-2, 1e-1],
}
BANDWIDTHS = {"bandwidth": np.geomspace(0.05, 2.0, 30)}
GAUSSIAN, MIXTURE, KERNELS, WHITENED = "Gaussian", "Gaussian mixture", "kernels", "kernels, whitened"


class Coordinates(NamedTuple):
    """z = inv(L) (x - mean), L L' being a covariance of x."""

    mean: Float[np.ndarray, " D"]
    factor: Float[np.ndarray, "D D"]

    def of(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """From x to z."""
        return solve_triangular(self.factor, (x - self.mean).T, lower=True).T

    @property
    def log_jacobian(self) -> float:
        """log |dz / dx|."""
        return -float(np.log(np.diag(self.factor)).sum())


class Views(NamedTuple):
    """The training rows as networks see them: those that a fold k < K is kept from, and last those for all rows."""

    rows: Float[np.ndarray, "N K_plus_1 D_plus_1"]
    """z of each row in each view, and last its weight there: 0 where the row is in the fold that is left out."""
    log_jacobians: Float[np.ndarray, " K"]
    coordinates: Coordinates
    """Those of all rows."""
    shrinkage: float


def coordinates(x: Float[np.ndarray, "N D"], shrinkage: float) -> Coordinates:
    """Return those in which x has mean 0 and covariance I; S is first shrunk, (1 - shrinkage) S + shrinkage diag(S)."""
    covariance = np.cov(x.T, bias=True).reshape(x.shape[1], -1)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
    # scikit-learn's ridge: columns that depend on each other are no error.
    return Coordinates(x.mean(axis=0), np.linalg.cholesky(covariance + 1e-6 * np.eye(len(covariance))))


def views(x: Float[np.ndarray, "N D"], folds: KFold) -> Views:
    """Lay the training rows out; the covariance is shrunk as far as gives the rows of the folds most likelihood."""
    parts = list(folds.split(x))

    def score(shrinkage: float) -> float:
        logs = [gaussian(coordinates(x[train], shrinkage), 0.0).logpdf(x[rest]) for train, rest in parts]
        return float(np.concatenate([np.atleast_1d(each) for each in logs]).mean())

    shrinkage = max(SHRINKAGES, key=score)
    own = [coordinates(x[train], shrinkage) for train, _ in parts]
    whole = coordinates(x, shrinkage)
    rows = np.ones((len(x), len(own) + 1, x.shape[1] + 1), np.float32)
    for k, each in enumerate([*own, whole]):
        rows[:, k, :-1] = each.of(x)
    for k, (_, rest) in enumerate(parts):
        rows[rest, k, -1] = 0
    return Views(rows, np.asarray([each.log_jacobian for each in own], np.float32), whole, shrinkage)


def gaussian(own: Coordinates, sigma_min: float) -> Any:
    """Return what an untrained network stands for: N(mean, (1 + sigma_min^2) L L')."""
    covariance: Any = (1 + sigma_min**2) * own.factor @ own.factor.T
    return multivariate_normal(own.mean, covariance)


def init(key: Key[Array, ""], network: dsm.ScoreMLP, size: int, views: int, networks: int) -> Any:
    """Return the parameters of all networks, [views, networks, ...]."""
    x = jnp.zeros(size, jnp.float32)
    keys = jax.random.split(key, (views, networks))
    return jax.vmap(jax.vmap(lambda key: network.init(key, x, jnp.float32(1))))(keys)


def loss(
    key: Key[Array, ""], params: Any, row: Float[Array, "K_plus_1 D_plus_1"], *, network: Any, mean: float, std: float
) -> Array:
    """`denoising_lognormal` at one row, summed over the networks that may see it: each is trained as if alone."""

    def each(key: Any, params: Any, row: Any) -> Array:
        score = partial(network.apply, params)
        return row[-1] * dsm.denoising_lognormal(key, score, row[:-1], mean=mean, std=std, sigma_data=1.0)

    keys = jax.random.split(key, jax.tree.leaves(params)[0].shape[:2])
    return jnp.sum(jax.vmap(jax.vmap(each, (0, 0, None)))(keys, params, row))


def validate(
    key: Key[Array, ""], params: Any, heldout: Any, *, network: Any, sigmas: tuple[float, ...]
) -> dict[str, Array]:
    """-log p(x) for each sigma_min and the least, in the mean over rows, each by the networks that it was kept from.

    The divergence is Hutchinson's with one probe for every row: z is nearly white, so that grad s is nearly diagonal.
    One probe for all rows would have an error that their mean keeps. It is the same for every sigma_min and at every
    call: what is chosen between differs by less than probes do.
    """
    rows, log_jacobians = heldout
    keys = jax.random.split(key, len(rows))

    def each(key: Array, row: Array, t_min: Array) -> Array:
        k = jnp.argmin(row[:-1, -1])
        score = score_t(network, jax.tree.map(lambda p: p[k], params))
        found = flow.log_likelihood(key, score, row[k, :-1], SDE, t_min=t_min, rtol=1e-3, atol=1e-3)
        return -found.value - log_jacobians[k]

    times = jnp.asarray([t_of(sigma) for sigma in sigmas], rows.dtype)
    over_rows = lambda t: jnp.mean(jax.lax.map(lambda pair: each(pair[0], pair[1], t), (keys, rows), batch_size=128))  # noqa: E731
    values = jax.lax.map(over_rows, times)
    return {"validation": jnp.nanmin(values)} | {name_of(sigma): values[i] for i, sigma in enumerate(sigmas)}


def log_density(params: Any, z: Float[Array, "N D"], t_min: Float[Array, ""], *, network: Any) -> Float[Array, " N"]:
    """log p(z) of the mean of the networks' scores, its divergence exact."""
    score = score_t(network, params)

    def each(z: Array) -> Array:
        return flow.log_likelihood(None, score, z, SDE, num_probes=None, t_min=t_min, rtol=1e-4, atol=1e-4).value

    return jax.lax.map(each, z, batch_size=128)


def score_t(network: Any, params: Any) -> Any:
    """s(x, t) = mean_k s_k(x / alpha, std / alpha) / alpha, over networks k."""

    def score(x: Array, t: Array) -> Array:
        alpha, std = SDE.marginal(t)
        each = jax.vmap(lambda p: network.apply(p, x / alpha, std / alpha))(params)
        return jnp.mean(each, axis=0) / alpha

    return score


def name_of(sigma: float) -> str:
    """Return the name of the number that `validate` finds for a sigma_min."""
    return f"sigma_min {sigma:g}"


def t_of(sigma: float) -> float:
    """Return t where std / alpha = sigma: int_0^t beta = log(1 + sigma^2), a quadratic equation."""
    low, rise, total = float(SDE.beta_min), float(SDE.beta_max - SDE.beta_min), math.log1p(sigma**2)
    return 2 * total / (low + math.sqrt(low**2 + 2 * rise * total))


def baselines(
    x: Float[np.ndarray, "N D"], heldout: Float[np.ndarray, "M D"], folds: KFold, own: Views, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Return log p of the held-out rows by each classical density, and what was chosen for each by its folds."""
    gauss = GaussianMixture(1).fit(x)
    mixture = GridSearchCV(GaussianMixture(random_state=seed, n_init=2), MIXTURES, cv=folds).fit(x)
    kernels = GridSearchCV(KernelDensity(), BANDWIDTHS, cv=folds).fit(x)
    bandwidth = _bandwidth(x, folds, own.shrinkage)
    whitened = KernelDensity(bandwidth=bandwidth).fit(own.coordinates.of(x))
    found = {
        GAUSSIAN: gauss.score_samples(heldout),
        MIXTURE: mixture.best_estimator_.score_samples(heldout),
        KERNELS: kernels.best_estimator_.score_samples(heldout),
        WHITENED: whitened.score_samples(own.coordinates.of(heldout)) + own.coordinates.log_jacobian,
    }
    chosen = {MIXTURE: mixture.best_params_, KERNELS: kernels.best_params_, WHITENED: {"bandwidth": bandwidth}}
    return found, chosen


def _bandwidth(x: Float[np.ndarray, "N D"], folds: KFold, shrinkage: float) -> float:
    """Choose that of kernels in coordinates that each fold is kept from too; their Jacobians are the same for all."""
    parts = [(coordinates(x[train], shrinkage), x[train], x[rest]) for train, rest in folds.split(x)]
    parts = [(own.of(train), own.of(rest)) for own, train, rest in parts]

    def score(bandwidth: float) -> float:
        return sum(KernelDensity(bandwidth=bandwidth).fit(train).score(rest) for train, rest in parts)

    return max(BANDWIDTHS["bandwidth"], key=score)

"""The truth of `experiments.low_density`: a density with sparse regions, and how learned scores compare with it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

import dsm

HALF_WIDTH = 6.0
"""The box is [-6, 6]^2; equation 1 is normalised on it."""
SPREAD = 2.0
"""About the standard deviation of p_D in a coordinate."""
SPARSE = 0.01
"""The low-density region, where p_D is below its own 1% quantile: it holds 1% of p_D and most of the box."""
POINTS = ("drawn from p_D", "uniform on the box", "uniform between the modes")


class Setting(NamedTuple):
    """The truth and where models are compared with it: P sets of N points."""

    target: dsm.GaussianMixture
    points: Float[Array, "P N 2"]
    threshold: Float[Array, ""]
    """log p_D below which the low-density region begins."""
    grid: dsm.Grid
    """Quadrature of equation 1."""
    fine: dsm.Grid
    """Quadrature of the comparison: twice as many nodes along each axis, G points."""


class Evaluation(NamedTuple):
    """One learned density p against the truth p_D, and s = grad log p against two true scores."""

    to_data: Float[Array, "P N"]
    """|s(x) - grad log p_D(x)|^2."""
    to_smoothed: Float[Array, "P N"]
    """|s(x) - grad log p_sigma(x)|^2, p_sigma being p_D smoothed; sigma = 0 for equation 1."""
    log_density: Float[Array, " G"]
    """log p(x), normalised on the box."""
    error_map: Float[Array, " G"]
    """|s(x) - grad log p_D(x)|."""
    log_partition: Float[Array, " 2"]
    """log Z over the box on both grids, that of equation 1 first."""
    kl: Float[Array, ""]
    """KL(p_D || p) over the box."""
    nll: Float[Array, ""]
    """-mean log p(x) over the points drawn from p_D, none of which is a training point."""
    sparse_mass: Float[Array, ""]
    """Probability of the low-density region."""


class Truth(NamedTuple):
    """What the models are compared with."""

    decile: Int[np.ndarray, "P N"]
    log_density: Float[np.ndarray, "P 10"]
    """Median of log p_D in each decile."""
    data_score: Float[np.ndarray, "P 10"]
    """Root mean square of |grad log p_D|: the error of a score that is 0."""
    bias: Float[np.ndarray, "L P 10"]
    """Root mean square of |grad log p_sigma - grad log p_D|."""
    entropy: float
    """-mean log p_D over the points drawn from it: the nll of a perfect model."""
    sparse_mass: float
    outside: float
    """Mass of p_D outside the box."""


def three_modes() -> dsm.GaussianMixture:
    """Three tilted Gaussians of weights 0.6, 0.3 and 0.1, with p_D below 5e-4 of its height on any way between."""
    means = [[-2.5, -2.0], [2.5, -1.5], [0.0, 3.0]]
    covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.3, -0.1], [-0.1, 0.5]], [[0.4, 0.0], [0.0, 0.25]]]
    return dsm.gaussian_mixture([0.6, 0.3, 0.1], means, covariances)


def make_setting(key: Key[Array, ""], *, num_points: int, nodes: int) -> Setting:
    """Draw the points. `key` is consumed."""
    key_drawn, key_box, key_triangle = jax.random.split(key, 3)
    target = three_modes()
    barycentric = jax.random.exponential(key_triangle, (num_points, 3))
    barycentric = barycentric / barycentric.sum(axis=1, keepdims=True)
    points = jnp.stack(
        [
            target.sample(key_drawn, num_points),
            jax.random.uniform(key_box, (num_points, 2), minval=-HALF_WIDTH, maxval=HALF_WIDTH),
            jnp.matmul(barycentric, target.means, precision="highest"),
        ]
    )
    threshold = jnp.quantile(jax.vmap(target.logdensity)(points[0]), SPARSE)
    return Setting(target, points, threshold, box_grid(nodes), box_grid(2 * nodes))


def box_grid(nodes: int) -> dsm.Grid:
    """Gauss-Legendre on the box."""
    return dsm.quadrature_grid((-HALF_WIDTH, -HALF_WIDTH), (HALF_WIDTH, HALF_WIDTH), nodes)


def evaluate(
    energy: Callable[[Float[Array, " 2"]], Float[Array, ""]], setting: Setting, sigma: Float[Array, ""]
) -> Evaluation:
    """Compare the density exp(-energy) / Z with p_D, and its score with that of p_D smoothed by sigma too."""
    target, points, threshold, grid, fine = setting
    score = dsm.score_of(energy)

    def squared_error(true_score):
        return jax.vmap(lambda x: 2 * dsm.explicit(score, true_score, x))

    log_z = dsm.log_partition(energy, fine)
    log_q = -jax.vmap(energy)(fine.points) - log_z
    log_p = jax.vmap(target.logdensity)(fine.points)
    p = jnp.exp(fine.log_weights + log_p)
    q = jnp.exp(fine.log_weights + log_q)
    return Evaluation(
        to_data=jax.vmap(squared_error(target.score))(points),
        to_smoothed=jax.vmap(squared_error(target.smooth(sigma).score))(points),
        log_density=log_q,
        error_map=jnp.sqrt(squared_error(target.score)(fine.points)),
        log_partition=jnp.stack([dsm.log_partition(energy, grid), log_z]),
        kl=jnp.sum(p * (log_p - log_q)) / jnp.sum(p),
        nll=jnp.mean(jax.vmap(energy)(points[0])) + log_z,
        sparse_mass=jnp.sum(jnp.where(log_p < threshold, q, 0.0)),
    )


def describe(setting: Setting, levels: list[float]) -> Truth:
    """Compute what does not depend on a model."""
    target, points, threshold, _, fine = setting
    logdensity = jax.jit(jax.vmap(target.logdensity))
    log_p = np.stack([logdensity(x) for x in points])
    decile = np.stack([deciles(values) for values in log_p])

    scores = jax.jit(lambda sigma: jax.vmap(jax.vmap(target.smooth(sigma).score))(points))

    def rms(u):
        squares = np.sum(np.asarray(u) ** 2, axis=-1)
        return np.stack([rms_by_decile(*pair) for pair in zip(squares, decile, strict=True)])

    on_grid = np.asarray(logdensity(fine.points), np.float64)
    p = np.exp(on_grid + np.asarray(fine.log_weights, np.float64))
    return Truth(
        decile=decile,
        log_density=np.stack([[np.median(v[d == k]) for k in range(10)] for v, d in zip(log_p, decile, strict=True)]),
        data_score=rms(scores(0.0)),
        bias=np.stack([rms(scores(sigma) - scores(0.0)) for sigma in levels]),
        entropy=float(-log_p[0].mean()),
        sparse_mass=float(p[on_grid < float(threshold)].sum()),
        outside=float(1 - p.sum()),
    )


def deciles(values: Float[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Return 0 for the lowest tenth of the values to 9 for the highest; sizes differ by one at most.

    These are the bins of `dsm.metrics.score_error_by_density`, which holds one score against one truth. Here errors
    from two truths share the bins of p_D, and they are averaged afterwards, over all models and seeds, in float64.
    """
    rank = np.argsort(np.argsort(values, kind="stable"))
    return rank * 10 // len(values)


def rms_by_decile(squares: Float[np.ndarray, "*batch N"], decile: Int[np.ndarray, " N"]) -> np.ndarray:
    """Return the root of the mean of the squares in each decile, [*batch, 10]."""
    return np.sqrt(np.stack([squares[..., decile == d].mean(axis=-1) for d in range(10)], axis=-1))

"""How far a score is from the true one: on average, by density, and point by point."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..losses import explicit

Score = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]


def fisher_divergence(score: Score, true_score: Score, x_batch: Float[Array, "N *shape"]) -> Float[Array, ""]:
    """E_p 1/2 |s(x) - grad log p(x)|^2, averaged over x_batch, a sample of p.

    Zero only where the two scores agree almost everywhere on p. It is local: it hardly sees wrong weights
    of modes that are far apart, nor an error where p has no mass. At the smoothed density it is what equation (2)
    exceeds its least value by, `denoising_floor`. Units: 1/x^2. Source: Hyvarinen (2005), equation 2.

    Args:
        score: s(x), for one example.
        true_score: grad log p(x), for one example.
        x_batch: draws of p.
    """
    return jnp.mean(jax.vmap(lambda x: explicit(score, true_score, x))(x_batch))


def score_error_map(score: Score, true_score: Score, points: Float[Array, "N *shape"]) -> Float[Array, " N"]:
    """|s(x) - grad log p(x)| at every point, for instance those of a grid. Units: 1/x."""
    return jnp.sqrt(_squared_errors(score, true_score, points))


class ScoreErrorByDensity(NamedTuple):
    """The error of a score in bins of the log-density, the sparsest first."""

    log_density: Float[Array, " B"]
    """Mean of log p in each bin."""
    rms_error: Float[Array, " B"]
    """Root of the mean of |s - grad log p|^2."""
    relative_rms_error: Float[Array, " B"]
    """The same over the root of the mean of |grad log p|^2: 1 for a score that is 0. Not finite where grad log p is."""
    num_points: Int[Array, " B"]


def score_error_by_density(
    score: Score, target: Any, x_batch: Float[Array, "N *shape"], *, num_bins: int
) -> ScoreErrorByDensity:
    """sqrt(mean |s(x) - grad log p(x)|^2) over the points of each quantile bin of log p(x).

    Where does a learned score fail? Bin b holds the points whose log p has a rank from b N / B to (b + 1) N / B, so
    the bins differ by one point at most, and ties are divided in the order of x_batch. The points need not be draws
    of p: uniform ones show the sparse regions, which draws hardly visit.

    Args:
        score: s(x), for one example.
        target: what has logdensity(x) and score(x), for one example; its log p may lack a constant.
        x_batch: where to compare.
        num_bins: B, from 1 to N.
    """
    num = x_batch.shape[0]
    if not 1 <= num_bins <= num:
        raise ValueError(f"num_bins must be at least 1 and at most the {num} points, got {num_bins}")
    log_p = jax.vmap(target.logdensity)(x_batch)
    order = jnp.argsort(log_p)
    bin_of_rank = np.arange(num) * num_bins // num
    count = np.bincount(bin_of_rank, minlength=num_bins)

    def mean(values: Float[Array, " N"]) -> Float[Array, " B"]:
        total = jax.ops.segment_sum(values[order], bin_of_rank, num_bins, indices_are_sorted=True)
        return total / jnp.asarray(count, values.dtype)

    error = jnp.sqrt(mean(_squared_errors(score, target.score, x_batch)))
    size = jnp.sqrt(mean(_squared_errors(jnp.zeros_like, target.score, x_batch)))
    return ScoreErrorByDensity(mean(log_p), error, error / size, jnp.asarray(count))


def _squared_errors(score: Score, true_score: Score, x_batch: Float[Array, "N *shape"]) -> Float[Array, " N"]:
    return jax.vmap(lambda x: 2 * explicit(score, true_score, x))(x_batch)

"""Tests of the hypothesis that two samples come from one distribution; their p-values hold at every sample size.

Both compare what is seen with what other labellings of the same pooled points would have shown, so the points of
each sample must be independent: thin a chain first.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int, Key

from .pairwise import gaussian_kernel
from .points import check_two_of_each, squared_distances


class TestResult(NamedTuple):
    """What was seen, and how surprising it is when the two distributions are equal."""

    __test__ = False

    statistic: Float[Array, ""]
    p_value: Float[Array, ""]
    """P(p_value <= a) <= a for every a, if the distributions are equal."""


def mmd_test(
    key: Key[Array, ""],
    x: Float[Array, "N D"],
    y: Float[Array, "M D"],
    *,
    bandwidth: float | Float[Array, ""],
    num_permutations: int = 999,
) -> TestResult:
    """p = (1 + #{b : MMD^2_b >= MMD^2}) / (1 + B), MMD^2_b after the b-th of B shuffles of the pooled sample.

    The statistic is `mmd`. The test has exact size: the observed order is as likely as any of the B others, and is
    counted among them. So p is at least 1 / (1 + B), and B = 1 / a - 1 shuffles are the least for a level a. The
    bandwidth may be computed from the pooled sample, as `median_distance` is, but not from how it is divided.
    Memory: (N + M)^2, the kernel matrix, computed once; time: B (N + M)^2. `key` is consumed. Source: Gretton et al.
    (2012), section 5; Phipson and Smyth (2010) for the 1 +.

    Args:
        bandwidth: b > 0 of the kernel exp(-|x - y|^2 / (2 b^2)), in the units of x.
        num_permutations: B, at least 1.
    """
    check_two_of_each(x, y)
    if num_permutations < 1:
        raise ValueError(f"num_permutations must be at least 1, got {num_permutations}")
    n, m = x.shape[0], y.shape[0]
    pooled = jnp.concatenate([x, y])
    kernel = gaussian_kernel(bandwidth)
    gram = jax.lax.map(lambda row: kernel(row, pooled), pooled)
    # A constant off the diagonal cancels in MMD^2. Without it the sums are small, and keep their digits in float32.
    constant = (jnp.sum(gram) - (n + m)) / float((n + m) * (n + m - 1))
    gram = jnp.where(np.eye(n + m, dtype=bool), 0.0, gram - constant)
    row_sums = jnp.sum(gram, axis=1)

    def squared_mmd(in_x: Float[Array, " L"]) -> Float[Array, ""]:
        # From one product with the matrix: what is not within x is between, and the rest is within y.
        within_x = jnp.vdot(in_x, jnp.matmul(gram, in_x, precision="highest"), precision="highest")
        between = jnp.vdot(in_x, row_sums, precision="highest") - within_x
        within_y = jnp.sum(row_sums) - 2 * between - within_x
        return within_x / float(n * (n - 1)) + within_y / float(m * (m - 1)) - 2 * between / float(n * m)

    labels = jnp.asarray(np.arange(n + m) < n, x.dtype)
    observed = squared_mmd(labels)
    shuffled = jax.lax.map(
        lambda key: squared_mmd(jax.random.permutation(key, labels)),
        jax.random.split(key, num_permutations),
        batch_size=64,
    )
    # A shuffle that only exchanges equal points is a tie, whatever the order of its sums, which are of order 1.
    tie = 16 * jnp.finfo(x.dtype).eps
    reached = jnp.sum(shuffled >= observed - tie, dtype=x.dtype)
    return TestResult(observed, (1 + reached) / (1 + num_permutations))


def classifier_two_sample_test(
    key: Key[Array, ""], x: Float[Array, "N D"], y: Float[Array, "M D"], *, k: int | None = None
) -> TestResult:
    """(P(says x | from x) + P(says y | from y)) / 2 on one half of the points, for a classifier taught on the other.

    The statistic is the accuracy, balanced if N and M differ: 1/2 for equal distributions, 1 for separate ones, with
    a meaning of its own, unlike a distance. The classifier is k nearest neighbours: it says x where the neighbours
    are a larger share of the taught x than of the taught y. Given how often it says x, the number of times it is
    right to is hypergeometric if labels do not matter, so the p-value is that of Fisher's exact test; the binomial
    of the source is its approximation for labels that are drawn one by one. Halves are drawn at random, `key` is
    consumed. Memory: linear in N + M; time: (N + M)^2 / 4. Source: Lopez-Paz and Oquab (2017), section 3.

    Args:
        k: neighbours, from 1 to the number of points taught, floor(N/2) + floor(M/2). None is the root of that
            number, as in the source, made odd against ties.
    """
    check_two_of_each(x, y)
    key_x, key_y = jax.random.split(key)
    x, y = jax.random.permutation(key_x, x), jax.random.permutation(key_y, y)
    taught_x, taught_y = x.shape[0] // 2, y.shape[0] // 2
    test_x, test_y = x.shape[0] - taught_x, y.shape[0] - taught_y
    k = math.isqrt(taught_x + taught_y) | 1 if k is None else k
    if not 1 <= k <= taught_x + taught_y:
        raise ValueError(f"k must be at least 1 and at most the {taught_x + taught_y} points taught, got {k}")
    taught = jnp.concatenate([x[:taught_x], y[:taught_y]])

    def says_x(row: Float[Array, " D"]) -> Array:
        nearest = jax.lax.top_k(-squared_distances(row, taught), k)[1]
        from_x = jnp.sum(nearest < taught_x)
        return from_x * taught_y > (k - from_x) * taught_x

    right = jnp.sum(jax.lax.map(says_x, x[taught_x:]))
    wrong = jnp.sum(jax.lax.map(says_x, y[taught_y:]))
    accuracy = 0.5 + 0.5 * (right.astype(x.dtype) / test_x - wrong.astype(x.dtype) / test_y)
    return TestResult(accuracy, _hypergeometric_tail(right, right + wrong, test_x, test_y, x.dtype))


def _hypergeometric_tail(seen: Int[Array, ""], drawn: Int[Array, ""], good: int, bad: int, dtype) -> Float[Array, ""]:
    """P(H >= seen), H the number of good ones among `drawn` from good + bad."""
    log_good, log_bad = (jnp.asarray(_log_binomials(num), dtype) for num in (good, bad))
    h = jnp.arange(good + 1)
    rest = drawn - h
    possible = (rest >= 0) & (rest <= bad)
    log_p = jnp.where(possible, log_good + log_bad[jnp.clip(rest, 0, bad)], -jnp.inf)
    return jnp.exp(jax.nn.logsumexp(jnp.where(h >= seen, log_p, -jnp.inf)) - jax.nn.logsumexp(log_p))


def _log_binomials(num: int) -> Float[np.ndarray, " num_plus_1"]:
    # In 64 bits on the host, and less their largest: the terms that matter are small then, and float32 loses
    # little: 0.2% of a p-value at 1e5 points.
    j = np.arange(num + 1)
    log_c = scipy.special.gammaln(num + 1) - scipy.special.gammaln(j + 1) - scipy.special.gammaln(num - j + 1)
    return log_c - log_c.max()

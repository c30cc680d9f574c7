"""The largest total reward of a model in which every policy ends, or is worth -inf where it does not.

    v_*(s) = max_π E_π[Σ_t R_{t+1} | s],        v_* = T v_*,    T v(s) = max_a [r(s, a) + Σ_s' p(s'|s, a) v(s')]

Policies are evaluated by sparse elimination, `(I - P_π) v_π = r_π`, and improved, on the host and in double precision.
What is claimed of the answer rests on none of that, but on two inequalities, each checked by one backup:

    l <= T_π l for a policy π that ends      =>  l <= v_π <= v_*
    u >= T u                                 =>  u >= v_π for every π that ends, so that u >= v_*

The first: `l <= T_π^k l`, which tends to v_π. The second likewise, `u >= T^k u >= T_π^k u`. A policy π ends wherever it
starts if there is a w >= 0 with `w - P_π w > 0`. And where `u > T u` strictly, a policy that does not end has, in its
recurrent classes, a gain below 0, so that its total is -inf: it needs no assumption that it is worth nothing.

Where do l and u come from? They are what v_* would be if every backup were a little worse, or better, than it is:

    l = v - w,  w = v_π - l the solution of  w = (v - T_π v) + 2 e + P_π w
    u = v + w,                               w = max_a [(q_a - v) + 2 e_a + P_a w]

with e a bound on the rounding of a backup. So the gap is what rounding adds up to on the way to the end, and no more.

Rounding. A row of n stored numbers, each of them maybe a sum of n others, divided by the sum of all, and the nearest
float of what it stands for, is backed up with an error of at most `γ_{3n+12} (Σ p |v| + |r|)`, in any order;
γ_k = k u / (1 - k u). The bounds hold
for the numbers stored, and for every model whose numbers are these when rounded to double precision.
Source: Higham (2002), section 3.1; Bertsekas and Tsitsiklis (1991); Howard (1960).
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int

from dp.collapse import Quotient

# The slack of l and u, in units of the rounding of a backup: what the solution of linear systems adds must fit in.
SLACKS = (2.0, 16.0, 256.0)

# Sweeps of value iteration that choose the policy to start from, where any will do.
SWEEPS = 50

# Larger chains are first tried by a Krylov method: elimination would fill the memory where everything leads everywhere.
# It converges soon in such chains, and gives way for good where it does not.
SMALL, KRYLOV_STEPS = 2000, 100


class Enclosure(NamedTuple):
    """`lower <= v_* <= upper`, [n]. policy: [n], rows of the quotient, whose value is above lower too.

    iterations: how many policies were evaluated.
    """

    lower: Float[np.ndarray, " n"]
    v: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    policy: Int[np.ndarray, " n"]
    iterations: int


class Chain(NamedTuple):
    """The chain of a policy that ends, and the factors of `I - P_π`; None where a Krylov method does without."""

    P: "scipy.sparse.csr_array"
    factors: "scipy.sparse.linalg.SuperLU | None"


def maximise(quotient: Quotient, policy: Int[np.ndarray, " n"], max_iters: int) -> Enclosure:
    """Improve a policy (rows of the quotient, one for each block) that ends, and enclose the best value.

    Infinite where nothing could be verified.
    """
    n = len(quotient.choices) - 1
    if n == 0:
        return Enclosure(np.zeros(0), np.zeros(0), np.zeros(0), policy, 0)
    chain = _chain(quotient.P[policy], iterative=n > SMALL)
    nothing = np.full(n, np.inf)
    if chain is None:
        return Enclosure(-nothing, np.zeros(n), nothing, policy, 1)
    v, policy, chain, iterations = _improve(quotient, quotient.r, policy, chain, max_iters)
    q = quotient.P @ v + quotient.r
    e = _error(quotient, v)
    return Enclosure(
        lower=_lower(quotient, v, q, e, policy, chain),
        v=np.where(np.isfinite(v), v, 0.0),
        upper=_upper(quotient, v, q, e, policy, chain, max_iters),
        policy=policy,
        iterations=iterations,
    )


def swept(quotient: Quotient) -> Int[np.ndarray, " n"]:
    """Return the rows that are best after some sweeps of value iteration from 0."""
    n = len(quotient.choices) - 1
    if n == 0:
        return np.zeros(0, np.int64)
    owner, q = quotient.owner, quotient.r
    for _ in range(SWEEPS):
        q = quotient.r + quotient.P @ np.maximum.reduceat(q, quotient.choices[:-1])
    return _first_best(q, quotient.choices, owner)


def _improve(
    quotient: Quotient,
    r: Float[np.ndarray, " rows"],
    policy: Int[np.ndarray, " n"],
    chain: Chain,
    max_iters: int,
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"], Chain, int]:
    """Policy iteration for the rewards r: the last values, their policy, its chain, and how many policies there were.

    A choice must be better by more than rounding to replace another: ties cannot go round in circles. A policy that
    does not end is not taken.
    """
    owner = quotient.owner
    k = 1
    while True:
        v = _solve(chain, r[policy])
        q = quotient.P @ v + r
        best = _first_best(q, quotient.choices, owner)
        better = q[best] - q[policy] > 2 * _error(quotient, v, r)[best] + np.abs(q[policy] - v)
        if k >= max_iters or not better.any():
            return v, policy, chain, k
        new = np.where(better, best, policy)
        changed = _chain(quotient.P[new], iterative=chain.factors is None)
        if changed is None:
            return v, policy, chain, k
        policy, chain, k = new, changed, k + 1


def _lower(quotient, v, q, e, policy, chain) -> Float[np.ndarray, " n"]:
    """Return a verified l <= v_π, or -inf."""
    P, r = chain.P, quotient.r[policy]
    for slack in SLACKS:
        w = _solve(chain, np.abs(v - q[policy]) + slack * e[policy])
        lower = v - w
        if np.isfinite(lower).all() and (lower <= P @ lower + r - _row_error(P, r, lower, quotient.terms)).all():
            return lower
    return np.full(len(v), -np.inf)


def _upper(quotient, v, q, e, policy, chain, max_iters) -> Float[np.ndarray, " n"]:
    """Return a verified u >= v_*, or inf."""
    owner = quotient.owner
    for slack in SLACKS:
        w, policy, chain, _ = _improve(quotient, (q - v[owner]) + slack * e, policy, chain, max_iters)
        upper = v + w
        if np.isfinite(upper).all():
            backup = quotient.P @ upper + quotient.r
            if (upper[owner] >= backup + _error(quotient, upper)).all():
                return upper
    return np.full(len(v), np.inf)


def _chain(P: "scipy.sparse.csr_array", *, iterative: bool) -> Chain | None:
    """Return the chain of a policy; None unless a w >= 0 with `w - P_π w > 0` proves that it ends."""
    n = P.indptr.size - 1
    chain = Chain(P, None)
    w = _krylov(P, np.ones(n)) if iterative else None
    if w is None:
        try:
            chain = Chain(P, _factors(P))
        except (RuntimeError, MemoryError):  # singular, or factors that fill the memory
            return None
        w = _solve(chain, np.ones(n))
    if not (np.isfinite(w).all() and (w >= 0).all()):
        return None
    rounding = _row_error(P, np.zeros(n), w, int(np.diff(P.indptr).max(initial=0)))
    return chain if (w - P @ w > rounding).all() else None


def _factors(P: "scipy.sparse.csr_array") -> "scipy.sparse.linalg.SuperLU":
    """Eliminate `I - P_π`, an M-matrix: it needs no pivots, so that its order can keep the factors sparse."""
    matrix = (scipy.sparse.eye_array(P.indptr.size - 1, format="csr") - P).tocsc()
    return scipy.sparse.linalg.splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def _solve(chain: Chain, r: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """`(I - P_π)^{-1} r`, refined."""
    if chain.factors is None:
        v = _krylov(chain.P, r)
        if v is not None:
            return v
    try:
        factors = _factors(chain.P) if chain.factors is None else chain.factors
    except (RuntimeError, MemoryError):  # where the Krylov method gives way, too
        return np.full_like(r, np.nan)
    v = factors.solve(r)
    return v + factors.solve(r + chain.P @ v - v)


def _krylov(P: "scipy.sparse.csr_array", r: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """`(I - P_π)^{-1} r` by BiCGStab, refined; None where it does not converge soon."""
    n = len(r)
    matrix = scipy.sparse.eye_array(n, format="csr") - P
    v, left = np.zeros(n), r
    for _ in range(2):
        scale = np.abs(left).max()
        if scale == 0:
            break
        d, failed = scipy.sparse.linalg.bicgstab(matrix, left / scale, rtol=1e-9, maxiter=KRYLOV_STEPS)
        if failed or not np.isfinite(d).all():
            return None
        v = v + scale * d
        left = r + P @ v - v
    return v


def _error(quotient: Quotient, v, r=None) -> Float[np.ndarray, " rows"]:
    return _row_error(quotient.P, quotient.r if r is None else r, v, quotient.terms)


def _row_error(P: "scipy.sparse.csr_array", r, v, terms: int) -> Float[np.ndarray, " rows"]:
    """Bound the rounding error of `r + P v`, row by row: the e of the head of this file."""
    unit = np.finfo(np.float64).eps / 2
    k = (3 * terms + 12) * unit
    # The last term outweighs numbers too small for a float, and makes every inequality strict.
    return k / (1 - k) * (P @ np.abs(v) + np.abs(r)) + 1e-290


def _first_best(q: Float[np.ndarray, " rows"], choices, owner) -> Int[np.ndarray, " n"]:
    """Return the first of the best rows of every block."""
    best = np.flatnonzero(q == np.maximum.reduceat(q, choices[:-1])[owner])[::-1]
    first = choices[:-1].copy()  # where nothing is best, being NaN
    first[owner[best]] = best
    return first

"""The arrays that pymdptoolbox takes: one matrix of transitions for every action."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP
from dp.sparse import from_choices
from dp.table import tabulate
from dp.transitions import is_dense
from dp.validation import rounding_slack

Matrices = ArrayLike | Sequence[Any]


def from_mdptoolbox(P: Matrices, R: Matrices, gamma: ArrayLike, *, substochastic: bool = False) -> MDP:
    """Make an MDP of what `mdptoolbox.mdp.MDP(P, R, gamma, ...)` takes.

        R(s, a) = Σ_s' P[a][s, s'] R[a][s, s']          where rewards depend on the successor

    P: [A, S, S'], or a list of A arrays or scipy sparse matrices [S, S']. R: an array [S], [S, A] or [A, S, S'], or a
    list of A arrays or sparse matrices [S, S']. Of arrays the MDP is dense. With one sparse matrix it is ragged: its
    action values are [S A], `q.reshape(S, A)` brings them into shape, and policies are the same as of a dense one.
    Raises ValueError for shapes that disagree, and as `make_mdp` does.
    """
    P = list(P if isinstance(P, list | tuple) else np.atleast_1d(np.asarray(P)))
    A = len(P)
    if A == 0:
        raise ValueError("P must hold a matrix for every action, got none")
    S = np.shape(P[0])[0] if np.shape(P[0]) else 0
    for a in range(A):
        if np.shape(P[a]) != (S, S) or S == 0:
            raise ValueError(f"P[{a}] must have shape {[S, S]}, got {list(np.shape(P[a]))}")
    if not any(map(scipy.sparse.issparse, P)):
        dense = np.stack([np.asarray(matrix) for matrix in P], axis=1)
        return make_mdp(dense, _rewards(P, R, S, A), gamma, substochastic=substochastic)
    rows = [scipy.sparse.csr_array(matrix) for matrix in P]
    # One block after the other, then every state's rows together.
    order = np.arange(A * S).reshape(A, S).T.ravel()
    stacked = scipy.sparse.csr_array(scipy.sparse.vstack(rows, format="csr"))[order]
    choices = np.arange(S + 1) * A
    earned = _rewards(rows, R, S, A).ravel()
    return from_choices(
        stacked.data, stacked.indices, stacked.indptr, choices, earned, gamma, substochastic=substochastic
    )


def to_mdptoolbox(mdp: MDP) -> tuple["np.ndarray | list[scipy.sparse.csr_matrix]", np.ndarray]:
    """Return P and R for `mdptoolbox.mdp.MDP(P, R, gamma, ...)`.

    P: [A, S, S'], or where the MDP is not dense a list of A scipy sparse matrices [S, S']. R: [S, A].
    Raises ValueError for what pymdptoolbox cannot say: forbidden actions, states with different numbers of actions, and
    missing mass.
    """
    table = tabulate(mdp)
    S, C = len(table.choices) - 1, len(table.rewards)
    owned = np.diff(table.choices)
    A = int(owned.max())
    if (owned != A).any():
        s = int(np.argmax(owned != A))
        raise ValueError(f"pymdptoolbox has the same actions in all states; state {s} has {owned[s]} of {A}")
    rows = scipy.sparse.csr_array((table.data, table.indices, table.indptr), shape=(C, S))
    total = rows.sum(1)
    if (wrong := np.abs(total - 1) > rounding_slack(table.data.dtype)).any():
        s, a = divmod(int(np.argmax(wrong)), A)
        raise ValueError(f"pymdptoolbox wants rows that sum to 1; P[{s}, {a}] sums to {total[s * A + a]:.10g}")
    R = table.rewards.reshape(S, A)
    if is_dense(mdp.P):
        return np.ascontiguousarray(np.swapaxes(np.asarray(mdp.P), 0, 1)), R
    return [scipy.sparse.csr_matrix(rows[a::A]) for a in range(A)], R


def _rewards(P: Sequence[Any], R: Matrices, S: int, A: int) -> np.ndarray:
    """Return the expected rewards, [S, A]."""
    if not isinstance(R, list | tuple) or all(np.ndim(x) == 0 and not scipy.sparse.issparse(x) for x in R):
        R = np.asarray(R)
        if R.shape == (S,) and R.dtype != object:
            return np.repeat(R[:, None], A, axis=1)
        if R.shape == (S, A):
            return R
    if np.ndim(R) == 0 or len(R) != A or any(np.shape(r) != (S, S) for r in R):
        found = f"a list of {len(R)}" if isinstance(R, list | tuple) else list(R.shape)
        raise ValueError(f"R must be an array {[S]}, {[S, A]} or {[A, S, S]}, or {A} matrices {[S, S]}, got {found}")
    for a, r in enumerate(R):
        if not np.isfinite(r.data if scipy.sparse.issparse(r) else np.asarray(r)).all():
            raise ValueError(f"R[{a}] has a number that is not finite")
    return np.stack([_expected(P[a], R[a]) for a in range(A)], axis=1)


def _expected(P: Any, r: Any) -> np.ndarray:
    """`Σ_s' P[s, s'] r[s, s']`."""
    if scipy.sparse.issparse(P) or scipy.sparse.issparse(r):
        return np.asarray(scipy.sparse.csr_array(P).multiply(r).sum(axis=1))
    return np.sum(np.asarray(P) * np.asarray(r), axis=1)

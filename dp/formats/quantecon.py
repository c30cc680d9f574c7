"""The arrays that quantecon's `DiscreteDP` takes: products of states and actions, or pairs of them."""

from typing import Any

import numpy as np
import scipy
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP
from dp.sparse import from_choices
from dp.table import tabulate
from dp.transitions import is_dense


def from_quantecon(
    R: ArrayLike,
    Q: Any,
    beta: ArrayLike,
    s_indices: ArrayLike | None = None,
    a_indices: ArrayLike | None = None,
    *,
    substochastic: bool = False,
) -> MDP:
    """Make an MDP of the arguments of `quantecon.markov.DiscreteDP(R, Q, beta, s_indices, a_indices)`.

    Product form: R [S, A], with -inf where an action is not allowed; Q [S, A, S']. The MDP is dense.
    Pairs: R [L], Q [L, S'] an array or a scipy sparse matrix, and the state and action of each pair, in any order. The
    MDP is ragged; a policy counts the actions of a state from 0 in the order of `a_indices`, which `tabulate` and
    quantecon number the same only where a state has all of them. Pairs with R = -inf are left out.

    Raises ValueError as `make_mdp` and `from_choices` do; for pairs that come twice; for a state that has none.
    """
    R = np.asarray(R)
    if s_indices is None or a_indices is None:
        if s_indices is not None or a_indices is not None:
            raise ValueError("s_indices and a_indices belong together: give both, or for the product form none")
        if R.ndim != 2:
            raise ValueError(f"without s_indices and a_indices R must have shape [S, A], got {list(R.shape)}")
        allowed = ~np.isneginf(R)
        return make_mdp(np.asarray(Q), np.where(allowed, R, 0), beta, mask=allowed, substochastic=substochastic)

    s, a = _integers(s_indices, "s_indices"), _integers(a_indices, "a_indices")
    L, S = np.shape(Q) if np.ndim(Q) == 2 else (0, 0)
    if not R.shape == s.shape == a.shape == (L,) or S == 0:
        shapes = [list(np.shape(x)) for x in (R, Q, s, a)]
        raise ValueError(f"R, Q, s_indices and a_indices must have shapes [L], [L, S], [L], [L], got {shapes}")
    rows: scipy.sparse.csr_array = scipy.sparse.csr_array(Q)
    if (wrong := (s < 0) | (s >= S) | (a < 0)).any():
        n = int(np.argmax(wrong))
        raise ValueError(f"pair {n} is state {s[n]}, action {a[n]}: Q has {S} states, and actions count from 0")
    order = np.lexsort((a, s))
    if (twice := (np.diff(s[order]) == 0) & (np.diff(a[order]) == 0)).any():
        n = order[np.argmax(twice)]
        raise ValueError(f"state {s[n]}, action {a[n]} comes twice in s_indices and a_indices")
    order = order[~np.isneginf(R[order])]
    owned = np.bincount(s[order], minlength=S)
    if (owned == 0).any():
        raise ValueError(f"state {int(np.argmin(owned))} has no action in s_indices")
    rows = rows[order]
    choices = np.append(0, np.cumsum(owned))
    return from_choices(rows.data, rows.indices, rows.indptr, choices, R[order], beta, substochastic=substochastic)


def to_quantecon(mdp: MDP) -> tuple:
    """Return the arguments for `quantecon.markov.DiscreteDP(*to_quantecon(mdp))`, as NumPy arrays.

    Of a dense MDP (R [S, A], Q [S, A, S'], beta), with R = -inf for forbidden actions; of any other (R [L],
    Q [L, S'] in scipy's CSR, beta, s_indices [L], a_indices [L]). quantecon wants rows that sum to one, and does not
    check: missing mass is passed on as it is.
    """
    beta = float(mdp.gamma)
    if is_dense(mdp.P):
        R = np.asarray(mdp.R)
        allowed = np.ones(R.shape, bool) if mdp.mask is None else np.asarray(mdp.mask)
        return np.where(allowed, R, -np.inf), np.asarray(mdp.P), beta
    table = tabulate(mdp)
    S, C = len(table.choices) - 1, len(table.rewards)
    Q = scipy.sparse.csr_array((table.data, table.indices, table.indptr), shape=(C, S))
    return table.rewards, Q, beta, table.owner, table.actions


def _integers(x: ArrayLike, name: str) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 1 or x.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers of shape [L], got {x.dtype} with {list(x.shape)}")
    return x.astype(np.int64)

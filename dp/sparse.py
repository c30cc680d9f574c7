"""Sparse models, checked at the door: lists of successors, and ragged rows for ragged states."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from dp import memory
from dp.choices import make_choices
from dp.mdp import MDP
from dp.successors import Successors, make_ragged
from dp.validation import (
    array,
    cast,
    check_actions,
    check_finite,
    check_gamma,
    check_indices,
    check_masses,
    check_probabilities,
    floats,
    host,
    rounding_slack,
)


def from_successors(
    state: ArrayLike,
    prob: ArrayLike,
    R: ArrayLike,
    gamma: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    substochastic: bool = False,
) -> MDP:
    """Check the numbers of an MDP with K successors for every state and action, and put it together.

    state: [S, A, K] integers; prob: [S, A, K], `p(s' | s, a)` of each; a successor of probability 0 stands for nothing,
        one that comes twice has the sum. R: rewards [S, A] or [S]. gamma, mask, terminal, substochastic: as in
        `make_mdp`. Memory: 12 bytes for a successor in float64, 8 in float32.
    Raises ValueError as `make_mdp` does, and for a successor that is no state, naming it; MemoryError likewise.
    """
    prob, R = host(prob, "prob"), host(R, "R")
    slack = rounding_slack(prob.dtype)
    prob, R = floats(prob, R)
    if prob.ndim != 3 or not prob.size:
        raise ValueError(f"prob must have shape [S, A, K], none of them 0, got {list(prob.shape)}")
    S, A, _ = prob.shape
    if np.shape(state) != prob.shape:
        raise ValueError(f"state must have the shape of prob, {list(prob.shape)}, got {list(np.shape(state))}")
    if R.shape not in ((S, A), (S,)):
        raise ValueError(f"R must have shape {[S, A]} or {[S]} to fit prob, got {list(R.shape)}")
    gamma = check_gamma(gamma)
    memory.require(memory.successors(prob.size, prob.itemsize), f"prob of shape {list(prob.shape)}", memory.SPREAD)
    allowed, ended = check_actions(mask, terminal, (S, A))
    read = allowed & ~ended[:, None]
    if not read.all():
        prob = np.where(read[:, :, None], prob, 0)
        state = np.where(read[:, :, None], array(state, "state"), 0)
    check_probabilities(prob, "prob")
    state = check_indices(state, "state", S, hint="; where there is none, any state with probability 0").astype(
        np.int32, copy=False
    )
    R = np.where(read, R if R.ndim == 2 else R[:, None], 0)
    check_finite(R, "R")
    hint = "terminal= and substochastic= allow missing mass"
    check_masses(prob.sum(-1), slack, read=read, thin=substochastic, hint=hint)
    prob = _merged(state, prob)
    dtype = jax.dtypes.canonicalize_dtype(prob.dtype)
    return MDP(
        P=Successors(jnp.asarray(_slots_first(state)), jnp.asarray(_slots_first(prob), dtype)),
        R=jnp.asarray(cast(R, dtype)),
        gamma=jnp.asarray(gamma, dtype),
        mask=None if allowed.all() else jnp.asarray(allowed),
    )


def from_choices(
    data: ArrayLike,
    indices: ArrayLike,
    indptr: ArrayLike,
    choices: ArrayLike,
    rewards: ArrayLike,
    gamma: ArrayLike = 1.0,
    *,
    substochastic: bool = False,
) -> MDP:
    """Check and put together an MDP whose states have different numbers of actions, with rows of different length.

    One sparse row for every choice, those of state 0 first, in compressed rows as scipy has them. A scipy matrix M of
    S A rows, row s A + a for action a of state s, is `M.data, M.indices, M.indptr, A * np.arange(S + 1)`.

    data, indices: [N], probabilities and successors. indptr: [C + 1]; choice c owns `indptr[c]` to `indptr[c + 1] - 1`.
    choices: [S + 1]; state s owns the choices `choices[s]` to `choices[s + 1] - 1`. rewards: [C], expected.
    gamma: discount rate in [0, 1]. substochastic: accept rows that sum to less than one.
    A row without entries ends the episode. A state without choices is terminal: it gets one that ends the episode and
    earns nothing. A successor that comes twice in a row has the sum.

    Of the MDP made, R and action values are [C], and a policy says which of its own choices a state takes, from 0 on.
    Memory: at most 18 bytes for an entry and 32 for a choice in float64, however long the longest row is.
    Raises ValueError naming the place and the number, as `make_mdp` does, and MemoryError.
    """
    data, rewards = host(data, "data"), host(rewards, "rewards")
    slack = rounding_slack(data.dtype)
    data, rewards = floats(data, rewards)
    start = _pointers(choices, "choices", None)
    S, C = len(start) - 1, int(start[-1])
    indptr = _pointers(indptr, "indptr", C)
    N = int(indptr[-1])
    for name, x, shape in (("data", data, (N,)), ("indices", np.asarray(indices), (N,)), ("rewards", rewards, (C,))):
        if x.shape != shape:
            raise ValueError(f"{name} must have shape {list(shape)} to fit the pointers, got {list(x.shape)}")
    gamma = check_gamma(gamma)
    memory.require(memory.choices(N, C, data.itemsize), f"a model of {N:,} entries", memory.SPREAD)
    check_probabilities(data, "data")
    check_finite(rewards, "rewards")
    indices = check_indices(indices, "indices", S) if N else np.zeros(0, np.int32)

    counts = np.diff(indptr)
    row = np.repeat(np.arange(C), counts)
    total = np.bincount(row, weights=data, minlength=C).astype(float)
    owner = np.repeat(np.arange(S), np.diff(start))

    def place(at: list[int]) -> str:
        return f"row {at[0]}, choice {at[0] - start[owner[at[0]]]} of state {owner[at[0]]},"

    hint = "substochastic= allows missing mass"
    check_masses(total, slack, read=counts > 0, thin=substochastic, hint=hint, name=place)
    order = np.lexsort((indices, row))
    row, indices, data = row[order], indices[order], data[order]
    first = np.append(True, (row[1:] != row[:-1]) | (indices[1:] != indices[:-1]))[:N]
    if not first.all():
        row, indices, data = row[first], indices[first], np.add.reduceat(data, np.flatnonzero(first))
    real = data != 0
    row, indices, data = row[real], indices[real], data[real]

    # A terminal state has no choice: it gets one. Everything after it moves.
    bare = np.diff(start) == 0
    moved = np.cumsum(bare) - bare
    row = row + moved[owner[row]] if bare.any() else row
    earned = np.insert(rewards, start[:-1][bare], 0)
    start = start + np.append(0, np.cumsum(bare))
    dtype = jax.dtypes.canonicalize_dtype(data.dtype)
    return MDP(
        P=make_ragged(row, indices, data.astype(dtype, copy=False), int(start[-1])),
        R=jnp.asarray(cast(earned, dtype)),
        gamma=jnp.asarray(gamma, dtype),
        choices=make_choices(start),
    )


def _pointers(x: ArrayLike, name: str, length: int | None) -> np.ndarray:
    x = array(x, name)
    if x.ndim != 1 or x.dtype.kind not in "iu" or len(x) != (max(len(x), 2) if length is None else length + 1):
        size = "[S + 1]" if length is None else f"[{length + 1}]"
        raise ValueError(f"{name} must be integers of shape {size}, got {x.dtype} with {list(x.shape)}")
    x = x.astype(np.int64)
    if x[0] != 0 or (np.diff(x) < 0).any():
        at = int(np.argmax(np.diff(x) < 0)) + 1 if x[0] == 0 else 0
        raise ValueError(f"{name} must begin with 0 and never fall, but {name}[{at}] = {x[at]}")
    return x


def _merged(state: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Give the first of equal successors the probability of all, and the others none."""
    ordered = np.sort(np.where(prob > 0, state, -1 - np.arange(state.shape[-1])), axis=-1)
    double = (ordered[..., 1:] == ordered[..., :-1]).any(-1)
    if not double.any():
        return prob
    same = (state[double][:, :, None] == state[double][:, None, :]) & (prob[double] > 0)[:, None, :]
    first = same.argmax(-1) == np.arange(state.shape[-1])
    prob = prob.copy()
    prob[double] = np.where(first, np.where(same, prob[double][:, None, :], 0).sum(-1), 0)
    return prob


def _slots_first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 0))

"""From one form of an MDP to another. Probabilities, rewards and the order of actions stay what they are."""

import numpy as np

from dp import memory
from dp.dense import make_mdp
from dp.mdp import MDP
from dp.sparse import from_choices, from_successors
from dp.table import Table, merged, tabulate


def as_dense(mdp: MDP) -> MDP:
    """Return the model with P an array [S, A, S']: for small ones, it takes 8 S² A bytes in float64.

    Where states have different numbers of actions, A is the largest of them, and a mask forbids the others.
    """
    table, S, A, mask, gamma = _laid_out(mdp)
    numbers, item = S * A * S, table.data.itemsize
    memory.require(memory.dense(numbers, item) + item * numbers, f"P of shape {[S, A, S]}", "the model is sparse")
    P = np.zeros((S, A, S), table.data.dtype)
    P.reshape(S * A, S)[np.flatnonzero(mask)[table.row], table.indices] = table.data
    return make_mdp(P, _rewards(table, mask), gamma, mask=mask, substochastic=True)


def as_successors(mdp: MDP) -> MDP:
    """Return the model with lists of K successors for every state and action, K that of the row which has most.

    Where states have different numbers of actions, A is the largest of them, and a mask forbids the others.
    """
    table, S, A, mask, gamma = _laid_out(mdp)
    row, counts = table.row, np.diff(table.indptr)
    K = max(1, counts.max(initial=0))
    slots, item = S * A * int(K), table.data.itemsize
    needed = memory.successors(slots, item) + 2 * (4 + item) * slots
    memory.require(needed, f"a list of {K} successors for each of {S * A} rows", "dp.as_choices does not fill up rows")
    slot = np.arange(len(row)) - table.indptr[row]
    state, prob = np.zeros((mask.sum(), K), np.int32), np.zeros((mask.sum(), K), table.data.dtype)
    state[row, slot], prob[row, slot] = table.indices, table.data
    states, probs = np.zeros((S, A, K), np.int32), np.zeros((S, A, K), table.data.dtype)
    states[mask], probs[mask] = state, prob
    return from_successors(states, probs, _rewards(table, mask), gamma, mask=mask, substochastic=True)


def as_choices(mdp: MDP) -> MDP:
    """Return the model with one row for every choice that is allowed, as long as it has successors: see `from_choices`.

    A policy of it numbers the choices of each state without those that were forbidden.
    """
    table = merged(tabulate(mdp))
    return from_choices(*table[:5], np.asarray(mdp.gamma), substochastic=True)


def _laid_out(mdp: MDP) -> tuple[Table, int, int, np.ndarray, np.ndarray]:
    """Return the table, S, A, and which of the S A places are taken."""
    table = merged(tabulate(mdp))
    S = mdp.size
    A = mdp.R.shape[1] if mdp.choices is None else int(np.diff(table.choices).max())
    mask = np.zeros((S, A), bool)
    mask[table.owner, table.actions] = True
    return table, S, A, mask, np.asarray(mdp.gamma)


def _rewards(table: Table, mask: np.ndarray) -> np.ndarray:
    R = np.zeros(mask.shape, table.rewards.dtype)
    R[mask] = table.rewards
    return R

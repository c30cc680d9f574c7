"""An MDP on the host: NumPy arrays, one sparse row for every choice. Graph work and file formats start from it."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dp.mdp import MDP, require_mdp
from dp.transitions import Ragged, is_dense


class Table(NamedTuple):
    """The choices of an MDP, state by state, in compressed sparse rows.

    data, indices: [N], probabilities and successors; row c owns `indptr[c]` to `indptr[c + 1] - 1`, sorted. Only of a
        matrix-free model may a successor come twice in a row: see `merged`.
    choices: [S + 1]; state s owns the rows `choices[s]` to `choices[s + 1] - 1`. rewards: [C], expected.
    actions: [C], the number that each choice has as an action in the MDP.
    """

    data: Float[np.ndarray, " N"]
    indices: Int[np.ndarray, " N"]
    indptr: Int[np.ndarray, " C1"]
    choices: Int[np.ndarray, " S1"]
    rewards: Float[np.ndarray, " C"]
    actions: Int[np.ndarray, " C"]

    @property
    def row(self) -> Int[np.ndarray, " N"]:
        """The choice that each entry belongs to."""
        return np.repeat(np.arange(len(self.rewards)), np.diff(self.indptr))

    @property
    def owner(self) -> Int[np.ndarray, " C"]:
        """The state that each choice belongs to."""
        return np.repeat(np.arange(len(self.choices) - 1), np.diff(self.choices))

    @property
    def mass(self) -> Float[np.ndarray, " C"]:
        """`Σ_s' p(s'|s, a)` of each choice, in double precision."""
        # Of nothing at all, bincount returns integers.
        return np.bincount(self.row, self.data, minlength=len(self.rewards)).astype(np.float64)


def tabulate(mdp: MDP) -> Table:
    """Return the table of any MDP whose numbers are concrete. Forbidden actions are left out, as are zeros."""
    require_mdp(mdp)
    R = np.asarray(mdp.R)
    row, indices, data = entries(mdp)
    if not is_dense(mdp.P):
        order = np.lexsort((indices, row))
        row, indices, data = row[order], indices[order], data[order]
    if mdp.choices is not None:
        owner, first = np.asarray(mdp.choices.owner), np.asarray(mdp.choices.first)
        start, actions = np.append(first, len(R)), np.arange(len(R)) - first[owner]
    else:
        S, A = R.shape
        allowed = np.ones((S, A), bool) if mdp.mask is None else np.asarray(mdp.mask)
        known = allowed.ravel()
        number = np.cumsum(known) - 1
        kept = known[row]
        row, indices, data = number[row[kept]], indices[kept], data[kept]
        actions, R = np.nonzero(allowed)[1], R[allowed]
        start = np.append(0, np.cumsum(allowed.sum(1)))
    indptr = np.append(0, np.cumsum(np.bincount(row, minlength=len(R))))
    return Table(data, indices, indptr, start, R, actions)


def merged(table: Table) -> Table:
    """Add up the probabilities of successors that come twice in a row: one rounding each, of what P says."""
    row = table.row
    new = np.append(True, (row[1:] != row[:-1]) | (table.indices[1:] != table.indices[:-1]))[: len(row)]
    if new.all():
        return table
    data = np.add.reduceat(table.data.astype(float), np.flatnonzero(new)).astype(table.data.dtype)
    indptr = np.append(0, np.cumsum(np.bincount(row[new], minlength=len(table.rewards))))
    return table._replace(data=data, indices=table.indices[new], indptr=indptr)


def entries(mdp: MDP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, successor and probability of all entries that are not 0, in any order; P as it is stored."""
    P = mdp.P
    if is_dense(P):
        flat = np.asarray(P).reshape(-1, P.shape[-1])
        row, indices = np.nonzero(flat)
        return row, indices, flat[row, indices]
    if isinstance(P, Ragged):
        place = np.argsort(np.asarray(P.place))  # the row in each place
        starts = np.cumsum([0] + [group.state.shape[1] for group in P.groups])
        groups = [(group, place[a:b]) for group, a, b in zip(P.groups, starts, starts[1:], strict=False)]
    else:
        groups = [(P.tabulated(), None)]
    found = [_listed(group, rows) for group, rows in groups]
    row, indices, data = (np.concatenate(x) for x in zip(*found, strict=True))
    return row, indices, data


def _listed(group, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    state, prob = (np.asarray(x).reshape(len(x), math.prod(x.shape[1:])) for x in (group.state, group.prob))
    _, row = kept = np.nonzero(prob)
    return row if rows is None else rows[row], state[kept].astype(np.int64), prob[kept]

"""The quotient of a model: components in which one can move about for nothing become one state.

Within an end component all of whose rewards are 0 a policy comes from any state to any other, with probability one and
at no cost. So all its states have the same value, and the component is as good as one state that owns every choice
leading out of it. Collapsed, it no longer hides the solution: `v(s) = v(s)`, which any number solves, is gone.
Where staying for ever is worth something, the new state can also stop.
Source: Ciesinski, Baier, Größer and Klein (2008); Haddad and Monmege (2014).
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from dp.attractors import Arena, possible
from dp.table import Table


class Quotient(NamedTuple):
    """A model of n blocks of states; what happens outside of them is in the rewards.

    P: [rows, n]. r: [rows]. choices: [n + 1], block b owns the rows `choices[b]` to `choices[b + 1] - 1`, at least one.
    row: [rows], the choice of the table that each is, -1 where it stops. block: [S + 1], -1 for states left out.
    terms: how many numbers each entry and reward may be a sum of.
    """

    P: "scipy.sparse.csr_array"
    r: Float[np.ndarray, " rows"]
    choices: Int[np.ndarray, " n1"]
    row: Int[np.ndarray, " rows"]
    block: Int[np.ndarray, " S1"]
    terms: int

    @property
    def owner(self) -> Int[np.ndarray, " rows"]:
        """The block that each row belongs to."""
        return np.repeat(np.arange(len(self.choices) - 1), np.diff(self.choices))


def collapse(
    table: Table,
    rewards: Float[np.ndarray, " C"],
    inside: Bool[np.ndarray, " S1"],
    rows: Bool[np.ndarray, " C"],
    component: Int[np.ndarray, " S1"],
    *,
    worth: Float[np.ndarray, " S1"] | None = None,
    stops: bool = False,
) -> Quotient:
    """Build the quotient of the states `inside` and of their choices `rows`.

    component: number of the component that each state is in, -1 for none; choices that stay in one must not be in rows.
    worth: of the states outside, what reaching them is worth; None for nothing.
    stops: a component may also stop, for 0.
    """
    S = len(table.choices) - 1
    # States of one component share a name, all others have their own.
    name = np.where(component >= 0, S + 1 + component, np.arange(S + 1))
    names, block = np.unique(name[inside], return_inverse=True)
    blocks = np.full(S + 1, -1)
    blocks[inside] = block
    n = len(names)

    row = np.flatnonzero(rows)
    owner = blocks[table.owner[row]]
    if stops:
        stop = np.flatnonzero(names > S)
        row, owner = np.append(row, np.full(len(stop), -1)), np.append(owner, stop)
    order = np.argsort(owner, kind="stable")
    row, owner = row[order], owner[order]

    shape = (len(table.rewards), S)
    P = scipy.sparse.csr_array((table.data.astype(np.float64), table.indices, table.indptr), shape=shape)
    r = rewards if worth is None else rewards + P @ worth[:S]
    states = np.flatnonzero(inside[:S])
    joined = scipy.sparse.csr_array((np.ones(len(states)), (states, blocks[states])), shape=(S, n))
    # A row of zeros, at the end, is that of stopping: -1 finds it.
    P = scipy.sparse.csr_array((P @ joined)[row])
    if stops:
        P = scipy.sparse.csr_array(P.multiply((row >= 0)[:, None]))
        P.eliminate_zeros()
    return Quotient(
        P=P,
        r=np.where(row >= 0, r[row], 0.0),
        choices=np.append(0, np.cumsum(np.bincount(owner, minlength=n))),
        row=row,
        block=blocks,
        terms=int(np.diff(table.indptr).max(initial=0)),
    )


def proper(graph: Arena, quotient: Quotient) -> Int[np.ndarray, " n"]:
    """Return a policy of the quotient that leads out of it, with probability one if none of its rows can be trapped.

    Each block takes the row that may lead one step closer to the outside, by the graph alone.
    """
    n, count = len(quotient.choices) - 1, len(quotient.row)
    number = np.full(len(graph.owner), -1)
    number[quotient.row[quotient.row >= 0]] = np.flatnonzero(quotient.row >= 0)
    row = number[graph.row]
    kept = row >= 0
    stop = np.flatnonzero(quotient.row < 0)
    block = quotient.block[graph.successor[kept]]
    inner = Arena(
        owner=quotient.owner,
        row=np.append(row[kept], stop),
        successor=np.append(np.where(block < 0, n, block), np.full(len(stop), n)),
        end=n,
    )
    _, how = possible(inner, np.arange(n + 1) == n, np.ones(count, bool))
    return how[:n]


def unfold(
    arena: Arena,
    quotient: Quotient,
    policy: Int[np.ndarray, " n"],
    staying: Bool[np.ndarray, " C"],
) -> Int[np.ndarray, " S1"]:
    """Return the choice of every state that makes the policy of the quotient: within a component, towards its exit.

    policy: the row of the quotient that each block takes. staying: the choices that stay in a component.
    -1 for states left out.
    """
    choice = quotient.row[policy]
    taken = np.full(arena.end + 1, -1)
    leaving = choice[choice >= 0]
    taken[arena.owner[leaving]] = leaving
    exits = taken >= 0
    _, how = possible(arena, exits, staying)
    # Where the block stops, any choice that stays will do.
    stay = np.full(arena.end + 1, -1)
    chosen = np.flatnonzero(staying)
    stay[arena.owner[chosen]] = chosen
    taken = np.where(exits, taken, np.where(how >= 0, how, stay))
    return np.where(quotient.block >= 0, taken, -1)

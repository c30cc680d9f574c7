"""PRISM's explicit files: MDPs and discrete-time Markov chains.

    .tra    3 4 6                   states, choices and transitions of an MDP; states and transitions of a chain
            0 0 1 0.5 go            state, choice (not of a chain), successor, probability, perhaps a name; any order
    .lab    0="init" 1="deadlock"   the labels
            2: 1                    a state and the numbers of its labels
    .sta    (x,y)                   the variables
            0:(0,1)                 a state and its name
    .srew   3 1                     states, and how many lines follow
            0 1.5                   a state and its reward
    .trew   3 4 2                   as in .tra, with how many lines follow
            0 0 1 1.5               a transition and its reward

Before its counts a file may have comments, lines that begin with #; `# Reward structure "time"` names rewards.

Source: the PRISM manual, appendix "Explicit model files" (Kwiatkowska, Norman and Parker 2011, "PRISM 4.0").
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
from jaxtyping import DTypeLike

from dp.formats.explicit import Rows, build, checked
from dp.formats.model import Model, telling
from dp.formats.prism_text import Listing, read_labels, read_listing, read_states
from dp.formats.text import Source, fail

# Which number of the first line bounds each column of integers, by how many numbers it has.
TRANSITIONS: Mapping[int, tuple[int, ...]] = {3: (0, 1, 0), 2: (0, 0)}
STATES: Mapping[int, tuple[int, ...]] = {2: (0,)}


class Transitions(NamedTuple):
    """The transitions of a file, sorted. row: [N], the choice of each. names: [C]."""

    rows: Rows
    row: np.ndarray
    names: list[str]


def read_prism(
    tra: Source,
    *,
    lab: Source | None = None,
    sta: Source | None = None,
    srew: Source | Sequence[Source] = (),
    trew: Source | Sequence[Source] = (),
    rewards: str | None = None,
    gamma: float = 1.0,
    dtype: DTypeLike | None = None,
) -> Model:
    """Read a model from the explicit files of PRISM, version 4: transitions, labels, names of states, rewards.

        R(s, a) = r(s) + Σ_s' p(s' | s, a) r(s, a, s')

    srew, trew: one file or several. Rewards of the same name add up; without a name they are called "".
    rewards, gamma, dtype, the form of the model, and errors: as in `read_drn`. Whole lines that are missing at the end
    of .lab show nowhere, as that file counts nothing.
    """
    found = _transitions(tra)
    rows, S = found.rows, len(found.rows.choices)
    held = checked(tra, rows, dtype=dtype, substochastic=False)
    total: dict[str, np.ndarray] = {}
    seen: set[tuple[str, str]] = set()
    for kind, paths in (("state", _several(srew)), ("transition", _several(trew))):
        for path in paths:
            listing = read_listing(path, STATES if kind == "state" else TRANSITIONS, words=False)
            r = _state_rewards(path, listing, rows) if kind == "state" else _expected(path, listing, found)
            name = listing.name or ""
            if (kind, name) in seen:
                fail(path, 1, f"there are {kind} rewards called {name!r} already")
            seen.add((kind, name))
            # Where there is one kind only: adding 0 would change -0.
            with np.errstate(over="ignore"):  # what overflows is refused with the other numbers
                total[name] = total[name] + r if name in total else r
    choices = np.append(rows.choices, len(rows.indptr))
    return build(
        tra,
        held,
        total,
        {} if lab is None else read_labels(lab, S),
        states=None if sta is None else read_states(sta, S),
        actions=telling(found.names, choices),
        chosen=rewards,
        gamma=gamma,
    )


def _several(paths: Source | Sequence[Source]) -> Sequence[Source]:
    return [paths] if isinstance(paths, str | PathLike) else paths


def _transitions(path: Source) -> Transitions:
    listing = read_listing(path, TRANSITIONS, words=True)
    header, lines, p = listing.header, listing.lines, listing.values
    if (p < 0).any():
        n = int(np.argmax(p < 0))
        fail(path, int(lines[n]), f"{p[n]} is a negative probability")
    s, t = listing.columns[0], listing.columns[-1]
    a = listing.columns[1] if len(header) == 3 else np.zeros(len(s), np.int64)
    order = np.lexsort((t, a, s))
    s, a, t, p, lines = s[order], a[order], t[order], p[order], lines[order]
    first = np.append(True, (np.diff(s) != 0) | (np.diff(a) != 0))[: len(s)]
    row, indptr = np.cumsum(first) - 1, np.flatnonzero(first)

    owner, number = s[indptr], a[indptr]
    start = np.flatnonzero(np.append(True, np.diff(owner) != 0)[: len(owner)])
    missing = owner[start] != np.arange(len(start))
    if missing.any() or len(start) != header[0]:
        state = int(np.argmax(missing)) if missing.any() else len(start)
        fail(path, listing.first, f"state {state} of {header[0]} has no transitions: PRISM's option -fixdl adds loops")
    within = np.arange(len(owner)) - np.repeat(start, np.diff(np.append(start, len(owner))))
    if (wrong := number != within).any():
        c = int(np.argmax(wrong))
        fail(path, int(lines[indptr[c]]), f"state {owner[c]} has a choice {number[c]} but no choice {within[c]}")
    if len(header) == 3 and len(indptr) != header[1]:
        fail(path, listing.first, f"the file has {len(indptr)} choices, but its first line says {header[1]}")

    names = [listing.words[n] for n in order[indptr]]
    for n, c in zip(order, row, strict=True):
        if listing.words[n] != names[c]:
            fail(path, int(listing.lines[n]), f"state {owner[c]}, choice {number[c]} has two names")
    return Transitions(Rows(p, t, lines, indptr, start, lines[indptr]), row, names)


def _state_rewards(path: Source, listing: Listing, rows: Rows) -> np.ndarray:
    S, (s,) = len(rows.choices), listing.columns
    _require_states(path, listing, S)
    order = np.argsort(s, kind="stable")
    if (twice := np.diff(s[order]) == 0).any():
        n = int(order[int(np.argmax(twice)) + 1])
        fail(path, int(listing.lines[n]), f"state {s[n]} comes twice")
    r = np.zeros(S)
    r[s] = listing.values
    return np.repeat(r, np.diff(np.append(rows.choices, len(rows.indptr))))


def _expected(path: Source, listing: Listing, found: Transitions) -> np.ndarray:
    """`Σ_s' p(s' | s, a) r(s, a, s')`, and exactly r where it is the same for all successors."""
    rows, row, N = found.rows, found.row, len(found.row)
    S, C = len(rows.choices), len(rows.indptr)
    _require_states(path, listing, S)
    s, t = listing.columns[0], listing.columns[-1]
    c = listing.columns[1] if len(listing.columns) == 3 else np.zeros(len(s), np.int64)
    start = np.append(rows.choices, C)
    key = (start[s] + c) * S + t
    known = row * S + rows.indices
    entry = np.minimum(np.searchsorted(known, key), N - 1)
    if (wrong := (known[entry] != key) | (c >= start[s + 1] - start[s])).any():
        n = int(np.argmax(wrong))
        fail(path, int(listing.lines[n]), f"state {s[n]}, choice {c[n]} has no transition to state {t[n]}")
    order = np.argsort(entry, kind="stable")
    if (twice := np.diff(entry[order]) == 0).any():
        n = int(order[int(np.argmax(twice)) + 1])
        fail(path, int(listing.lines[n]), f"state {s[n]}, choice {c[n]} has the successor {t[n]} twice")
    r = np.zeros(N)
    r[entry] = listing.values
    at = rows.indptr
    least, most = np.minimum.reduceat(r, at), np.maximum.reduceat(r, at)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.bincount(row, weights=rows.data * r, minlength=C)
    return np.where(least == most, r[at], mean)


def _require_states(path: Source, listing: Listing, S: int) -> None:
    if listing.header[0] != S:
        fail(path, listing.first, f"{listing.header[0]} states, but the model has {S}")

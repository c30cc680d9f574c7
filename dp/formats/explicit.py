"""From the lines of an explicit file to a checked model: what Storm's and PRISM's formats have in common."""

from array import array
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import DTypeLike, Float, Int

from dp.formats.model import Model
from dp.formats.text import Source, as_numpy, fail, size
from dp.sparse import from_choices
from dp.validation import rounding_slack

# Bytes of labels and rewards in memory for every byte of the file: both are tables, the file need not be.
SPREAD = 64


class Rows(NamedTuple):
    """What a file says, entry by entry.

    data, indices, lines: [N], probability, successor and line of every entry. indptr: [C], where the entries of each
    choice begin. choices: [S], where the choices of each state begin. places: [C], the line of each choice.
    """

    data: Float[np.ndarray, " N"]
    indices: Int[np.ndarray, " N"]
    lines: Int[np.ndarray, " N"]
    indptr: Int[np.ndarray, " C"]
    choices: Int[np.ndarray, " S"]
    places: Int[np.ndarray, " C"]


def checked(path: Source, rows: Rows, *, dtype: DTypeLike | None, substochastic: bool) -> Rows:
    """Return the rows with their probabilities in this dtype (None: JAX's default float), if they are a model's.

    ValueError, with the line, where probabilities do not sum to one, or a successor comes twice.
    """
    S, C, N = len(rows.choices), len(rows.indptr), len(rows.data)
    kind = np.dtype(jax.dtypes.canonicalize_dtype(float if dtype is None else dtype))
    row = np.repeat(np.arange(C), np.diff(np.append(rows.indptr, N)))
    owner = np.repeat(np.arange(S), np.diff(np.append(rows.choices, C)))

    def choice(c: int) -> str:
        return f"state {owner[c]}, choice {c - rows.choices[owner[c]]}"

    with np.errstate(over="ignore", under="ignore"):
        held = rows.data.astype(kind)
    if (lost := (held == 0) & (rows.data != 0)).any():
        n = int(np.argmax(lost))
        fail(path, int(rows.lines[n]), f"the probability {rows.data[n]} is 0 in {kind}: turn on jax_enable_x64")
    total = np.bincount(row, weights=held, minlength=C)
    slack = rounding_slack(kind)
    wrong = (total > 1 + slack) if substochastic else (np.abs(total - 1) > slack)
    if wrong.any():
        c = int(np.argmax(wrong))
        hint = "" if total[c] > 1 or substochastic else "; substochastic= lets missing mass end the episode"
        fail(path, int(rows.places[c]), f"the probabilities of {choice(c)} sum to {total[c]:.10g}, not to 1{hint}")
    order = np.lexsort((rows.indices, row))
    if (twice := (np.diff(row[order]) == 0) & (np.diff(rows.indices[order]) == 0)).any():
        n = int(order[int(np.argmax(twice)) + 1])
        fail(path, int(rows.lines[n]), f"{choice(int(row[n]))} has the successor {rows.indices[n]} twice")
    return rows._replace(data=held)


def build(
    path: Source,
    rows: Rows,
    rewards: Mapping[str, Float[np.ndarray, " C"]],
    labels: Mapping[str, array],
    *,
    states: tuple[str, ...] | None,
    actions: tuple[str, ...] | None,
    chosen: str | None,
    gamma: float,
) -> Model:
    """Put the model together of checked rows. The label "init" becomes `Model.initial`."""
    S, C, kind = len(rows.choices), len(rows.indptr), rows.data.dtype
    bound(path, int(rows.places[-1]), len(labels) * S + len(rewards) * C * kind.itemsize, "labels and rewards")
    found = {name: np.zeros(S, bool) for name in labels}
    for name, members in labels.items():
        found[name][as_numpy(members)] = True
    kept = {name: _held(path, rows, name, r, kind) for name, r in rewards.items()}
    R = np.zeros(C, kind)
    if chosen is not None:
        if chosen not in kept:
            names = ", ".join(map(repr, kept)) or "none"
            raise ValueError(f"{path}: no rewards are called {chosen!r}; there are {names}")
        R = kept[chosen]
    elif len(kept) == 1:
        (R,) = kept.values()
    indptr, choices = np.append(rows.indptr, len(rows.data)), np.append(rows.choices, C)
    mdp = from_choices(rows.data, rows.indices, indptr, choices, R, gamma, substochastic=True)
    return Model(mdp, found.pop("init", np.zeros(S, bool)), found, kept, states, actions)


def bound(path: Source, line: int, needed: int, what: str) -> None:
    """Raise ValueError where a table would be out of all proportion to the file that asks for it."""
    allowed = SPREAD * size(path) + 2**16
    if needed > allowed:
        reason = f"the {what} would take {needed:,} bytes, and a file of {size(path):,} bytes may take {allowed:,}"
        fail(path, line, reason)


def _held(path: Source, rows: Rows, name: str, r: np.ndarray, kind: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        held = r.astype(kind)
    lost = ~np.isfinite(held) | ((held == 0) & (r != 0))
    if lost.any():
        c = int(np.argmax(lost))
        reason = f"the reward {r[c]} ({name!r}) of this choice has no place in {kind}"
        fail(path, int(rows.places[c]), reason if kind == np.float64 else f"{reason}: turn on jax_enable_x64")
    return held

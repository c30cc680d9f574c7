"""A second reading of DRN and PRISM files, in exact arithmetic: slow, simple, and written apart from `dp.formats`.

It says what a file means, or None where it means nothing. What `dp.formats` accepts must mean the same here.
"""

import io
import re
import zipfile
from fractions import Fraction
from typing import NamedTuple

import numpy as np

import dp
from dp.formats import Model
from dp.table import tabulate

NUMBER = r"[+-]?(?:\d+/\d+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)"


class Meaning(NamedTuple):
    """What a file says: `rows[s]` are the choices of a state, each with its successors and its rewards by name."""

    rows: list[list[tuple[dict[int, Fraction], dict[str, Fraction]]]]
    labels: dict[str, set[int]]


def drn(text: str) -> Meaning | None:
    """Return what a DRN file says."""
    head, _, body = text.partition("@model\n")
    names = re.search(r"@reward_models[ \t]*\n(.*)\n", head)
    names = [] if names is None or not names[1] else names[1].removesuffix(" ").split(" ")
    states, choices = (re.search(rf"@{key}[ \t]*\n\s*(\d+)\s*\n", head) for key in ("nr_states", "nr_choices"))
    rows, labels, more = [], {}, []
    for line in body.split("\n"):
        line = line.strip()
        if match := re.fullmatch(r'state (\d+)((?:\s*\[[^\]]*\])?)((?:\s+(?:"[^"]*"|[^\s"]+))*)', line):
            if int(match[1]) != len(rows):
                return None
            more = _numbers(match[2]) or [Fraction(0)] * len(names)
            for label in re.findall(r'"([^"]*)"|([^\s"]+)', match[3]):
                labels.setdefault(label[0] or label[1], set()).add(len(rows))
            rows.append([])
        elif match := re.fullmatch(r"action\s+\S+((?:\s+\[[^\]]*\])?)", line):
            r = _numbers(match[1])
            if not rows or len(r) != len(names) or len(more) != len(names):
                return None
            rows[-1].append(({}, {name: a + b for name, a, b in zip(names, r, more, strict=True)}))
        elif match := re.fullmatch(rf"(\d+)\s*:\s*({NUMBER})", line):
            if not rows or not rows[-1] or int(match[1]) in rows[-1][-1][0]:
                return None
            rows[-1][-1][0][int(match[1])] = Fraction(match[2])
        elif line and not line.startswith("//"):
            return None
    counted = [(states, len(rows)), (choices, sum(map(len, rows)))]
    if states is None or any(said is not None and int(said[1]) != number for said, number in counted):
        return None
    return _whole(Meaning(rows, labels))


def prism(tra: str, lab: str, srew: str, trew: str) -> Meaning | None:
    """Return what the four files of a PRISM model say; rewards are called ""."""
    (S, C, N), *transitions = _lines(tra)
    if len(transitions) != int(N):
        return None
    found: dict[tuple[int, int], dict[int, Fraction]] = {}
    for s, a, t, p, *_ in transitions:
        row = found.setdefault((int(s), int(a)), {})
        if int(t) in row:
            return None
        row[int(t)] = Fraction(p)
    owned = [sum(key[0] == s for key in found) for s in range(int(S))]
    if len(found) != int(C) or set(found) != {(s, a) for s, n in enumerate(owned) for a in range(n)}:
        return None
    (states, lines), *rewards = _lines(srew)
    of_state = {int(s): Fraction(r) for s, r in rewards}
    (_, _, more), *rewards = _lines(trew)
    of_transition = {(int(s), int(a), int(t)): Fraction(r) for s, a, t, r in rewards}
    if (int(lines), int(more), int(states)) != (len(of_state), len(of_transition), int(S)):
        return None

    def choice(s: int, a: int) -> tuple[dict[int, Fraction], dict[str, Fraction]]:
        row = found[s, a]
        r = [of_transition.get((s, a, t), Fraction(0)) for t in row]
        mean = r[0] if len(set(r)) == 1 else sum((p * x for p, x in zip(row.values(), r, strict=True)), Fraction(0))
        return row, {"": mean + of_state.get(s, 0)}

    head, *members = lab.rstrip("\n").split("\n")
    names = re.findall(r'"([^"]*)"', head)
    labels: dict[str, set[int]] = {name: set() for name in names}
    for line in filter(str.strip, members):
        s, which = line.split(":")
        for n in which.split():
            labels[names[int(n)]].add(int(s))
    return _whole(Meaning([[choice(s, a) for a in range(n)] for s, n in enumerate(owned)], labels))


def agrees(meaning: Meaning | None, model: Model) -> bool:
    """Return whether a model is what the file says, to the rounding of one float."""
    if meaning is None:
        return False
    table = tabulate(model.mdp)
    choices = [choice for row in meaning.rows for choice in row]
    if np.append(0, np.cumsum([len(row) for row in meaning.rows])).tolist() != table.choices.tolist():
        return False
    for c, (row, rewards) in enumerate(choices):
        own = slice(table.indptr[c], table.indptr[c + 1])
        if dict(zip(table.indices[own].tolist(), table.data[own].tolist(), strict=True)) != {
            t: float(p) for t, p in row.items() if p
        }:
            return False
        # Two roundings of numbers, two of sums: in r(s) + Σ p r.
        if any(
            abs(float(model.rewards[name][c]) - float(r)) > 1e-12 * (1 + abs(float(r))) for name, r in rewards.items()
        ):
            return False
    labels = {name: set(np.flatnonzero(x).tolist()) for name, x in {"init": model.initial, **model.labels}.items()}
    said = {name: states for name, states in meaning.labels.items() if states}
    return said == {name: states for name, states in labels.items() if states}


def arrays_agree(data: bytes, mdp: dp.MDP) -> bool:
    """Return whether a bare MDP holds what NumPy's own reader, and its, finds in the npz file."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        found = dict(archive)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.testzip() is not None:
            return False
    table, C = tabulate(mdp), np.asarray(mdp.R).size
    P = np.zeros((C, mdp.size))
    np.add.at(P, (np.repeat(np.arange(C), np.diff(table.indptr)), table.indices), table.data)
    if "P" in found:
        said = found["P"].reshape(C, -1)
    else:
        said = np.zeros_like(P)
        rows = np.repeat(np.arange(C), np.diff(found["indptr"]))
        np.add.at(said, (rows, found["indices"]), found["data"])
    return bool(np.array_equal(P, said) and np.array_equal(mdp.R, found["R"]) and float(mdp.gamma) == found["gamma"])


def _numbers(text: str) -> list[Fraction]:
    return [Fraction(x.strip()) for x in text.strip(" []").split(",")] if text.strip() else []


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.split("\n") if line.strip() and not line.startswith("#")]


def _whole(meaning: Meaning) -> Meaning | None:
    """Return the meaning if it is one: every row a distribution over the states."""
    for row in meaning.rows:
        for successors, _ in row:
            if abs(sum(successors.values()) - 1) > Fraction(2, 10**8) or any(p < 0 for p in successors.values()):
                return None
            if any(t >= len(meaning.rows) for t in successors):
                return None
    return meaning if all(meaning.rows) else None

"""The lines of PRISM's explicit files: see `dp.formats.prism`."""

import re
from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from dp.formats.text import Source, as_numpy, count, fail, index, lines, numbers, shown

NAME = re.compile(r'# Reward structure "(.*)"')
LABEL = re.compile(r'([0-9]{1,9})="([^"]*)"(\s+|$)')


class Listing(NamedTuple):
    """A file of lines that hold integers and a number.

    header: the integers of its first line, which is line `first`. name: of the rewards, where a comment says it.
    columns: the integers, [N] each. values, lines: [N]. words: what else stands in a line, [N], "" where nothing does.
    """

    header: tuple[int, ...]
    first: int
    name: str | None
    columns: tuple[np.ndarray, ...]
    values: np.ndarray
    lines: np.ndarray
    words: list[str]


def read_listing(path: Source, bounds: Mapping[int, tuple[int, ...]], *, words: bool) -> Listing:
    """Read a file whose first line says, last, how many follow.

    bounds: for every number of integers that the first line may have, which of them bounds each column of integers.
    """
    name, header, first, n = None, (), 0, 1
    kept: dict[str, str] = {}
    values, places, found, convert = array("d"), array("q"), [], numbers(path)
    columns: tuple[array, ...] = ()
    ends: tuple[int, ...] = ()
    for n, line in lines(path):
        fields = line.split()
        if not fields:
            continue
        if line.startswith("#") and not header:
            if (match := NAME.fullmatch(line.strip())) is not None:
                if name is not None:
                    fail(path, n, "a second name of rewards: one kind of rewards belongs into a file")
                name = match[1]
            continue
        if not header:
            header, first = tuple(count(path, x, n, "a count of the first line") for x in fields), n
            if len(header) not in bounds or not header[0]:
                forms = " or ".join(map(str, bounds))
                fail(path, n, f"the first line must be {forms} integers, the first not 0, got {shown(line)}")
            ends = tuple(header[k] for k in bounds[len(header)])
            columns = tuple(array("q") for _ in ends)
            continue
        if len(fields) - len(columns) not in ((1, 2) if words else (1,)):
            fail(path, n, f"expected {len(columns)} integers and a number, got {shown(line)}")
        for field, column, end in zip(fields, columns, ends, strict=False):
            column.append(index(path, field, n, end, "the index"))
        values.append(convert(fields[len(columns)], n))
        places.append(n)
        word = fields[-1] if len(fields) - len(columns) == 2 else ""
        found.append(kept.setdefault(word, word))
    if not header:
        fail(path, n, "the file ends before its counts: it is empty or truncated")
    if header[-1] != len(values):
        fail(path, n, f"the file ends after {len(values)} lines, but line {first} says {header[-1]}")
    return Listing(header, first, name, tuple(map(as_numpy, columns)), as_numpy(values), as_numpy(places), found)


def read_labels(path: Source, states: int) -> dict[str, array]:
    """Read which states have which labels."""
    content = _content(path)
    n, line = next(content)
    names: list[str] = []
    end = 0
    while end < len(line):
        match = LABEL.match(line, end)
        if match is None or int(match[1]) != len(names) or match[2] in names:
            fail(path, n, f'the first line must be as in \'0="init" 1="deadlock"\', got {shown(line[end:])}')
        names.append(match[2])
        end = match.end()
    labels: dict[str, array] = {name: array("q") for name in names}
    seen: set[int] = set()
    for n, line in content:
        state, colon, numbers_ = line.partition(":")
        s = index(path, state.strip(), n, states, "state")
        if not colon or s in seen:
            fail(
                path,
                n,
                f"state {s} comes twice" if s in seen else f"expected a state and its labels, got {shown(line)}",
            )
        seen.add(s)
        which = [index(path, x, n, len(names), "label") for x in numbers_.split()]
        if len(set(which)) < len(which):
            fail(path, n, f"a label comes twice: {shown(line)}")
        for k in which:
            labels[names[k]].append(s)
    return labels


def read_states(path: Source, states: int) -> tuple[str, ...]:
    """Read the names of the states: what stands in brackets."""
    content = _content(path)
    n, line = next(content)
    if not line.startswith("(") or not line.endswith(")"):
        fail(path, n, f"the first line must name the variables in brackets, got {shown(line)}")
    found: list[str] = []
    for n, line in content:
        state, colon, name = line.partition(":")
        s = index(path, state, n, states, "state")
        if s != len(found) or not (colon and len(name) > 1 and name.startswith("(") and name.endswith(")")):
            fail(path, n, f"expected state {len(found)} and its values in brackets, got {shown(line)}")
        found.append(name[1:-1])
    if len(found) != states:
        fail(path, n, f"the file ends after {len(found)} states, but the model has {states}")
    return tuple(found)


def _content(path: Source) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, at least one."""
    n, empty = 1, True
    for n, line in lines(path):
        if line.strip():
            empty = False
            yield n, line.strip()
    if empty:
        fail(path, n, "the file says nothing: it is empty or truncated")

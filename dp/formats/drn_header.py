"""The head of a DRN file: what kind of model it holds, how many states and choices, and the names of its rewards."""

from collections.abc import Iterator
from typing import NamedTuple

from dp.formats.text import Source, count, fail, shown

TYPES = ("MDP", "DTMC")
VALUES = ("double", "rational")

Lines = Iterator[tuple[int, str]]


class Header(NamedTuple):
    """What the file says before @model, and the line of @model."""

    type: str
    rewards: tuple[str, ...]
    states: int
    choices: int | None
    line: int


def read_header(path: Source, found: Lines) -> Header:
    """Read the lines up to @model; ValueError for a file that is no DRN file, or holds a model of another kind."""
    said: dict[str, tuple[int, str]] = {}
    key, where, n = None, 0, 1
    for n, line in found:
        # The value is on the line of the key, after a colon, or is the next line, which may be empty.
        if line.startswith("@"):
            key, colon, value = line[1:].partition(":")
            key, where = key.rstrip(), n
            if key == "model":
                return _understood(path, said, n)
            if key not in ("type", "value_type", "parameters", "reward_models", "nr_states", "nr_choices"):
                fail(path, n, f"@{key} is not known: this reader takes {' and '.join(TYPES)} models without parameters")
            if key in said:
                fail(path, n, f"@{key} comes twice, first in line {said[key][0]}")
            said[key] = n, value.strip()
            key = None if colon else key
        elif key is not None:
            said[key], key = (where, line), None
        elif line.strip() and not line.startswith("//"):
            fail(path, n, f"expected a line that begins with @, got {shown(line)}")
    fail(path, n, "the file ends before @model: it is not a DRN file, or truncated")


def _understood(path: Source, said: dict[str, tuple[int, str]], line: int) -> Header:
    def value(key: str, default: str | None = None) -> tuple[int, str]:
        if key not in said and default is None:
            fail(path, line, f"@{key} is missing before @model")
        return said.get(key, (line, default or ""))

    n, kind = value("type")
    if kind.upper() not in TYPES:
        fail(path, n, f"models of type {shown(kind)} are not read, only {' and '.join(TYPES)}")
    n, values = value("value_type", "double")
    if values.strip() not in VALUES:
        fail(path, n, f"values of type {shown(values)} are not read, only {' and '.join(VALUES)}")
    n, parameters = value("parameters", "")
    if parameters.strip():
        fail(path, n, f"the model has parameters ({shown(parameters.strip())}): fill in numbers before it is exported")
    n, names = value("reward_models", "")
    # Storm ends every name with a blank, and a name may be empty.
    split = names.split(" ") if names else []
    split = split[:-1] if split and not split[-1] else split
    if len(set(split)) < len(split):
        fail(path, n, f"a name comes twice among the rewards {shown(names)}")
    n, states = value("nr_states")
    number = count(path, states.strip(), n, "@nr_states")
    if number == 0:
        fail(path, n, "a model needs at least one state")
    n, choices = said.get("nr_choices", (line, None))
    choices = None if choices is None else count(path, choices.strip(), n, "@nr_choices")
    return Header(kind.upper(), tuple(split), number, choices, line)

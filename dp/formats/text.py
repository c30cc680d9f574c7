"""Text files of models, line by line: what the explicit formats have in common.

Files come from anywhere. Every number is matched against a grammar before it is converted, is bounded in length, and
is remembered, so that what a file repeats costs little. Nothing is ever allocated because a number asks for it.
"""

import re
from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import NoReturn

import numpy as np

Source = str | PathLike[str]
Number = Callable[[str, int], float]

LONGEST = 2000  # characters in a number: an exact fraction of the smallest float needs 700
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
RATIONAL = re.compile(r"([+-]?[0-9]+)/([0-9]+)")


def fail(path: Source, line: int, reason: str) -> NoReturn:
    """Raise ValueError that names file, line and reason."""
    raise ValueError(f"{path}:{line}: {reason}")


def shown(text: str) -> str:
    """Return the text as an error message quotes it: in quotation marks, and short."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def lines(path: Source) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of every line; ValueError where it is not text, or where the last has no end."""
    number, raw = 0, b"\n"
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                fail(path, number, "this is not text (UTF-8): is it the right file?")
            if not text.replace("\t", " ").isprintable():
                fail(path, number, f"{shown(text)} has characters that are not text: is it the right file?")
            yield number, text
    if not number:
        fail(path, 1, "the file is empty")
    if not raw.endswith(b"\n"):
        fail(path, number, "the last line has no end, so the file may be truncated; if it is whole, add a line break")


def numbers(path: Source) -> Number:
    """Return a function from the text of a number, and its line, to the float next to it.

    The number is a decimal (0.25, 1e-3) or a fraction of integers (1/3). ValueError for anything else, for a float
    that would be infinite, and for one that would be 0 where the number is not: that would be another model.
    """
    known: dict[str, float] = {}

    def convert(text: str, line: int) -> float:
        value = known.get(text)
        if value is None:
            value = known[text] = _convert(path, text, line)
        return value

    return convert


def _convert(path: Source, text: str, line: int) -> float:
    if len(text) > LONGEST:
        fail(path, line, f"a number of {len(text)} characters; {LONGEST} are allowed")
    fraction = RATIONAL.fullmatch(text)
    if fraction is None and DECIMAL.fullmatch(text) is None:
        fail(path, line, f"{shown(text)} is not a number: write a decimal, 0.25 or 1e-3, or a fraction, 1/3")
    try:
        value = float(text) if fraction is None else float(Fraction(*map(int, fraction.groups())))
    except ZeroDivisionError:
        fail(path, line, f"{shown(text)} divides by zero")
    except (OverflowError, ValueError):  # ValueError: where Python was told to convert fewer digits
        value = float("inf")
    if not np.isfinite(value):
        fail(path, line, f"{shown(text)} is too large for a float")
    if value == 0 and re.match(r"[+-]?[0.]*[1-9]", text):
        fail(path, line, f"{shown(text)} is too small for a float, and 0 would be another model")
    return value


def index(path: Source, text: str, line: int, end: int, what: str) -> int:
    """Return the integer that the text says, 0 to end - 1; ValueError for any other text."""
    value = count(path, text, line, what)
    if value >= end:
        fail(path, line, f"{what} {value} is out of range: there are {end}, numbered from 0")
    return value


def count(path: Source, text: str, line: int, what: str) -> int:
    """Return the integer, 0 or more, that the text says; ValueError for any other text."""
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        fail(path, line, f"{what} must be an integer, 0 or more, and not astronomical, got {shown(text)}")
    return int(text)


def as_numpy(x: array) -> np.ndarray:
    """Return an array of Python's as NumPy's float64 or int64, without a copy."""
    return np.asarray(x).view(np.float64 if x.typecode == "d" else np.int64)


def written(value: float) -> str:
    """Return the shortest decimal that is read as the same float."""
    return repr(value)


def require_name(name: str, what: str, *, forbidden: str) -> str:
    """Return the name; ValueError where a file could not hold it so that it comes back the same."""
    bad = sorted({c for c in name if c in forbidden or not c.isprintable()})
    if bad:
        raise ValueError(f"{what} {shown(name)} cannot be written to this format: it has the characters {bad}")
    return name


def size(path: Source) -> int:
    """Return the size of the file in bytes: what is held in memory is bounded by a multiple of it."""
    return Path(path).stat().st_size

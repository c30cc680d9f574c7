"""Tables from files that somebody else wrote: every reason not to trust one is a ValueError that says where."""

import csv
import io
import lzma
import math
import os
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.idx import INFLATION
from experiments.record import require

NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
# The header of an array as NumPy writes it, after its length: dtype, order and shape.
HEADER = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z][0-9]*)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,15}, ?)*[0-9]{0,15})\),? ?\} *\n?"
)
REAL = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8"}


def read_csv(path: Path) -> tuple[tuple[str, ...] | None, Float[np.ndarray, "N D"]]:
    """Read numbers between commas: the names of the columns, or None without a line of names, and the rows.

    A first line in which no cell is a number is one of names. Raises ValueError with line and column of a cell that is
    empty, no decimal number or not finite, of a name that is empty or there twice, and of a row of another length.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: not UTF-8 text") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns, rows, width = None, [], 0
    try:
        for cells in reader:
            line = f"{path}: line {reader.line_num}"
            require(bool(cells), f"{line}: the line is empty")
            cells = [cell.strip() for cell in cells]
            if not width:
                width = len(cells)
                if not any(_is_number(cell) for cell in cells):
                    columns = _names(cells, line)
                    continue
            count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
            require(len(cells) == width, f"{line}: {count}, and {width} in line 1")
            rows.append([_number(cell, line, i, columns) for i, cell in enumerate(cells)])
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}") from None
    require(width > 0, f"{path}: line 1: the file is empty")
    require(len(rows) > 0, f"{path}: line 1: there is no row below the header")
    return columns, np.array(rows)


def _is_number(cell: str) -> bool:
    return (NUMBER.fullmatch(cell) or NOT_FINITE.fullmatch(cell)) is not None


def _number(cell: str, line: str, index: int, columns: tuple[str, ...] | None) -> float:
    if NUMBER.fullmatch(cell) and np.isfinite(value := float(cell)):
        return value
    shown = repr(cell if len(cell) <= 40 else cell[:40] + "...")
    wrong = f"{shown} is not finite" if _is_number(cell) else f"{shown} is no number" if cell else "the cell is empty"
    name = "" if columns is None else f" ({columns[index]!r})"
    raise ValueError(f"{line}, column {index + 1}{name}: {wrong}")


def _names(cells: list[str], line: str) -> tuple[str, ...]:
    for i, name in enumerate(cells):
        require(name != "", f"{line}, column {i + 1}: the name is empty")
        first = cells.index(name)
        require(first == i, f"{line}, column {i + 1}: the name {name!r} is also that of column {first + 1}")
    return tuple(cells)


def read_npz(path: Path) -> tuple[Float[np.ndarray, "N D"], ...]:
    """Read the arrays (x,) or (train, heldout) as float64; others beside them are not looked at.

    Raises ValueError with the name of an array that has no rows and columns of real numbers, or with the index of one
    that is not finite, and for a damaged archive. No more is held in memory than a small multiple of what is in it.
    """
    # zipfile raises all of these for archives that are none.
    damage = zipfile.BadZipFile, EOFError, RuntimeError, OSError, OverflowError, KeyError, zlib.error, lzma.LZMAError
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                members = [member.filename.removesuffix(".npy") for member in archive.infolist()]
                names = [name for name in members if name in ("x", "train", "heldout")]
                if names not in (["x"], ["train", "heldout"], ["heldout", "train"]):
                    found = ", ".join(map(repr, members)) or "no array"
                    raise ValueError(f"holds {found}; a table is 'x', or 'train' and 'heldout'")
                arrays = tuple(_array(archive, name, size) for name in sorted(names, reverse=True))
        except damage as error:
            reason = " ".join(str(error).split()) or "it ends early"
            raise ValueError(f"{path}: not a whole npz file ({reason})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    widths = [part.shape[1] for part in arrays]
    require(widths[0] == widths[-1], f"{path}: train has {widths[0]} columns, heldout has {widths[-1]}")
    return arrays


def _array(archive: zipfile.ZipFile, name: str, held: int) -> np.ndarray:
    member = archive.getinfo(f"{name}.npy")
    for size, most in ((member.compress_size, held), (member.file_size, INFLATION * member.compress_size)):
        require(size <= most, f"{name} says it has {size} bytes, more than the file can hold")
    content = archive.read(member)
    start = 10 if content[6:7] == b"\1" else 12  # the length of the header has two bytes, or four
    body = start + int.from_bytes(content[8:start], "little")
    match = HEADER.fullmatch(content[start:body]) if content[:6] == b"\x93NUMPY" else None
    if match is None:
        raise ValueError(f"{name} has no header as NumPy writes it for an array of numbers")
    kind, order, sizes = (group.decode() for group in match.groups())
    require(kind[1] != "O", f"{name} holds objects, which only pickle could read; numbers are needed")
    require(kind[1:] in REAL, f"{name} holds {kind}; real numbers are needed")
    shape = tuple(int(n) for n in sizes.replace(",", " ").split())
    require(len(shape) == 2 and 0 not in shape, f"{name} has shape {list(shape)}; a table has rows and columns")
    needed = math.prod(shape) * np.dtype(kind).itemsize
    promise = f"{name} says shape {list(shape)} of {kind}, {needed} bytes"
    require(needed == len(content) - body, f"{promise}; it has {len(content) - body}")
    found = np.frombuffer(content, kind, offset=body).reshape(shape, order="F" if order == "True" else "C")
    found = np.ascontiguousarray(found, np.float64)
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        raise ValueError(f"{name}{wrong[0].tolist()} is {found[tuple(wrong[0])]}")
    return found

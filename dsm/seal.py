"""A seal on a folder: sizes and hashes of all its files, written last, so that whatever is missing or altered shows."""

import hashlib
import json
import os
from pathlib import Path

NAME = "seal.json"

# What is wrong where the writer was killed before it came to the seal.
UNSEALED = "it was not finished"


def seal(folder: Path) -> None:
    """Write down what the files of a folder hold now; the seal is there as a whole or not at all."""
    text = json.dumps(_contents(folder), indent=1)
    unfinished = folder / f"{NAME}.part"
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / NAME)


def broken(folder: Path) -> str | None:
    """Say what is wrong with a folder that was sealed; None where nothing is."""
    try:
        sealed = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return UNSEALED
    except ValueError:
        return f"{NAME} is damaged"
    for name, expected in sealed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected[0]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected[0]}"
        if _describe(path) != expected:
            return f"{name} does not hold what was written"
    return None


def _contents(folder: Path) -> dict[str, list]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(NAME))
    return {path.relative_to(folder).as_posix(): _describe(path) for path in files}


def _describe(path: Path) -> list:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "blake2b").hexdigest()]

"""Tables of numbers, split once and standardised by their training rows, for densities of data that are no images.

A column that takes few values, as counts do, has no density: a model of it can be infinite there. Add noise first.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split

from experiments import table_files
from experiments.record import require

TABLES: dict[str, Callable[[], Any]] = {"wine": load_wine, "breast_cancer": load_breast_cancer}


class TableSplit(NamedTuple):
    """Two disjoint parts of a table, in units x = (row - mean) / std, column by column.

    `mean` and `std` are of the training rows alone. A density in one unit gives the density in the other:
    log p(row) = log p(x) + log_jacobian.
    """

    train: Float[np.ndarray, "N D"]
    heldout: Float[np.ndarray, "M D"]
    columns: tuple[str, ...]
    name: str
    mean: Float[np.ndarray, " D"]
    std: Float[np.ndarray, " D"]

    @property
    def log_jacobian(self) -> float:
        """log |dx / drow| = -sum_d log std_d."""
        return -float(np.log(self.std).sum())

    def units(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """From x to rows in the units of the columns."""
        return np.asarray(x) * self.std + self.mean


def load_table(name_or_path: str | Path, *, seed: int = 0, heldout: float = 0.2) -> TableSplit:
    """Return a table by name, or from a file.

    - "wine": 178 wines, 13 measurements; "breast_cancer": 569 tumours, 30. Both from scikit-learn; both parts have the
      same share of every class, up to rounding.
    - a path to a .csv: numbers between commas, below one line of names or not. A first line in which no cell is a
      number is one of names.
    - a path to a .npz: an array x [N, D], or train [N, D] and heldout [M, D], which are not split again. Nothing is
      unpickled.

    ceil(heldout * N) rows, chosen by the seed, are held out.

    Raises FileNotFoundError for a file that is not there, and ValueError, which names the file and the line and column
    or the array and index, for cells that are empty, no numbers or not finite, rows of different length, and columns
    that the training rows cannot standardise or that follow from others.
    """
    require(0 <= seed < 2**32, f"seed must be 0 to {2**32 - 1}, got {seed}")
    require(0 < heldout < 1, f"heldout must be in (0, 1), got {heldout}")
    if isinstance(name_or_path, str) and name_or_path in TABLES:
        table = TABLES[name_or_path]()
        parts = _halves(table.data, heldout, seed, table.target, name_or_path)
        return _standardise(parts, tuple(map(str, table.feature_names)), name_or_path, name_or_path)
    path = Path(name_or_path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; tables by name are {', '.join(TABLES)}")
    ending = path.suffix.lower()
    require(ending in (".csv", ".npz"), f"{path}: the name must end in .csv or .npz")
    if ending == ".csv":
        columns, rows = table_files.read_csv(path)
        parts = _halves(rows, heldout, seed, None, path)
    else:
        arrays = table_files.read_npz(path)
        parts = arrays if len(arrays) == 2 else _halves(arrays[0], heldout, seed, None, path)
        columns = None
    return _standardise(parts, columns or tuple(f"column {i + 1}" for i in range(parts[0].shape[1])), path.stem, path)


def _halves(
    rows: np.ndarray, heldout: float, seed: int, labels: np.ndarray | None, source: str | Path
) -> tuple[np.ndarray, np.ndarray]:
    num = len(rows) - math.ceil(heldout * len(rows))
    require(num >= 2, f"{source}: heldout = {heldout} of {len(rows)} rows leaves {num} to train on; 2 are needed")
    train, rest = train_test_split(np.arange(len(rows)), train_size=num, stratify=labels, random_state=seed)
    return rows[train], rows[rest]


def _standardise(
    parts: tuple[np.ndarray, np.ndarray], columns: tuple[str, ...], name: str, source: str | Path
) -> TableSplit:
    train = parts[0]
    # Of numbers that are all 0.1 the standard deviation may round to something else than 0.
    for column, constant in zip(columns, (train == train[0]).all(axis=0), strict=True):
        require(not constant, f"{source}: column {column!r} is constant in the {len(train)} training rows")
    with np.errstate(all="ignore"):
        mean, std = train.mean(axis=0), train.std(axis=0)
        x_train, x_heldout = ((part - mean) / std for part in parts)
    for column, s, *x in zip(columns, std, x_train.T, x_heldout.T, strict=True):
        fine = 0 < s < math.inf and all(np.isfinite(part).all() for part in x)
        require(fine, f"{source}: column {column!r}: its standard deviation is {s:.3g}; it needs other units")
    # Rows on a plane have no density. Where they are no more than columns they lie on one by their number alone.
    if len(train) > len(columns) > np.linalg.matrix_rank(x_train):
        column = next(name for i, name in enumerate(columns) if np.linalg.matrix_rank(x_train[:, : i + 1]) <= i)
        raise ValueError(f"{source}: column {column!r} is a sum of multiples of those before it: leave it out")
    return TableSplit(x_train, x_heldout, columns, name, mean, std)

"""Means over splits, their errors, and the table of `experiments.tables`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from experiments import record

NETWORK = "score network"


def summary(values: Sequence[np.ndarray], share: float) -> dict[str, Any]:
    """Mean over splits of the mean over rows, and its standard error.

    `standard_error` takes splits for independent, which they are not, as they share rows; `corrected_error` is
    sqrt(1 / splits + share) sd, share that of held-out to training rows. Source: Nadeau and Bengio (2003), "Inference
    for the generalization error". Of one split both are of the mean over its rows.
    """
    means = np.asarray([each.mean() for each in values])
    if len(means) == 1:
        plain = corrected = float(values[0].std(ddof=1) / math.sqrt(len(values[0]))) if len(values[0]) > 1 else None
    else:
        sd = float(means.std(ddof=1))
        plain, corrected = sd / math.sqrt(len(means)), sd * math.sqrt(1 / len(means) + share)
    return {
        "mean": float(means.mean()),
        "standard_error": plain,
        "corrected_error": corrected,
        "each_split": means,
    }


def show(levels: dict[str, dict[str, Any]], ahead: dict[str, dict[str, Any]], title: str) -> None:
    """Print the table."""
    shared = len(levels[NETWORK]["each_split"]) > 1
    caption = (
        "Mean log p of held-out rows, and by how much the network's is larger on the same rows. Standard errors are "
        + ("over splits, and allow for the rows that these share." if shared else "over the rows of one split.")
    )
    table = Table("density", "nats per row", f"{NETWORK}, ahead by", title=title, caption=caption)
    for name, level in levels.items():
        table.add_row(name, _cell(level), _cell(ahead[name]) if name in ahead else "")
    record.console.print(table)


def _cell(number: dict[str, Any]) -> str:
    """Return the mean and its corrected error."""
    error = number["corrected_error"]
    return f"{number['mean']:.2f}" + ("" if error is None else f" ± {error:.2f}")

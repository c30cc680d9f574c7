"""Figure of `experiments.tables`: by how much the network is ahead of each density, and how its steps were chosen."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure


def likelihood(ahead: dict[str, dict[str, Any]], lines: list[list[dict]], name: str) -> Figure:
    """Draw differences with their errors, a dot for each split, beside the validation of each split over its steps."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for i, number in enumerate(ahead.values()):
        left.plot(number["each_split"], np.full(len(number["each_split"]), i), ".", color="grey", alpha=0.7)
        left.errorbar(number["mean"], i, xerr=number["corrected_error"], fmt="o", capsize=4, color="C0")
    left.axvline(0, color="black", lw=0.8)
    left.set_yticks(range(len(ahead)), list(ahead))
    left.set(ylim=(len(ahead) - 0.5, -0.5), xlabel="score network ahead by, nats per held-out row", title=name)
    for i, split in enumerate(lines):
        values = [float(line["evaluation"]["validation"]) for line in split]
        best = int(np.nanargmin(values))
        right.plot([line["step"] for line in split], values, color=f"C{i % 10}", lw=1)
        right.plot(split[best]["step"], values[best], "o", color=f"C{i % 10}")
    right.set(xlabel="steps", ylabel="-log p of rows left out, training rows only", title="each split, and its choice")
    return figure

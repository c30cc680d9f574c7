"""Figures of `experiments.mixing`: where chains end, and the share of them on the heavy mode as they go."""

import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from experiments.mixing_modes import HEAVY


def samples(ends: dict[str, Array], found: dict[str, dict]) -> Figure:
    """Draw the ends of up to 1000 chains of each sampler."""
    figure = Figure(figsize=(2.6 * len(ends), 3.1), layout="constrained")
    for ax, (name, x) in zip(figure.subplots(1, len(ends), sharex=True, sharey=True), ends.items(), strict=True):
        ax.scatter(*np.asarray(x[:1000]).T, s=2, alpha=0.4)
        ax.set(xlim=(-9, 9), ylim=(-9, 9), aspect="equal")
        ax.set_title(f"{name}\n{found[name]['share_on_heavy_mode']:.3f} on the heavy mode", fontsize=9)
    return figure


def shares(shares: dict[str, np.ndarray], evaluations: int, attracted: float) -> Figure:
    """Draw the share of chains on the heavy mode against score evaluations."""
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    ax = figure.subplots()
    styles = ("-", "-", "--", ":", "-", "-.")
    for (name, share), style in zip(shares.items(), styles, strict=True):
        x = np.arange(1, len(share) + 1) * evaluations / len(share)
        ax.plot(x, share, style, label=name, marker="o" if len(share) < 20 else None, ms=4)
    ax.axhline(HEAVY, color="black", lw=0.8, label="weight of the mode")
    ax.axhline(attracted, color="grey", lw=0.8, ls=":", label="share of starts drawn to it")
    ax.set(xlabel="score evaluations", ylabel="share of chains on the heavy mode", ylim=(0.45, 0.85))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure

"""The figure of `experiments.langevin_bias`: errors against the step, with predictions."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter


def draw(steps: tuple[float, ...], found: dict) -> Figure:
    """Draw errors against h, both axes logarithmic, with error bars and ULA's predictions."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, len(found), sharex=True, squeeze=False)
    shifts = (1.0, 0.94, 1.06, 1.12)
    colours = ("tab:blue", "tab:green", "tab:orange", "tab:red")
    for column, (title, rows) in zip(axes.T, found.items(), strict=True):
        for ax, measure, label in zip(
            column, ("second_moment", "total_variation"), ("|error of E[x²]|", "total variation"), strict=True
        ):
            lowest = np.inf
            for (name, row), colour, shift in zip(rows["measured"].items(), colours, shifts, strict=True):
                value = np.abs([r[measure] for r in row])
                error = np.array([r[f"{measure}_se"] for r in row])
                fit = rows["slopes"][measure][name]
                order = "" if fit is None else f", order {fit[0]:.2f} ± {fit[1]:.2f}"
                lowest = min(lowest, error.min())
                # Side by side, or the bars hide each other.
                ax.errorbar(
                    np.array(steps) * shift,
                    value,
                    2 * error,
                    color=colour,
                    marker="o",
                    ms=4,
                    ls="",
                    capsize=2,
                    label=name + order,
                )
            for name, style in (("kernel", "-"), ("first order", "--")):
                values = [row[name][measure] for row in rows["predicted"]]
                ax.plot(steps, np.abs(values), style, color="black", lw=1, label=f"ULA, {name}")
            ax.set(xscale="log", yscale="log", title=title, ylabel=label, ylim=(lowest / 3, 1.0))
            ax.set_xticks(steps, [f"{h:g}" for h in steps])
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.legend(fontsize=7, loc="upper left")
        column[-1].set_xlabel("h (BAOAB: its step is √(2h)); bars: 2 standard errors")
    return figure

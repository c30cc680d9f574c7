"""What `experiments.certificates` found: shares and quantiles, a table and a figure."""

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from experiments import record

QUANTILES = {"median": 0.5, "95%": 0.95, "largest": 1.0}


def summary(measured: np.ndarray) -> dict:
    """Return shares and quantiles of the answers that had a value to enclose."""
    valued = measured[~np.isnan(measured[:, 0])]
    if not len(valued):
        return {"answers": 0, "converged": np.nan, "bounded": np.nan}
    converged, finite, *ratios = valued.T
    found = {"answers": len(valued), "converged": converged.mean(), "bounded": finite.mean()}
    for name, ratio in zip(("error_over_half_gap", "gap_over_largest_distance"), ratios, strict=True):
        known = ratio[~np.isnan(ratio)]
        if len(known):
            found[name] = {label: np.quantile(known, q) for label, q in QUANTILES.items()}
    return found


def show(metrics: dict) -> None:
    """Print what was found, per solver."""
    table = Table("solver", title="Certificates on hostile MDPs")
    for dtype in metrics["mdps"]:
        table.add_column(f"{dtype}\nconverged", justify="right")
        table.add_column("error /\nbound", justify="right")
    found = metrics["solvers"]
    for name in found["float32"]:
        row = []
        for each in (found[dtype][name] for dtype in metrics["mdps"]):
            ratio = each.get("error_over_half_gap")
            row += [f"{each['converged']:.1%}", f"{ratio['median']:.3f}" if ratio else "-"]
        table.add_row(name, *row)
    record.console.print(table)
    record.console.print("actions, pi: evaluation of a deterministic and of a stochastic policy")
    record.console.print("converged: met the default tolerance; the bounds of all others must hold as well")
    record.console.print("error / bound: the median of |v - value| over half the certified gap")
    mdps, false = metrics["mdps"], metrics["number_of_violations"]
    record.console.print(
        f"{mdps['float32']:,} MDPs in float32, {mdps['float64']:,} in float64, {metrics['answers_checked']:,} answers: "
        f"in exact arithmetic {f'{false:,} claims are FALSE' if false else 'no claim is false'}"
    )
    for v in metrics["violations"]:
        example = f"hostile.case({v['first_seeds'][0]}, {v['dtype']!r})"
        record.console.print(f"FALSE  {v['claim']}: {v['number']:,} times by {v['solver']!r}, first for {example}")


def draw(measured: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw, per solver, where the true errors lie inside the certified ones."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (dtype, solvers) in zip(axes, measured.items(), strict=True):
        ratios = {name: m[:, 2][~np.isnan(m[:, 2])] for name, m in solvers.items()}
        ratios = {name: np.maximum(ratio, 1e-4) for name, ratio in ratios.items() if len(ratio)}
        for y, ratio in enumerate(ratios.values()):
            lower, middle, upper, largest = np.quantile(ratio, [0.25, 0.5, 0.75, 1.0])
            ax.plot([lower, upper], [y, y], color="tab:blue", lw=5, solid_capstyle="butt", label="half of the MDPs")
            ax.plot(middle, y, "o", color="white", mec="tab:blue", ms=5, label="median")
            ax.plot([upper, largest], [y, y], "-|", color="tab:blue", lw=1, markevery=[1], ms=9, label="the largest")
        ax.axvline(1, color="tab:red", label="certified")
        ax.set_yticks(range(len(ratios)), list(ratios))
        ax.set(title=dtype, xscale="log", xlabel="true error of v / half the certified gap")
        ax.set_xlim(0.8e-4, max(2.0, 1.5 * max((ratio.max() for ratio in ratios.values()), default=1.0)))
        ax.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    figure.suptitle("How much of the certified error is true, in exact arithmetic (below 1e-4: at the left edge)")
    return figure

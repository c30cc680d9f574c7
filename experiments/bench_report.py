"""What a run of `bench_dp` says: a table, the goals and whether they were met, and two figures."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich import box
from rich.table import Table

from experiments import record

Row = dict[str, Any]

# How many times faster than the fastest peer with a right answer `dp.solve` is to be.
FASTER = {"a": 1.5, "a2": 1.5, "b": 1.5, "c": 1.5, "d": 4.0, "d2": 1.5}
MEMORY_MB = {"c": 1200.0}
JAX_PEERS = ("jaxdp", "mdpax")
COLOURS = {
    "quantecon": "C0",
    "mdpsolver": "C1",
    "Storm": "C2",
    "pymdptoolbox": "C3",
    "jaxdp": "C4",
    "mdpax": "C5",
    "dp": "k",
}


def right(row: Row, tol: float) -> bool:
    """Return whether the values are within tol of the reference, and nobody says that they are not."""
    return "error" in row and row["error"] + row["reference_within"] <= 1.01 * tol and row.get("converged", True)


def library(row: Row) -> str:
    """Return the name without the algorithm."""
    return row["contender"].split()[0]


def ours(row: Row) -> bool:
    """Return whether it is a row of ours."""
    return library(row) == "dp"


def same(row: Row, other: Row) -> bool:
    """Return whether both are of the same instance on as many cores."""
    return all(row[key] == other[key] for key in ("instance", "cores"))


def goals(rows: list[Row], tol: float) -> list[Row]:
    """Return every goal that this run can decide: what was needed, what was found, whether it was met."""
    found = []

    def decide(row: Row, goal: str, needed: float, value: float, at_least: bool = True) -> None:
        met = value >= needed if at_least else value <= needed
        place = {"instance": row["instance"], "cores": row["cores"]}
        found.append(place | {"goal": goal, "needed": needed, "found": value, "met": bool(met)})

    for mine in (row for row in rows if row["contender"] == "dp"):
        beside = [r for r in rows if not ours(r) and same(r, mine)]
        if "failed" in mine:
            decide(mine, f"an answer ({mine['failed']})", 1.0, 0.0)
            continue
        name = mine["instance"]
        decide(mine, "certified to tol", 1.0, float(mine["converged"]))
        if mine["converged"]:
            worst = max(0.0, mine["error"] - mine["reference_within"]) / tol
            decide(mine, "true error of the certified answer / tol", 0.5, worst, at_least=False)
        answers = [r for r in beside if right(r, tol) and "ratio" in r]
        # A fast wrong answer is not a rival.
        best = min(answers, key=lambda r: r["ratio"], default=None)
        if name in FASTER and best is not None:
            decide(mine, f"times faster than the best peer ({best['contender']})", FASTER[name], best["ratio"])
        if name in MEMORY_MB:
            decide(mine, "peak memory, MB", MEMORY_MB[name], mine["peak_MB"], at_least=False)
        for peer in JAX_PEERS:
            theirs = [r["ratio"] for r in answers if library(r) == peer]
            # A call that was cut off took at least so long; its first call may have compiled.
            cut = [r["at_least"] / mine["warm"] for r in beside if library(r) == peer and r.get("at_least")]
            if theirs:
                decide(mine, f"times faster than {peer}", 10.0, min(theirs))
            elif cut:
                decide(mine, f"times faster than {peer}, which was cut off, at least", 10.0, min(cut))
        if name == "e":
            theirs = [r["ratio"] for r in answers if library(r) == "quantecon"]
            if theirs:
                decide(mine, "times faster than quantecon in one call", 1.0, min(theirs))
            batches = [r for r in rows if r["contender"].startswith("dp x") and same(r, mine)]
            best_batch = min((r["warm"] for r in batches if right(r, tol)), default=float("inf"))
            theirs = [r["warm"] for r in answers if library(r) == "mdpsolver"]
            if theirs and batches:
                goal = "times faster than mdpsolver, per MDP of a batch of 10,000"
                decide(mine, goal, 1.0, min(theirs) / best_batch)
    return found


def cells(row: Row, tol: float) -> list[str]:
    """Return the cells of a row of the table."""
    if "failed" in row:
        return ["[dim]-[/dim]" if "not installed" in row["failed"] else f"[dim]{row['failed']}[/dim]"]
    ratio = f"{row['ratio']:.3g}" if "ratio" in row else ""
    count = "" if row["iterations"] is None else str(row["iterations"])
    worth = f"{row['error']:.0e}" + ("" if right(row, tol) else " [red]![/red]")
    return [
        f"{row['cold']:.3g}",
        f"{row['warm']:.3g}",
        ratio,
        count,
        f"{row['peak_MB']:.0f}",
        f"{row['residual']:.0e}",
        worth,
    ]


def show(rows: list[Row], goals: list[Row], tol: float) -> None:
    """Print a line for every row, then the goals."""
    missing = sorted({library(row) for row in rows if "not installed" in str(row.get("failed", ""))})
    if missing:
        record.console.print(f"not installed: {', '.join(missing)}; `make bench` installs them")
    columns = ("cold, s", "warm, s", "ratio", "passes", "MB", "residual", "error")
    for name, model, cores in dict.fromkeys((row["instance"], row["model"], row["cores"]) for row in rows):
        place = f"{name}: {model}; {cores} core" + "s" * (cores > 1)
        table = Table("solver", *columns, title=place, box=box.SIMPLE)
        for row in rows:
            if (row["instance"], row["cores"]) == (name, cores):
                table.add_row(row["contender"], *cells(row, tol))
        record.console.print(table)
    record.console.print(
        "ratio: of a peer's time to that of dp.solve beside it; passes: as each library counts its iterations; "
        "error: the largest, against an independent reference; !: not within tol, or not claimed to be"
    )
    decided = Table("instance", "cores", "goal", "needed", "found", "", title="goals", box=box.SIMPLE)
    for goal in goals:
        verdict = "[green]met[/green]" if goal["met"] else "[red]missed[/red]"
        place = goal["instance"], str(goal["cores"])
        decided.add_row(*place, goal["goal"], f"{goal['needed']:.4g}", f"{goal['found']:.3g}", verdict)
    record.console.print(decided)


def draw(rows: list[Row], tol: float) -> Figure:
    """Draw time against true error, one panel for each instance, on the fewest cores."""
    few = min(row["cores"] for row in rows)
    names = list(dict.fromkeys(row["instance"] for row in rows))
    width = min(4, len(names))
    height = -(-len(names) // width)
    figure = Figure(figsize=(3.6 * width, 3.3 * height + 0.6), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        for row in rows:
            if row["instance"] == name and row["cores"] == few and "error" in row:
                marker, size = ("*", 12) if ours(row) else ("o", 6)
                # The batch, per MDP, is hollow.
                face = "none" if row["contender"].startswith("dp x") else COLOURS[library(row)]
                at = row["warm"], max(row["error"], 1e-14)
                ax.plot(*at, marker, ms=size, color=COLOURS[library(row)], mfc=face)
        ax.axhline(tol, color="0.5", lw=1, ls="--")
        ax.set(xscale="log", yscale="log", xlabel="seconds, warm")
        ax.set_title(f"{name}: {next(row['model'] for row in rows if row['instance'] == name)}", size=8)
        ax.margins(0.15)
        # Two decades at least, so that there are ticks to label.
        low, high = ax.get_xlim()
        widen = max(1.0, (100 * low / high) ** 0.5)
        ax.set_xlim(low / widen, high * widen)
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("true error")
    drawn = {library(row) for row in rows if "error" in row}
    for name in (name for name in COLOURS if name in drawn):
        axes[0].plot([], [], "*" if name == "dp" else "o", color=COLOURS[name], label=name)
    axes[0].plot([], [], color="0.5", lw=1, ls="--", label="tolerance")
    figure.legend(loc="outside lower center", ncols=2 * width, frameon=False, fontsize=8)
    return figure


def draw_ratios(rows: list[Row], tol: float) -> Figure:
    """Draw how many times slower than `dp.solve` the fastest right answer of each library is, and the goals."""
    few = min(row["cores"] for row in rows)
    rows = [row for row in rows if row["cores"] == few]
    names = list(dict.fromkeys(row["instance"] for row in rows))
    shown = {library(row) for row in rows if not ours(row) and "ratio" in row and right(row, tol)}
    libraries = [name for name in COLOURS if name in shown]
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    for i, peer in enumerate(libraries):
        best = [
            min(
                (
                    r["ratio"]
                    for r in rows
                    if r["instance"] == name and library(r) == peer and right(r, tol) and "ratio" in r
                ),
                default=0,
            )
            for name in names
        ]
        x = np.arange(len(names)) + (i - (len(libraries) - 1) / 2) * 0.8 / len(libraries)
        ax.bar(x, best, width=0.75 / len(libraries), label=peer, color=COLOURS[peer])
    for x, name in enumerate(names):
        if name in FASTER:
            ax.hlines(FASTER[name], x - 0.45, x + 0.45, color="k", lw=1.5)
    ax.axhline(1, color="0.6", lw=1)
    ax.set_xticks(range(len(names)), names)
    ax.set(yscale="log", ylabel="time / time of dp.solve")
    cores = "one core" if few == 1 else f"{few} cores"
    ax.set_xlabel(f"{cores}; right answers only; black lines: the goal against the fastest")
    ax.legend(fontsize=8, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure

"""How time and memory of `dp.solve` grow with states, actions, successors, discount, tolerance and devices.

python -m experiments.bench_growth
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from experiments import instances, record
from experiments.bench_worker import Failed, Worker, cores

Row = dict[str, Any]


class Point(NamedTuple):
    """One garnet and how it is solved."""

    states: int
    actions: int = 4
    successors: int = 4
    gamma: float = 0.95
    tol: float = 1e-6
    devices: int = 1


class Axis(NamedTuple):
    """One field of a point that varies; x is what the time is a power of."""

    label: str
    points: list[Point]
    x: list[float]


def axes(scale: int) -> dict[str, Axis]:
    """Return what varies, with at most so many states."""
    middle = max(20, scale // 50)
    sizes = [max(10, scale // by) for by in (1000, 300, 100, 30, 10, 3, 1)]
    counts = [count for count in (2, 4, 8, 16, 32, 64) if count <= middle]
    discounts, tolerances = [0.9, 0.97, 0.99, 0.997, 0.999, 0.9997, 0.9999], [10.0**-k for k in range(2, 11, 2)]
    spread = max(20, scale // 5 // 4 * 4)
    return {
        "states": Axis("states", [Point(S) for S in sizes], [float(S) for S in sizes]),
        "actions": Axis("actions", [Point(middle, actions=A) for A in counts], [float(A) for A in counts]),
        "successors": Axis("successors", [Point(middle, successors=K) for K in counts], [float(K) for K in counts]),
        "gamma": Axis("1 / (1 - γ)", [Point(middle, gamma=g) for g in discounts], [1 / (1 - g) for g in discounts]),
        "tol": Axis("1 / tol", [Point(middle, tol=t) for t in tolerances], [1 / t for t in tolerances]),
        "devices": Axis("virtual devices", [Point(spread, devices=d) for d in (1, 2, 4)], [1.0, 2.0, 4.0]),
    }


def measure(point: Point, seed: int, limit: float, repeats: int) -> Row:
    """Solve in a process of its own; devices are parts of the CPU, and one core is all there is for the other axes."""
    several = point.devices > 1
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={point.devices}"} if several else {}
    contender = "dp sharded" if several else "dp"
    tables = instances.garnet(point.states, point.actions, point.successors, point.gamma, seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tables"
        instances.save(tables, folder)
        del tables
        try:
            on = cores()[: point.devices]
            with Worker(contender, folder, tol=point.tol, on=on, limit=limit, environment=flags) as worker:
                cold = worker.run()["seconds"]
                answers = [worker.run() for _ in range(repeats)]
        except Failed as failure:
            return {"failed": str(failure)}
    last = answers[-1]
    if not last["converged"]:
        return {"failed": f"not certified, gap {last['gap']:.1e}"}
    return {
        "cold": cold,
        "seconds": statistics.median(answer["seconds"] for answer in answers),
        "build": worker.built["seconds"],
        "iterations": last["iterations"],
        "peak_MB": last["peak_MB"],
    }


def exponent(x: list[float], y: list[float]) -> float | None:
    """Return the power of x that fits the upper half of the points, at least three; the lower ones measure a call."""
    n = max(3, (len(x) + 1) // 2)
    if len(x) < 3 or min(y[-n:]) <= 0:
        return None
    return float(np.polyfit(np.log(x[-n:]), np.log(y[-n:]), 1)[0])


def draw(found: dict[str, Row]) -> Figure:
    """Draw seconds (left axis) and peak memory (right axis) along each axis."""
    width = min(3, len(found))
    height = -(-len(found) // width)
    figure = Figure(figsize=(4 * width, 3.2 * height), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False).ravel()
    for ax in axes[len(found) :]:
        ax.set_axis_off()
    for ax, (name, row) in zip(axes, found.items(), strict=False):
        power = row["exponent_of_time"]
        label = "" if power is None else f", power {power:.2f}"
        ax.loglog(row["x"], row["seconds"], "o-", color="C0", label=f"seconds{label}")
        ax.set(xlabel=row["label"], ylabel="seconds")
        if row["seconds"]:
            # Room around it: the noise of a shared machine shall not look like a law.
            ax.set_ylim(min(row["seconds"]) / 3, 5 * max(row["seconds"]))
        twin = ax.twinx()
        twin.loglog(row["x"], row["peak_MB"], "s:", color="C1")
        twin.set_ylabel("peak memory, MB", color="C1")
        twin.set_ylim(100, max(2000, 1.5 * max(row["peak_MB"], default=0)))
        if name in ("actions", "successors", "devices"):
            ax.set_xticks(row["x"], [f"{x:g}" for x in row["x"]])
            ax.minorticks_off()
        ax.set_title(row["at"], size=8)
        ax.legend(fontsize=8, loc="upper left")
    return figure


def main(
    *,
    scale: int = 1_000_000,
    only: tuple[str, ...] = ("states", "actions", "successors", "gamma", "tol", "devices"),
    repeats: int = 5,
    limit: float = 120.0,
    seed: int = 0,
    out: Path = Path("results/bench_growth"),
) -> dict:
    """Solve garnets of growing size, discount and accuracy, each in a process of its own on one core, and fit powers.

    Args:
        scale: the most states; the other axes take a fiftieth of them, devices a fifth.
        only: which axes.
        repeats: warm calls for each point; the median counts.
        limit: seconds for one call.
        seed: of the garnets.
        out: folder for metrics.json and growth.png.
    """
    arguments = locals()
    record.require(scale >= 1000, f"scale must be at least 1000, got {scale}")
    record.require(repeats >= 1 and limit > 0, "repeats must be at least 1, and limit positive")
    known = axes(scale)
    for name in only:
        record.require(name in known, f"only must be among {list(known)}, got {name!r}")
    record.require_run(seed, out)
    found: dict[str, Row] = {}
    with record.progress() as bar:
        task = bar.add_task("bench_growth", total=sum(len(known[name].points) for name in only), note="")
        for name in only:
            axis, rows = known[name], []
            for point in axis.points:
                bar.update(task, note=f"{name}: {point}")
                rows.append(measure(point, seed, limit, repeats))
                bar.advance(task)
            good = [(x, row) for x, row in zip(axis.x, rows, strict=True) if "failed" not in row]
            x, times, sizes = [x for x, _ in good], [r["seconds"] for _, r in good], [r["peak_MB"] for _, r in good]
            fixed = {k: v for k, v in axis.points[0]._asdict().items() if k != name}
            found[name] = {
                "label": axis.label,
                "at": ", ".join(f"{k} {v:,}" for k, v in fixed.items() if not (k == "devices" and v == 1)),
                "x": x,
                "seconds": times,
                "peak_MB": sizes,
                "iterations": [r["iterations"] for _, r in good],
                "exponent_of_time": exponent(x, times),
                # Above what a process takes anyway; nothing to fit where that is all.
                "exponent_of_memory": exponent(x, [size - sizes[0] for size in sizes])
                if sizes and sizes[-1] > 1.5 * sizes[0]
                else None,
                "points": [point._asdict() | row for point, row in zip(axis.points, rows, strict=True)],
            }
    table = Table("axis", "from", "to", "seconds", "iterations", "MB", "power", "of memory", box=box.SIMPLE)
    for row in found.values():
        for points in row["points"]:
            if "failed" in points:
                record.console.print(f"{row['label']}: {points['failed']}")
        if row["x"]:
            powers = [
                "" if row[key] is None else f"{row[key]:.2f}" for key in ("exponent_of_time", "exponent_of_memory")
            ]
            ends = (f"{row['x'][i]:,.3g}" for i in (0, -1))
            spans = (f"{row[k][0]:.3g} to {row[k][-1]:.3g}" for k in ("seconds", "iterations", "peak_MB"))
            table.add_row(row["label"], *ends, *spans, *powers)
    record.console.print(table)
    figures = {"growth": draw(found)}
    return record.write(out, arguments=arguments, metrics=found, figures=figures, clock=record.Clock(), dtype="float64")


if __name__ == "__main__":
    record.command(main)

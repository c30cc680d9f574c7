"""dsm against torchebm and blackjax, in one run: training steps and chains, in processes that take turns.

Beside each time stands the floor that no change of ours could beat: the matrix products alone, at the speed of one
large product measured in the same run, or the random bits alone. On several cores torchebm uses its threads; dsm and
blackjax share chains out, dsm large batches too, to one device for each core, in the way of JAX.

python -m experiments.bench_dsm
"""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from experiments import record
from experiments.bench_call import median_seconds
from experiments.bench_dsm_peers import CHAINS, LIBRARIES, TASKS
from experiments.bench_process import Failed, Process, cores, pinned

MINE = "dsm"
# How many times faster than a peer each task is to be.
GOALS = {
    "denoising-4096": {"torchebm": 3.0},
    "denoising-256": {"torchebm": 4.0},
    "sliced-4096": {"torchebm": 4.0},
    "ula-mixture": {"torchebm": 20.0, "blackjax": 5.0},
    "ula-mlp": {"torchebm": 2.0, "blackjax": 2.0},
    "mala-mixture": {"blackjax": 4.0},
}
# Products of a 128 x 128 matrix with one row each, for one example: forward and gradient in x; for training, each of
# them again for either factor. Sliced score matching: value, slope and curvature forward, of which the slope serves
# twice and so counts as two on the way back.
PRODUCTS = {"denoising-4096": 6, "denoising-256": 6, "sliced-4096": 11, "ula-mlp": 2}
Row = dict[str, Any]


def product_rate(repeats: int = 5) -> float:
    """Return the multiplications and additions per second of [512, 128] by [128, 128], float32."""
    a, w, num = jnp.ones((512, 128), jnp.float32), 0.01 * jnp.ones((128, 128), jnp.float32), 500
    many = jax.jit(lambda a, w: jax.lax.fori_loop(0, num, lambda _, a: a @ w, a))
    return 2 * 512 * 128 * 128 * num / median_seconds(lambda: jax.block_until_ready(many(a, w)), repeats)


def noise_seconds(num: int, repeats: int = 5) -> float:
    """Return the seconds in which a key for each of 10,000 chains is folded and two normals are drawn from it."""

    def step(i: Any, total: Any) -> Any:
        return total + jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), (2,), jnp.float32))(keys)

    keys = jax.random.split(jax.random.key(0), CHAINS)
    many = jax.jit(lambda total: jax.lax.fori_loop(0, num, step, total))
    zero = jnp.zeros((CHAINS, 2), jnp.float32)
    return median_seconds(lambda: jax.block_until_ready(many(zero)), repeats) / num


def compare(task: str, peers: Sequence[str], on: Sequence[int], *, rounds: int, limit: float, python: str) -> list[Row]:
    """Time ours and each peer in turns, ABAB, so that whatever slows the machine slows both; the first row is ours."""

    def start(library: str) -> Process:
        interpreter = sys.executable if library == MINE else python
        return Process(
            "experiments.bench_dsm_peers", [library, task], on=on, limit=limit, python=interpreter, environment=flags
        )

    steps, rows, mine = TASKS[task].steps, [], []
    flags = {"JAX_NUM_CPU_DEVICES": str(max(1, len(on)))}
    with start(MINE) as ours:
        answer: Row = ours.ask({})
        for library in peers:
            try:
                with start(library) as peer:
                    beside, taken, last = [], [], {}
                    for _ in range(rounds):
                        beside.append(ours.ask({})["seconds"])
                        last = peer.ask({})
                        taken.append(last["seconds"])
                    ratio = statistics.median(b / a for a, b in zip(beside, taken, strict=True))
                    mine += beside
                    row = {"seconds": statistics.median(taken) / steps, "ratio": ratio, "error": last["error"]}
                    rows.append({"library": library, "first_call": peer.built["seconds"]} | row)
            except Failed as failure:
                rows.append({"library": library, "failed": str(failure)})
        while len(mine) < rounds:
            mine.append(ours.ask({})["seconds"])
        found = {"seconds": statistics.median(mine) / steps, "error": answer["error"]}
        rows.insert(0, {"library": MINE, "first_call": ours.built["seconds"]} | found)
    return [{"task": task, "cores": max(1, len(on))} | row for row in rows]


def goals(rows: list[Row]) -> list[Row]:
    """Return every goal that this run can decide."""
    found = []
    for row in rows:
        needed = GOALS[row["task"]].get(row["library"])
        if needed is not None and "ratio" in row:
            place = {"task": row["task"], "cores": row["cores"], "against": row["library"]}
            found.append(place | {"needed": needed, "found": row["ratio"], "met": row["ratio"] >= needed})
    return found


def main(
    *,
    tasks: tuple[str, ...] = tuple(TASKS),
    peers: tuple[str, ...] = ("torchebm", "blackjax"),
    processors: tuple[int, ...] = (1, 2),
    rounds: int = 5,
    limit: float = 300.0,
    peers_python: str = sys.executable,
    out: Path = Path("results/bench_dsm"),
) -> dict:
    """Time training steps and chains of dsm and of other libraries in processes of their own, pinned, taking turns.

    Args:
        tasks: what is timed (see experiments/bench_dsm_peers.py).
        peers: the other libraries.
        processors: how many cores, one run for each.
        rounds: turns; medians are reported.
        limit: seconds for one call, and for starting and compiling.
        peers_python: an interpreter that has the peers, if this one has not.
        out: folder for metrics.json and the figure.
    """
    arguments = locals()
    for task in tasks:
        record.require(task in TASKS, f"tasks must be among {list(TASKS)}, got {task!r}")
    for peer in peers:
        record.require(peer in LIBRARIES and peer != MINE, f"peers must be torchebm or blackjax, got {peer!r}")
    record.require(len(tasks) > 0 and len(processors) > 0, "tasks and processors must not be empty")
    record.require(rounds >= 1 and limit > 0, "rounds and limit must be positive")
    here = cores() or [0]
    record.require(
        all(1 <= count <= len(here) for count in processors), f"processors must be 1 to {len(here)}, got {processors}"
    )
    record.require_run(0, out)
    clock, rows, limits = record.Clock(), [], []
    start = time.perf_counter()
    with record.progress() as bar:
        todo = bar.add_task("bench_dsm", total=len(tasks) * len(processors), note="")
        for count in sorted(processors):
            if count == 1:
                with pinned(here[:1]):
                    limits.append(
                        {"cores": 1, "products_per_second": product_rate(), "noise_seconds": noise_seconds(100)}
                    )
            for task in tasks:
                bar.update(todo, note=f"{task}, {count} core(s)")
                rows += compare(task, peers, here[:count], rounds=rounds, limit=limit, python=peers_python)
                bar.update(todo, advance=1)
    clock.run_seconds = time.perf_counter() - start
    for row in rows:
        floor = floor_seconds(row["task"], limits) if row["cores"] == 1 and row["library"] == MINE else None
        row |= {} if floor is None else {"floor": floor}
    decided = goals(rows)
    show(rows, decided)
    metrics = {"rows": rows, "goals": decided, "limits": limits, "all_met": all(goal["met"] for goal in decided)}
    return record.write(
        out, arguments=arguments, metrics=metrics, figures={"ratios": draw(rows)}, clock=clock, dtype="float32"
    )


def floor_seconds(task: str, limits: list[Row]) -> float | None:
    """Return what a step would take if it were nothing but its matrix products, or its random numbers."""
    if not limits:
        return None
    if task in PRODUCTS:
        return PRODUCTS[task] * 2 * 128 * 128 * TASKS[task].work / limits[0]["products_per_second"]
    return limits[0]["noise_seconds"]


def show(rows: list[Row], decided: list[Row]) -> None:
    """Print what was found, and which goals were met."""
    table = Table("work", "cores", "library", "ms a step", "error", "times slower than dsm", "asked", "floor, ms")
    for row in rows:
        if "failed" in row:
            table.add_row(row["task"], str(row["cores"]), row["library"], row["failed"])
            continue
        asked = GOALS[row["task"]].get(row["library"])
        met = "" if asked is None else f"{asked:g} " + ("met" if row["ratio"] >= asked else "missed")
        error = "" if row["error"] is None else f"{row['error']:.2g}"
        table.add_row(
            row["task"],
            str(row["cores"]),
            row["library"],
            f"{1e3 * row['seconds']:.3g}",
            error,
            f"{row['ratio']:.3g}" if "ratio" in row else "",
            met,
            f"{1e3 * row['floor']:.3g}" if "floor" in row else "",
        )
    record.console.print(table)
    record.console.print(
        "Error: denoising, the relative error of the score after the steps of one call; chains on the mixture, that of "
        "E|x|² in standard errors.\nFloor: the matrix products alone, or the random numbers alone, on one core.\n"
        f"{sum(goal['met'] for goal in decided)} of {len(decided)} goals met."
    )


def draw(rows: list[Row]) -> Figure:
    """Draw how many times slower the peers are."""
    bars = [row for row in rows if "ratio" in row]
    figure = Figure(figsize=(8, 0.32 * len(bars) + 1.4), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(bars))[::-1]
    colour = {"torchebm": "C1", "blackjax": "C0"}
    axes.barh(place, [row["ratio"] for row in bars], color=[colour[row["library"]] for row in bars])
    for y, row in zip(place, bars, strict=True):
        axes.text(row["ratio"] * 1.03, y, f"{row['ratio']:.1f}", va="center", fontsize=8)
        asked = GOALS[row["task"]].get(row["library"])
        if asked is not None:
            axes.plot([asked, asked], [y - 0.4, y + 0.4], color="k", linewidth=1.5)
    axes.set_yticks(place, [f"{row['task']}, {row['cores']} core(s): {row['library']}" for row in bars], fontsize=8)
    axes.axvline(1.0, color="0.5", linewidth=0.8)
    axes.set(xscale="log", xlabel="times slower than dsm (black: the goal)")
    axes.margins(x=0.1)
    return figure


if __name__ == "__main__":
    record.command(main)

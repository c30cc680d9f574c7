"""`dp.solve` against the other libraries that are installed, in one run: time, memory, and the error really reached.

python -m experiments.bench_dp
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import bench_report, instances, record
from experiments.bench_peers import OURS, PEERS
from experiments.bench_worker import Failed, Worker, cores

MINE, BATCH = "dp", "dp x 10,000"
CONTENDERS = (BATCH, *PEERS)
# Rounds at most; seconds that a measurement takes at least; a first call that takes longer than ONCE is not repeated,
# since compiling never did.
ROUNDS, LEAST, ONCE = 7, 0.02, 15.0
Row = dict[str, Any]


def settled(worker: Worker, cold: float) -> int:
    """Return how many calls make one measurement, after a call to warm up where that is not too much to ask."""
    return 1 if cold > ONCE else max(1, min(10_000, round(LEAST / worker.run()["wall"])))


def against(ours: Worker | None, our_calls: int, peer: Worker, patience: float) -> Row:
    """Time a peer cold, then warm in turns with ours, ABAB, so that whatever slows the machine slows both."""
    last = peer.run()
    cold, beside, taken, spent = last["seconds"], [], [], 0.0
    calls = settled(peer, cold)
    while len(taken) < ROUNDS and (not taken or spent < patience):
        if ours is not None:
            beside.append(ours.run(our_calls)["seconds"])
        last = last if cold > ONCE else peer.run(calls)
        taken.append(last["seconds"])
        spent += last["wall"] * calls
    row = last | {"cold": cold, "warm": statistics.median(taken), "rounds": len(taken), "beside": beside}
    if beside:
        row["ratio"] = statistics.median(peer / mine for peer, mine in zip(taken, beside, strict=True))
    return row


def truth(row: Row, path: Path, tables: instances.Tables, matrix: Any) -> np.ndarray:
    """Add to a row what its values are worth: their residual, worked out in SciPy, and the bound that follows."""
    v = np.load(path).ravel()
    row["residual"] = instances.residual(tables, matrix, v)
    row["error_bound"] = row["residual"] / (1 - tables.gamma)
    return v


def compare(
    name: str,
    tables: instances.Tables,
    names: Sequence[str],
    on: Sequence[int],
    *,
    tol: float,
    limit: float,
    patience: float,
    python: str,
    advance: Callable[[str], None],
) -> list[Row]:
    """Measure all contenders on one instance and on some cores; the first row is ours."""
    matrix, rows, found = instances.pairs(tables), [], {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tables"
        instances.save(tables, folder)

        def start(contender: str) -> Worker:
            interpreter = sys.executable if contender in OURS else python
            return Worker(contender, folder, tol=tol, on=on, limit=limit, python=interpreter)

        def judged(contender: str, worker: Worker, row: Row) -> Row:
            path = Path(scratch) / "values.npy"
            worker.values(path)
            found[contender] = truth(row, path, tables, matrix)
            return row | {"build": worker.built["seconds"]}

        ours, calls, mine = None, 0, {}
        advance(MINE)
        try:
            ours = start(MINE)
            cold = ours.run()["seconds"]
            calls = settled(ours, cold)
            mine = judged(MINE, ours, ours.run(calls) | {"cold": cold})
        except Failed as failure:
            ours, mine = None, {"failed": str(failure)}
        times = []
        for contender in names:
            advance(contender)
            try:
                with start(contender) as worker:
                    row = judged(contender, worker, against(ours, calls, worker, patience))
                times += row.pop("beside")
            except Failed as failure:
                row = {"failed": str(failure), "at_least": failure.solving}
            rows.append({"contender": contender} | row)
        if ours is not None and "failed" not in mine:
            while len(times) < 3:
                times.append(ours.run(calls)["seconds"])
            mine |= {"warm": statistics.median(times), "rounds": len(times)}
            ours.close()
    rows.insert(0, {"contender": MINE} | mine)
    # From the best values that anybody found: where it starts, the reference proves itself.
    seen = [row for row in rows if "residual" in row]
    start_from = found[min(seen, key=lambda row: row["residual"])["contender"]] if seen else np.zeros(len(tables.R))
    best, bound = instances.reference(tables, matrix, start_from, eliminate=instances.INSTANCES[name].eliminate)
    for row in rows:
        if row["contender"] in found:
            row |= {"error": float(np.abs(found[row["contender"]] - best).max()), "reference_within": bound}
    place = {"instance": name, "model": instances.describe(name, tables), "cores": max(1, len(on))}
    return [place | row for row in rows]


def main(
    *,
    names: tuple[str, ...] = tuple(instances.INSTANCES),
    contenders: tuple[str, ...] = CONTENDERS,
    processors: tuple[int, ...] = (1, 2),
    tol: float = 1e-6,
    limit: float = 60.0,
    patience: float = 3.0,
    small: bool = False,
    peers_python: str = sys.executable,
    out: Path = Path("results/bench_dp"),
) -> dict:
    """Time `dp.solve` and the other libraries in processes of their own, pinned, taking turns; check every answer.

    Args:
        names: of the instances (see experiments/instances.py).
        contenders: of experiments/bench_peers.py; ours runs in any case.
        processors: how many cores, one run for each. Beyond the first, peers that failed or took long are left out.
        tol: the accuracy asked for, in the sup norm.
        limit: seconds for one call of a solver, and for building its model; beyond, the row says so.
        patience: seconds of repeated calls of a peer, in turns with as many of ours.
        small: small instances, for a quick look.
        peers_python: an interpreter that has the peers, if this one has not.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    for name in names:
        record.require(name in instances.INSTANCES, f"names must be among {list(instances.INSTANCES)}, got {name!r}")
    for name in contenders:
        record.require(name in CONTENDERS, f"contenders must be among {CONTENDERS}, got {name!r}")
    record.require(len(names) > 0 and len(processors) > 0, "names and processors must not be empty")
    record.require(tol > 0 and limit > 0 and patience > 0, "tol, limit and patience must be positive")
    here = cores() or [0]
    record.require(
        all(1 <= count <= len(here) for count in processors), f"processors must be 1 to {len(here)}, got {processors}"
    )
    record.require_run(0, out)
    clock, rows = record.Clock(), []
    with record.progress() as bar:
        task = bar.add_task("bench_dp", total=None, note="")
        for name in names:
            instance = instances.INSTANCES[name]
            tables = (instance.small if small else instance.full)()
            asked = [c for c in contenders if c != BATCH or name == "e"]
            for count in sorted(processors):
                rows += compare(
                    name,
                    tables,
                    asked,
                    here[:count],
                    tol=tol,
                    limit=limit,
                    patience=patience,
                    python=peers_python,
                    advance=lambda note, name=name: bar.update(task, advance=1, note=f"{name}: {note}"),
                )
                quick = {r["contender"] for r in rows if r["instance"] == name and r.get("warm", limit) < limit / 3}
                asked = [c for c in asked if c in quick]
    goals = bench_report.goals(rows, tol)
    bench_report.show(rows, goals, tol)
    figures = {"time_and_error": bench_report.draw(rows, tol), "ratios": bench_report.draw_ratios(rows, tol)}
    metrics = {"rows": rows, "goals": goals, "all_met": all(goal["met"] for goal in goals)}
    return record.write(out, arguments=arguments, metrics=metrics, figures=figures, clock=clock, dtype="float64")


if __name__ == "__main__":
    record.command(main)

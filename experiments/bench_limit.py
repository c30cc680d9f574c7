"""How far one backup and one solution are from what memory allows: reading P once at the speed of a copy.

python -m experiments.bench_limit
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

import dp
from experiments import instances, record
from experiments.bench_call import median_seconds
from experiments.bench_worker import cores, pinned

Row = dict[str, Any]
BACKUPS = {"dense": "a", "successors": "b", "ragged": "b"}


def bandwidth(megabytes: int) -> Row:
    """Return bytes per second of copying (read and written) and of adding up (read) an array larger than any cache."""
    x = np.ones(megabytes * 2**17)
    y = np.empty_like(x)
    copy = median_seconds(lambda: np.copyto(y, x), 7)
    read = median_seconds(lambda: x.sum(), 7)
    return {"copy": 2 * x.nbytes / copy, "read": x.nbytes / read}


def build(tables: instances.Tables, form: str, dtype: str) -> dp.MDP:
    """Return the model in one of three forms and two dtypes."""
    R = tables.R.astype(dtype)
    if tables.P is not None:
        return dp.make_mdp(tables.P.astype(dtype), R, tables.gamma)
    assert tables.state is not None and tables.prob is not None
    mdp = dp.from_successors(tables.state, tables.prob.astype(dtype), R, tables.gamma)
    return dp.as_choices(mdp) if form == "ragged" else mdp


def size(P: Any) -> int:
    """Return the bytes of the arrays of P: a backup reads each of them at least once."""
    return sum(x.nbytes for x in jax.tree.leaves(P))


def backup(form: str, dtype: str, small: bool, speed: float) -> Row:
    """Time `dp.optimality`, jitted."""
    instance = instances.INSTANCES[BACKUPS[form]]
    tables = (instance.small if small else instance.full)()
    mdp = build(tables, form, dtype)
    v = jnp.asarray(np.random.default_rng(0).standard_normal(len(tables.R)), dtype)
    run = jax.jit(dp.optimality)
    seconds = median_seconds(lambda: jax.block_until_ready(run(mdp, v)), 15)
    bytes_ = size(mdp.P)
    return {
        "form": form,
        "dtype": dtype,
        "model": instances.describe(BACKUPS[form], tables),
        "bytes": bytes_,
        "seconds": seconds,
        "bytes_per_second": bytes_ / seconds,
        "of_copy_bandwidth": bytes_ / seconds / speed,
    }


def solution(name: str, tol: float, small: bool, speed: float) -> Row:
    """Time `dp.solve`, and count in passes at the speed of a copy: one proves an answer, whoever knew it."""
    instance = instances.INSTANCES[name]
    tables = (instance.small if small else instance.full)()
    mdp = build(tables, "", "float64")
    run, v = jax.jit(dp.optimality), mdp.R[:, 0]
    one = median_seconds(lambda: jax.block_until_ready(run(mdp, v)), 15)
    seconds = median_seconds(lambda: jax.block_until_ready(dp.solve(mdp, tol=tol)), 3)
    found = dp.solve(mdp, tol=tol)
    floor = size(mdp.P) / speed
    return {
        "instance": name,
        "model": instances.describe(name, tables),
        "floor": floor,
        "backup": one,
        "seconds": seconds,
        "iterations": int(found.iterations),
        "passes_of_time": seconds / one,
        "floors_of_time": seconds / floor,
        "converged": bool(found.converged),
    }


def _alone(names: tuple[str, ...], tol: float, small: bool) -> Row:
    with jax.enable_x64(True):
        speeds = bandwidth(16 if small else 256)
        backups = [backup(form, dtype, small, speeds["copy"]) for form in BACKUPS for dtype in ("float64", "float32")]
        return {
            "bandwidth": speeds,
            "backups": backups,
            "solutions": [solution(name, tol, small, speeds["copy"]) for name in names],
        }


def draw(found: Row) -> Figure:
    """Draw the bandwidth of backups beside that of a copy, and solutions in passes."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = [f"{row['form']}, {row['dtype']}" for row in found["backups"]]
    left.barh(labels, [row["bytes_per_second"] / 1e9 for row in found["backups"]])
    for name, style in (("copy", "-"), ("read", "--")):
        left.axvline(found["bandwidth"][name] / 1e9, color="k", ls=style, label=f"{name}, NumPy")
    left.invert_yaxis()
    left.set(xlabel="GB/s of P in one backup")
    left.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    names = [row["instance"] for row in found["solutions"]]
    x = np.arange(len(names))
    for shift, key, label in (
        (-0.27, "iterations", "backups, as counted"),
        (0.0, "passes_of_time", "time / time of one backup"),
        (0.27, "floors_of_time", "time / (bytes of P / copy bandwidth)"),
    ):
        right.bar(x + shift, [row[key] for row in found["solutions"]], width=0.26, label=label)
    right.axhline(1, color="k", lw=1)
    right.set_xticks(x, names)
    right.set(yscale="log", ylabel="passes over P, dp.solve")
    right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def main(
    *,
    names: tuple[str, ...] = ("a", "a2", "b", "c", "d", "d2"),
    tol: float = 1e-6,
    small: bool = False,
    out: Path = Path("results/bench_limit"),
) -> dict:
    """Measure the copy bandwidth of one core, one backup in every form against it, and solutions in passes over P.

    The floor of a solution is one pass: its last backup, which proves the answer, reads all of P.

    Args:
        names: instances to solve (see experiments/instances.py).
        tol: the accuracy asked for.
        small: small instances, which fit into a cache: for a quick look.
        out: folder for metrics.json and limit.png.
    """
    arguments = locals()
    for name in names:
        record.require(name in instances.INSTANCES, f"names must be among {list(instances.INSTANCES)}, got {name!r}")
    record.require(tol > 0, f"tol must be positive, got {tol}")
    record.require_run(0, out)
    with pinned(cores()[:1]), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(_alone, names, tol, small).result()
    table = Table("form", "dtype", "MB", "ms", "GB/s", "of a copy", title="one backup", box=box.SIMPLE)
    for row in found["backups"]:
        numbers = f"{row['bytes'] / 1e6:.0f}", f"{1e3 * row['seconds']:.3g}", f"{row['bytes_per_second'] / 1e9:.2f}"
        table.add_row(row["form"], row["dtype"], *numbers, f"{row['of_copy_bandwidth']:.0%}")
    record.console.print(table)
    speeds = {name: f"{speed / 1e9:.1f} GB/s" for name, speed in found["bandwidth"].items()}
    record.console.print(f"one core, NumPy: copy {speeds['copy']} (read and written), sum {speeds['read']} (read)")
    columns = "floor, ms", "backup, ms", "solve, ms", "backups", "time in backups", "in floors"
    table = Table("", *columns, title="dp.solve, float64", box=box.SIMPLE)
    for row in found["solutions"]:
        times = (f"{1e3 * row[key]:.3g}" for key in ("floor", "backup", "seconds"))
        passes = (f"{row[key]:.3g}" for key in ("passes_of_time", "floors_of_time"))
        table.add_row(row["instance"], *times, str(row["iterations"]), *passes)
    record.console.print(table)
    figures = {"limit": draw(found)}
    return record.write(
        out, arguments=arguments, metrics=found, figures=figures, clock=record.Clock(), dtype="float64, float32"
    )


if __name__ == "__main__":
    record.command(main)

"""From `import dp` to the first certified answer in a fresh process, with and without JAX's compilation cache.

python -m experiments.bench_cold_start
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from experiments import record
from experiments.bench_worker import cores, pinned

Row = dict[str, Any]
PHASES = ("jax", "dp", "build", "first", "second")
TITLES = {
    "jax": "import jax",
    "dp": "import dp, beyond jax",
    "build": "the model",
    "first": "first dp.solve",
    "second": "second dp.solve",
}

PROGRAM = """
import json, time
times = [time.perf_counter()]
def lap():
    times.append(time.perf_counter())
import jax
lap()
import dp
lap()
mdp = jax.block_until_ready(dp.problems.space_exploration())
lap()
solution = jax.block_until_ready(dp.solve(mdp))
lap()
jax.block_until_ready(dp.solve(mdp))
lap()
assert solution.converged
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""


def start(environment: dict[str, str]) -> Row:
    """Return the seconds of each phase in a fresh interpreter on one core."""
    root = str(Path(__file__).parents[1])
    with pinned(cores()[:1]) as variables:
        for name in [name for name in variables if name.startswith("JAX_")]:
            del variables[name]
        variables |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": root} | environment
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True)
    record.require(done.returncode == 0, f"the fresh process failed: {done.stderr[-500:]}")
    return dict(zip(PHASES, json.loads(done.stdout), strict=True))


def imports(most: int) -> list[tuple[str, float]]:
    """Return the modules whose own import takes longest, with everything that `import dp` needs, in seconds."""
    command = [sys.executable, "-X", "importtime", "-c", "import dp"]
    lines = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stderr.splitlines()
    found: dict[str, float] = {}
    for line in lines:
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            package = parts[2].strip().split(".")[0]
            found[package] = found.get(package, 0.0) + int(parts[0]) / 1e6
    return sorted(found.items(), key=lambda item: -item[1])[:most]


def compilations() -> list[str]:
    """Return what is compiled until the first answer, in order."""
    code = f"import jax\njax.config.update('jax_log_compiles', True)\n{PROGRAM}"
    variables = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    lines = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=variables).stderr
    return [line.split("Finished XLA compilation of ")[1] for line in lines.splitlines() if "Finished XLA" in line]


def draw(found: dict[str, Row]) -> Figure:
    """Draw the phases end to end."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    ax = figure.subplots()
    left = [0.0] * len(found)
    for phase in PHASES[:-1]:
        width = [row[phase] for row in found.values()]
        ax.barh(list(found), width, left=left, label=TITLES[phase])
        left = [a + b for a, b in zip(left, width, strict=True)]
    ax.invert_yaxis()
    ax.set(xlabel="seconds to the first answer, Space Exploration, one core")
    ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    return figure


def main(*, repeats: int = 5, out: Path = Path("results/bench_cold_start")) -> dict:
    """Start fresh processes that import dp and solve Space Exploration, and say where their time goes.

    Args:
        repeats: processes for each row; medians count. One more fills the cache.
        out: folder for metrics.json and cold_start.png.
    """
    arguments = locals()
    record.require(repeats >= 1, f"repeats must be at least 1, got {repeats}")
    record.require_run(0, out)
    with tempfile.TemporaryDirectory() as folder, record.progress() as bar:
        task = bar.add_task("bench_cold_start", total=2 * repeats + 1, note="")
        cache = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        start(cache)
        bar.advance(task)
        runs: dict[str, list[Row]] = {"no cache": [], "compilation cache": []}
        for _ in range(repeats):
            for name, environment in zip(runs, ({}, cache), strict=True):
                runs[name].append(start(environment))
                bar.advance(task)
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    found = {name: {p: statistics.median(run[p] for run in rows) for p in PHASES} for name, rows in runs.items()}
    for row in found.values():
        row["to_the_first_answer"] = sum(row[phase] for phase in PHASES[:-1])
    table = Table("seconds", *found, box=box.SIMPLE)
    for phase in PHASES:
        table.add_row(TITLES[phase], *(f"{row[phase]:.3g}" for row in found.values()))
    table.add_row("to the first answer", *(f"{row['to_the_first_answer']:.3g}" for row in found.values()))
    record.console.print(table)
    slowest, compiled = imports(10), compilations()
    record.console.print("imports: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in slowest))
    record.console.print(f"{len(compiled)} compilations:", *compiled, sep="\n", highlight=False, markup=False)
    metrics = {"phases": found, "imports": dict(slowest), "compilations": compiled, "cache_bytes": stored}
    figures = {"cold_start": draw(found)}
    return record.write(
        out, arguments=arguments, metrics=metrics, figures=figures, clock=record.Clock(), dtype="float32"
    )


if __name__ == "__main__":
    record.command(main)

"""How long large models take from nothing to a certified answer, and in how much memory; and what a backup costs.

python -m experiments.bench_models
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from scipy.sparse import csr_array

import dp
from dp import formats
from experiments import record
from experiments.bench_call import median_seconds

Row = dict[str, object]


def seconds(start: float) -> float:
    """Return the seconds since start."""
    return time.perf_counter() - start


def summary(solution: dp.Solution, state: int = 0) -> Row:
    """Say what was certified."""
    record.require(bool(solution.converged), "the answer was not certified")
    known = np.isfinite(np.asarray(solution.v))
    return {
        "value": float(solution.v[state]),
        "largest_gap": float(np.max(np.asarray(solution.upper - solution.lower)[known])),
        "iterations": int(solution.iterations),
    }


def solved(mdp: dp.MDP) -> Row:
    """Solve to 1e-6, once with compiling and once without."""
    start = time.perf_counter()
    solution = jax.block_until_ready(dp.solve(mdp, tol=1e-6))
    first = seconds(start)
    start = time.perf_counter()
    jax.block_until_ready(dp.solve(mdp, tol=1e-6))
    return {"first_solve": first, "solve": seconds(start)} | summary(solution)


def million(states: int, seed: int) -> Row:
    """Solve a garnet of 4 actions with 4 successors each at gamma 0.95, in float64, to 1e-6."""
    start = time.perf_counter()
    mdp = dp.problems.garnet(states, 4, 4, gamma=0.95, seed=seed, dense=False)
    jax.block_until_ready(mdp)
    built = seconds(start)
    return {"states": states, "build": built} | solved(mdp)


def grid(side: int, seed: int) -> Row:
    """Build a square grid with walls and slip, one cell of which ends the episode, and solve it at gamma 0.99."""
    walls = np.argwhere(np.random.default_rng(seed).random((side, side)) < 0.1)
    walls = [(int(r), int(c)) for r, c in walls if (r, c) != (side - 1, side - 1)]
    start = time.perf_counter()
    mdp = dp.problems.gridworld(
        side, side, gamma=0.99, step_reward=-1.0, slip=0.2, walls=walls, terminals=[(side - 1, side - 1)]
    )
    jax.block_until_ready(mdp)
    built = seconds(start)
    return {"states": mdp.size, "build": built} | solved(mdp)


def firewire(path: str) -> Row:
    """Read the firewire root contention protocol from a file and find the least expected time to elect a leader."""
    start = time.perf_counter()
    model = formats.read_drn(path)
    read = seconds(start)
    start = time.perf_counter()
    mdp = model.with_rewards("time")
    solution = dp.total_reward(mdp, model.labels["elected"], maximise=False, relative=True)
    solved = seconds(start)
    row = {"states": mdp.size, "build": read, "first_solve": solved, "solve": solved}
    return row | summary(solution, int(np.argmax(model.initial)))


def backups(states: int, seed: int) -> Row:
    """Time one backup of a garnet with 10 actions and 10 successors in each form, and scipy's sparse product."""
    mdp = dp.problems.garnet(states, 10, 10, gamma=0.99, seed=seed, dense=False)
    table = dp.tabulate(mdp)
    v = np.random.default_rng(seed).normal(size=states)
    matrix = csr_array((table.data, table.indices.astype(np.int32), table.indptr.astype(np.int32)))
    ragged = dp.as_choices(mdp)
    backup = jax.jit(dp.optimality)

    def ours(model: dp.MDP) -> Callable[[], object]:
        return lambda: jax.block_until_ready(backup(model, jnp.asarray(v)))

    def scipys() -> np.ndarray:
        return (table.rewards + 0.99 * (matrix @ v)).reshape(states, 10).max(1)

    found = {"successors": ours(mdp), "ragged": ours(ragged), "scipy": scipys}
    expected = scipys()
    row: Row = {"states": states}
    for name, run in found.items():
        np.testing.assert_allclose(run(), expected, rtol=1e-9)
        row[f"{name}_ms"] = 1e3 * median_seconds(run, 15)
    return row


def alone(work: Callable[..., Row], *arguments: object) -> Row:
    """Run in a process of its own, in double precision, and add the peak of its memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, work, *arguments).result()


def _measured(work: Callable[..., Row], *arguments: object) -> Row:
    with jax.enable_x64(True):
        row = work(*arguments)
    return row | {"peak_memory_GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def write_firewire(path: Path) -> bool:
    """Have Storm write its model of the protocol, exactly; False where stormpy is not installed."""
    try:
        import stormpy
        from stormpy import io
    except ImportError:
        return False
    file = Path(stormpy.__file__).parent / "examples/files/mdp/firewire.nm"
    program = stormpy.parse_prism_program(str(file))
    program = stormpy.instantiate_constants(program, "delay=36,fast=0.5")
    exact = stormpy.build_model[stormpy.Rational](program[0] if isinstance(program, tuple) else program)
    io.export_to_drn(exact, str(path))
    return True


def main(*, states: int = 1_000_000, side: int = 1000, seed: int = 0, out: Path = Path("results/bench_models")) -> dict:
    """Take large models from nothing to a certified answer, each in a process of its own, and time single backups.

    Args:
        states: of the random model with 4 actions and 4 successors each; the backups are timed on a tenth of them.
        side: of the square grid.
        seed: of the random models and of the grid's walls.
        out: folder for metrics.json.
    """
    arguments = locals()
    record.require(states >= 100 and side >= 2, f"need states >= 100 and side >= 2, got {states} and {side}")
    record.require_run(seed, out)
    start = time.perf_counter()
    rows = {"random": alone(million, states, seed), "grid": alone(grid, side, seed)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "firewire.drn"
        if write_firewire(path):
            rows["firewire"] = alone(firewire, str(path))
    rows["backup"] = alone(backups, states // 10, seed)
    clock = record.Clock()
    clock.run_seconds = seconds(start)
    columns = {"states": ",", "build": ".1f", "first_solve": ".1f", "solve": ".1f", "largest_gap": ".0e"}
    table = Table("model", *(column.replace("_", " ") for column in columns), "GB", title="large models, seconds")
    for name, row in rows.items():
        if name != "backup":
            cells = (format(row[column], form) for column, form in columns.items())
            table.add_row(name, *cells, f"{row['peak_memory_GB']:.2f}")
    record.console.print(table)
    record.console.print(
        "build: from nothing, or from the file; first solve: with compiling; GB: peak memory; float64, tol 1e-6"
    )
    times = {name: rows["backup"][f"{name}_ms"] for name in ("successors", "ragged", "scipy")}
    record.console.print("one backup, ms: " + ", ".join(f"{name} {ms:.3g}" for name, ms in times.items()))
    return record.write(out, arguments=arguments, metrics=rows, figures={}, clock=clock, dtype="float64")


if __name__ == "__main__":
    record.command(main)

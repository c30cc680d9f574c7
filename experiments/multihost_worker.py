"""What each process of `experiments.multihost_dp` does: join the others, build its rows, solve, say what it took."""

import functools
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

import dp
from dp import memory
from dp.fingerprint import digest
from dp.problems.garnet import draw
from experiments import hosts, record

# What is told of each process; peak: beyond what it held before it began.
COLUMNS = "process", "rows", "bytes", "peak", "iterations", "build_seconds", "solve_seconds"

# Bytes. Below, the compiler takes more than the model, and a peak says nothing.
LARGE = 500_000_000

# States whose rows are drawn together, from a generator of their own.
BLOCK = 1024

SOLVERS = {
    "value": dp.value_iteration,
    "modified": dp.modified_policy_iteration,
    "inexact": dp.inexact_policy_iteration,
}


def rows(first: int, last: int, *, states: int, actions: int, successors: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return the rows of the states first to last - 1: successors and probabilities [n, A, K], rewards [n, A].

    The numbers of a block of states come from a counter-based generator whose key is the seed and the number of the
    block: so however the states are divided, everyone draws the same model.
    """
    state = np.empty((last - first, actions, successors), np.int32)
    prob, R = np.empty(state.shape), np.empty(state.shape[:2])
    for block in range(first // BLOCK, -(-last // BLOCK)):
        rng = np.random.Generator(np.random.Philox(key=(seed, block)))
        drawn = draw(rng, (BLOCK, actions), states, successors)
        a, b = max(first, block * BLOCK), min(last, (block + 1) * BLOCK)
        for whole, part in zip((state, prob, R), drawn, strict=True):
            whole[a - first : b - first] = part[a - block * BLOCK : b - block * BLOCK]
    return state, prob, R


def join(processes: int, process_id: int, coordinator: str, devices: int) -> None:
    """Join the other processes; from then on `jax.devices()` are those of all."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", devices)
    hosts.join(coordinator, processes, process_id)


def work(
    *,
    states: int,
    actions: int,
    successors: int,
    gamma: float,
    tol: float,
    solver: str,
    processes: int,
    devices: int,
    process_id: int,
    coordinator: str,
    folder: Path | None,
    every: int,
    seed: int,
    out: Path,
) -> dict:
    """Take part as one of the processes; process 0 writes the record of all."""
    arguments = locals()
    join(processes, process_id, coordinator, devices)
    jax.block_until_ready(jnp.zeros(1) + 1)
    before, clock = rss(), time.perf_counter()
    draw_rows = functools.partial(rows, states=states, actions=actions, successors=successors, seed=seed)
    mdp = jax.block_until_ready(dp.from_shards(draw_rows, states, gamma))
    built = time.perf_counter() - clock
    sys.stdout.write(f"process {process_id} of {processes} has its rows\n")
    sys.stdout.flush()
    held = sum(shard.data.nbytes for x in jax.tree.leaves(mdp) for shard in x.addressable_shards)

    clock = time.perf_counter()
    if folder is None:
        solution = SOLVERS[solver](mdp, tol=tol)
    else:
        from dp import checkpoint

        solution = checkpoint.solve(mdp, folder, solver=SOLVERS[solver], every=every, tol=tol)
    jax.block_until_ready(solution)
    solved = time.perf_counter() - clock
    rows_held = states // processes * actions
    mine = (process_id, rows_held, held, peak() - before, int(solution.iterations), built, solved)
    table = multihost_utils.process_allgather(np.asarray(mine, float)).reshape(processes, len(COLUMNS))
    all_rows: list[dict[str, float]] = [dict(zip(COLUMNS, row.tolist(), strict=True)) for row in table]
    metrics = {"processes": all_rows, "whole": whole(states, actions, successors), "certificate": certificate(solution)}
    show(all_rows[process_id], metrics)
    needed = metrics["whole"]["to_build"]
    if processes > 1 and needed > LARGE:
        record.require(mine[3] < needed, f"process {process_id} took {mine[3]:.3g} bytes, the whole model {needed:.3g}")
    if process_id != 0:
        return metrics
    clock = record.Clock()
    clock.run_seconds = built + solved
    return record.write(out, arguments=arguments, metrics=metrics, figures={}, clock=clock, dtype="float64")


def whole(states: int, actions: int, successors: int) -> dict[str, int]:
    """Return the bytes of the whole model, and those that one process would need to build it."""
    slots, item = states * actions * successors, 8
    kept = (4 + item) * slots + item * states * actions
    return {"kept": kept, "to_build": kept + memory.successors(slots, item)}


def certificate(solution: dp.Solution) -> dict[str, Any]:
    """Return what was certified, and a digest of v and its bounds: the same where they agree to the last bit."""
    width, least, most = map(float, _extremes(solution))
    return {
        "converged": bool(solution.converged),
        "largest_gap": width,
        "least_value": least,
        "largest_value": most,
        "digest": digest((solution.v, solution.lower, solution.upper)),
    }


@jax.jit
def _extremes(solution: dp.Solution) -> tuple[jax.Array, ...]:
    return jnp.max(solution.upper - solution.lower), jnp.min(solution.v), jnp.max(solution.v)


def show(row: dict[str, float], metrics: dict[str, Any]) -> None:
    """Print one line for this process."""
    found = metrics["certificate"]
    # Line and line break in one piece: the processes write to the same place.
    sys.stdout.write(
        f"process {row['process']:.0f}: {row['rows']:,.0f} rows, {row['bytes'] / 1e6:,.0f} MB of "
        f"{metrics['whole']['kept'] / 1e6:,.0f}, peak {row['peak'] / 1e6:,.0f} MB of "
        f"{metrics['whole']['to_build'] / 1e6:,.0f}, built in {row['build_seconds']:.1f} s, "
        f"{row['iterations']:.0f} iterations in {row['solve_seconds']:.1f} s, "
        f"largest gap {found['largest_gap']:.2g} ({found['digest']})\n"
    )
    sys.stdout.flush()


def rss() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Return the most bytes of memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

"""A random MDP that no single process holds, solved by several: each draws, checks, keeps and sweeps its own rows.

One command starts N processes on this machine, which talk over loopback as hosts do over a network:

    python -m experiments.multihost_dp --processes 2 --states 200_000

On real hosts, the same on each, with its own number:

    python -m experiments.multihost_dp --processes 2 --process-id 0 --coordinator host0:29500 --folder /shared/run

When a process dies, the others end with an error: within 30 seconds of its death, at once where it was process 0,
within 80 where it had not joined them yet. With --folder the same command, with as many processes as there are then,
goes on from the last checkpoint, to the same certificate.
"""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from experiments import multihost_worker as worker
from experiments import record

# Seconds that processes have to end by themselves when one has died: `hosts.HEARTBEAT` and some.
GRACE = 60


def main(
    *,
    states: int = 200_000,
    actions: int = 8,
    successors: int = 16,
    gamma: float = 0.99,
    tol: float = 1e-6,
    solver: Literal["value", "modified", "inexact"] = "value",
    processes: int = 2,
    devices: int = 1,
    process_id: int | None = None,
    coordinator: str | None = None,
    folder: Path | None = None,
    every: int = 20,
    seed: int = 0,
    out: Path = Path("results/multihost_dp"),
) -> dict:
    """Build a garnet shard by shard over several processes and solve it to a certified tol in float64.

    Args:
        states: of the MDP; processes times devices must divide it.
        actions: of each state.
        successors: of each state and action.
        gamma: discount rate.
        tol: largest width of the bounds, in units of reward.
        solver: value iteration, or modified or inexact policy iteration.
        processes: how many take part.
        devices: of each process.
        process_id: which of them this is; default: start all of them here.
        coordinator: host:port of process 0, where others can reach it.
        folder: for checkpoints, seen by all processes; a run that was killed goes on from there.
        every: iterations between checkpoints.
        seed: of the MDP.
        out: folder for metrics.json, written by process 0.
    """
    arguments = locals()
    record.require(processes >= 1 and devices >= 1, f"need processes and devices >= 1, got {processes}, {devices}")
    record.require(
        states >= 1 and states % (processes * devices) == 0,
        f"states must be a multiple of processes times devices, {processes * devices}, got {states}",
    )
    record.require(actions >= 1 and 1 <= successors <= states, f"need actions >= 1, 1 <= successors <= {states}")
    record.require(0 <= gamma < 1 and tol > 0, f"need 0 <= gamma < 1 and tol > 0, got {gamma} and {tol}")
    record.require(every >= 1, f"every must be at least 1, got {every}")
    record.require((process_id is None) == (coordinator is None), "process_id and coordinator go together")
    record.require_run(seed, out)
    if process_id is None:
        launch(arguments)
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    record.require(0 <= process_id < processes, f"process_id must be 0 to {processes - 1}, got {process_id}")
    return worker.work(**arguments)


def launch(arguments: dict) -> None:
    """Start all processes, wait for them, and end those that are left where one has died."""
    port = free_port()
    # Children run where the package is, whatever folder this was started in.
    given = {
        name: value.absolute() if isinstance(value, Path) else value
        for name, value in arguments.items()
        if value is not None
    }
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    places = [["--process-id", str(i), "--coordinator", f"127.0.0.1:{port}"] for i in range(arguments["processes"])]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "experiments.multihost_dp", *words, *own],
            cwd=Path(__file__).parents[1],
        )
        for own in places
    ]
    died = None
    try:
        while any(child.poll() is None for child in children):
            failed = [i for i, child in enumerate(children) if child.poll() not in (None, 0)]
            if failed and died is None:
                died = time.monotonic()
            if died is not None and time.monotonic() - died > GRACE:
                break
            time.sleep(0.05)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
    ends = [child.returncode for child in children]
    killed = [f"process {i} was killed (signal {-end})" for i, end in enumerate(ends) if end == -9]
    record.require(
        not any(ends),
        (", ".join(killed) or f"processes ended with {ends}: what went wrong is above")
        + "; with --folder the same command goes on from the last checkpoint",
    )


def free_port() -> int:
    """Return a port of this machine that nobody listens at now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


if __name__ == "__main__":
    record.command(main)

"""One solver of finite MDPs and one model in a process of its own."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.bench_process import Failed as Failed
from experiments.bench_process import Process, peak_megabytes, serve
from experiments.bench_process import cores as cores
from experiments.bench_process import pinned as pinned


class Worker(Process):
    """A contender of `bench_peers` on the tables in a folder. `built` says how long it took to put its model together.

    Raises Failed where it cannot.
    """

    def __init__(
        self,
        contender: str,
        folder: Path,
        *,
        tol: float,
        on: Sequence[int],
        limit: float,
        python: str = sys.executable,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start it and wait until the model is built."""
        arguments, variables = [contender, str(folder), repr(tol)], {"JAX_ENABLE_X64": "1"} | (environment or {})
        super().__init__(
            "experiments.bench_worker", arguments, on=on, limit=limit, python=python, environment=variables
        )

    def run(self, calls: int = 1) -> dict[str, Any]:
        """Solve so many times; return iterations, claims, peak memory so far, and the mean seconds of a call.

        wall: with what is not the solver's, such as a new model where the last one cannot be used again.
        """
        return self.ask({"calls": calls})

    def values(self, path: Path) -> None:
        """Have the last values written to a .npy file."""
        self.ask({"values": str(path)})


def prepare(contender: str, folder: str, tol: str) -> tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]:
    """Build the model; return how long it took, and the function that answers requests."""
    import numpy as np

    from experiments import bench_peers, instances

    tables = instances.load(Path(folder))
    start = time.perf_counter()
    run = bench_peers.CONTENDERS[contender](tables, float(tol))
    del tables
    values = np.zeros(0)

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal values
        if "values" in request:
            np.save(request["values"], values)
            return {"written": True}
        taken, calls, last, start = 0.0, request["calls"], None, time.perf_counter()
        for _ in range(calls):
            last = run()
            taken += last.seconds
        wall = (time.perf_counter() - start) / calls
        assert last is not None
        values = last.v
        message = {"seconds": taken / calls, "wall": wall, "peak_MB": peak_megabytes()}
        return message | {"iterations": last.iterations} | last.claims

    return {"seconds": time.perf_counter() - start, "peak_MB": peak_megabytes()}, handle


if __name__ == "__main__":
    serve(lambda: prepare(*sys.argv[1:]))

"""One solver and one model in a process of its own, that answers requests: so two can take turns on the same cores.

The parent fixes the cores and the number of threads before the child starts, and ends it where it takes too long.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Failed(Exception):
    """A solver that is missing, raised, or was too slow: the message is for the table.

    solving: seconds after which a call of the solver was cut off; None where it ended in another way.
    """

    solving: float | None = None


def cores() -> list[int]:
    """Return the cores that this process may use; [] where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextlib.contextmanager
def pinned(to: Sequence[int]) -> Iterator[dict[str, str]]:
    """Pin this process for a while, so that children inherit it; yield the environment that says how many threads."""
    before = cores()
    if before and to:
        os.sched_setaffinity(0, to)
    try:
        yield os.environ | dict.fromkeys(THREADS, str(max(1, len(to))))
    finally:
        if before:
            os.sched_setaffinity(0, before)


class Worker:
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
        self.limit = limit
        root = Path(__file__).parents[1]
        with pinned(on) as variables:
            variables |= {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)} | (environment or {})
            command = [python, "-W", "ignore", "-m", "experiments.bench_worker", contender, str(folder), repr(tol)]
            self.process = subprocess.Popen(
                command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        self.built = self._answer()

    def run(self, calls: int = 1) -> dict[str, Any]:
        """Solve so many times; return iterations, claims, peak memory so far, and the mean seconds of a call.

        wall: with what is not the solver's, such as a new model where the last one cannot be used again.
        """
        return self._ask({"calls": calls})

    def values(self, path: Path) -> None:
        """Have the last values written to a .npy file."""
        self._ask({"values": str(path)})

    def close(self) -> None:
        """End it."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise Failed("the process ended") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], self.limit)
        line = self.process.stdout.readline() if ready else b""
        answer = json.loads(line) if line else {}
        if not answer or "failed" in answer:
            late = not ready
            self.close()
            failure = Failed(f"more than {self.limit:g} s" if late else answer.get("failed", "the process ended"))
            failure.solving = self.limit if late and hasattr(self, "built") else None
            raise failure
        return answer


def peak_megabytes() -> float:
    """Return the largest resident memory of this process so far.

    Not `resource.getrusage`: there a child starts with the peak of the parent.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float("nan")


def serve(contender: str, folder: str, tol: str) -> None:
    """Build the model, then answer requests until the input ends."""
    # What libraries print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        import numpy as np

        from experiments import bench_peers, instances

        tables = instances.load(Path(folder))
        start = time.perf_counter()
        run = bench_peers.CONTENDERS[contender](tables, float(tol))
        del tables
        answer({"seconds": time.perf_counter() - start, "peak_MB": peak_megabytes()})
        values = np.zeros(0)
        for line in sys.stdin:
            request = json.loads(line)
            if "values" in request:
                np.save(request["values"], values)
                answer({"written": True})
                continue
            taken, calls, last, start = 0.0, request["calls"], None, time.perf_counter()
            for _ in range(calls):
                last = run()
                taken += last.seconds
            wall = (time.perf_counter() - start) / calls
            assert last is not None
            values = last.v
            message = {"seconds": taken / calls, "wall": wall, "peak_MB": peak_megabytes()}
            answer(message | {"iterations": last.iterations} | last.claims)
    except ImportError as error:
        answer({"failed": f"not installed: {error.name}"})
    except NotImplementedError as error:
        answer({"failed": str(error)})
    except Exception as error:
        answer({"failed": type(error).__name__})


if __name__ == "__main__":
    serve(*sys.argv[1:])

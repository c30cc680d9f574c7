"""A process that answers requests line by line, pinned to some cores: so two can take turns on the same ones.

The parent fixes the cores and the number of threads before the child starts, and ends it where it takes too long.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

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


class Process:
    """A module of this package, run with some arguments. `built` is its first answer.

    Raises Failed where it cannot start.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        on: Sequence[int],
        limit: float,
        python: str = sys.executable,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start it and wait until it is ready."""
        self.limit = limit
        root = Path(__file__).parents[1]
        with pinned(on) as variables:
            variables |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)} | (environment or {})
            command = [python, "-W", "ignore", "-m", module, *arguments]
            self.process = subprocess.Popen(
                command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        self.built = self.answer()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise Failed("the process ended") from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for a line; raise Failed where none comes in time, or it says that something failed."""
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


def serve(prepare: Callable[[], tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]]) -> None:
    """In the child: prepare, say so, then answer requests until the input ends."""
    # What libraries print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        ready, handle = prepare()
        answer(ready)
        for line in sys.stdin:
            answer(handle(json.loads(line)))
    except ImportError as error:
        answer({"failed": f"not installed: {error.name}"})
    except NotImplementedError as error:
        answer({"failed": str(error)})
    except Exception as error:
        answer({"failed": type(error).__name__})

"""The one form in which every library is called: `prepare(tables, tol) -> run`; every `run()` solves from the start."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.instances import Tables

EVER = 10**6  # iterations: the clock is to end a run, not a count


class Call(NamedTuple):
    """What one call took and found.

    seconds: of the solver alone, without putting the model together. iterations: as the library counts them.
    claims: what else it says about its answer.
    """

    seconds: float
    v: np.ndarray
    iterations: int | None
    claims: dict[str, Any]


Run = Callable[[], Call]
Prepare = Callable[[Tables, float], Run]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that it took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call, the first one left out."""
    work()
    return statistics.median(timed(work)[0] for _ in range(repeats))

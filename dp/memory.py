"""Memory foreseen: a model that does not fit is refused before it is made, instead of killed while it is.

What a door allocates follows from shapes. Each asks `require` before it begins, with an estimate of its peak on the
host beyond its arguments, NumPy's copies and the arrays of JAX on a CPU together. The bytes per number were measured;
they are right to about a fifth. Where nothing is known of the host, nothing is refused. The one switch:

    with dp.memory.limit(None): ...         no refusal
    with dp.memory.limit(2e9): ...          refuse what takes more than 2 GB at a time, whatever the host has
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

# Below this the host is not asked: models are often small and many.
NEGLIGIBLE = 1 << 26

SPARSER = "dp.from_successors and dp.from_choices store only what is not 0"
SPREAD = "dp.from_shards builds a model part by part, spread over devices and hosts"

# What is allowed: a number of bytes, None for any, or "host" for what the host has free.
_limit: ContextVar[int | float | str | None] = ContextVar("limit", default="host")


@contextlib.contextmanager
def limit(allowed: int | float | None) -> Iterator[None]:
    """Refuse models by this number of bytes instead of by what the host has free; None refuses none."""
    if allowed is not None and not allowed >= 0:
        raise ValueError(f"a limit must be a number of bytes or None, got {allowed}")
    token = _limit.set(allowed)
    try:
        yield
    finally:
        _limit.reset(token)


def require(needed: int, what: str, advice: str) -> None:
    """Raise MemoryError where `what` takes more bytes than there are, naming both numbers, and what to do."""
    allowed = _limit.get()
    if allowed == "host":
        allowed = None if needed < NEGLIGIBLE else available()
    if allowed is None or needed <= float(allowed):
        return
    there = "this host has" if _limit.get() == "host" else "the limit is"
    raise MemoryError(
        f"{what} takes about {_readable(needed)} at its peak and {there} {_readable(float(allowed))}: {advice}; "
        "to go ahead all the same, `with dp.memory.limit(None):`"
    )


def dense(numbers: int, item: int) -> int:
    """Return the bytes that `make_mdp` takes for so many numbers of P, of `item` bytes each: a copy, P and checks."""
    return (2 * item + 1) * numbers


def successors(slots: int, item: int) -> int:
    """Return the bytes that `from_successors` takes for S A K pairs of a successor and its probability."""
    return (2 * (4 + item) + 4) * slots


def choices(entries: int, rows: int, item: int) -> int:
    """Return the bytes that `from_choices` takes for so many entries in so many rows: it sorts, merges and groups."""
    return (36 + 8 * item) * entries + 72 * rows


def steps(rows: int, item: int) -> int:
    """Return the bytes that `from_step` takes for S A rows: what is checked of each, and R."""
    return (5 * item + 14) * rows


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes that a process on this host can still take: MemAvailable, or what its control groups leave.

    None where the system does not say. root: where the system's files are.
    """
    found = [_available_of_host(root / "proc/meminfo"), *_left_by_groups(root)]
    return min((x for x in found if x is not None), default=None)


def _available_of_host(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(amount.split()[0])
    return None


def _left_by_groups(root: Path) -> Iterator[int | None]:
    """Yield what each control group that holds this process, version 1 or 2, leaves of its limit."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, most, used, cached = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, most, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        # Every group above limits too. Seen from inside a container the path may not exist; the mount itself does.
        group = Path(path.strip("/"))
        for part in {group, *group.parents, Path()}:
            folder = root / mount / part
            yield _left(_number(folder / most), _number(folder / used), folder / "memory.stat", cached)


def _left(most: int | None, used: int | None, stat: Path, cached: str) -> int | None:
    if most is None or used is None:
        return None
    # Pages of files that nobody has touched lately count as used and are given back on demand.
    dropped = next((int(line.split()[1]) for line in _lines(stat) if line.split()[:1] == [cached]), 0)
    return max(most - used + dropped, 0)


def _number(path: Path) -> int | None:
    """Return the number in a file; None where there is none, as for `max`."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _readable(size: int | float) -> str:
    unit = next((unit for unit in (1e12, 1e9, 1e6, 1e3) if size >= unit), 1)
    name = {1e12: "TB", 1e9: "GB", 1e6: "MB", 1e3: "kB", 1: "bytes"}[unit]
    return f"{size / unit:,.3g} {name}" if size / unit < 1000 else f"{size / unit:,.0f} {name}"

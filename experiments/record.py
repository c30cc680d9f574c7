"""What every experiment shares: a command line, a clock that separates compiling from running, and one record on disk.

An experiment is `main(*, seed=0, ..., out=Path(...)) -> dict`. It calls `require` on its arguments, computes, draws
figures in memory and ends with `return write(out, ...)`. Nothing touches the disk before that last line, and then
everything appears at once: a run that fails or is interrupted leaves no partial result.
"""

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console()

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")


def command(main: Callable[..., dict]) -> None:
    """Run `main` from the command line; an impossible argument ends in one line on stderr and exit status 2."""
    try:
        tyro.cli(main)
    except (ValueError, OSError, MemoryError, ArithmeticError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted; no metrics.json was written, and --resume goes on where there are checkpoints")


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_run(seed: int, out: Path) -> None:
    """Refuse a seed that is none; find out before an hour of training, not after it, that nothing can be written."""
    require(0 <= seed < 2**32, f"seed must be 0 to {2**32 - 1}, got {seed}")
    require(out.name != "", "out must name a folder")
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryDirectory(dir=parent):
            require(not out.exists() or out.is_dir(), f"out = {str(out)!r} is a file")
    except OSError as error:
        raise ValueError(f"out = {str(out)!r}: cannot write a folder inside {parent} ({error.strerror})") from None


class Clock:
    """Seconds spent compiling and seconds spent running, apart.

    `clock(f, *args)` compiles `f` for these arguments, runs it to the end and returns its result.
    `clock.compile(f, *args)` returns the compiled function, each call of which is timed.
    """

    def __init__(self) -> None:
        """Start both counts at zero."""
        self.compile_seconds = 0.0
        self.run_seconds = 0.0

    def compile(self, function: Callable, *args: Any) -> Callable:
        """Compile `function` for the shapes and dtypes of `args`."""
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*args).compile()
        self.compile_seconds += time.perf_counter() - start

        def run(*args: Any) -> Any:
            start = time.perf_counter()
            result = jax.block_until_ready(compiled(*args))
            self.run_seconds += time.perf_counter() - start
            return result

        return run

    def __call__(self, function: Callable, *args: Any) -> Any:
        """Compile and run once."""
        return self.compile(function, *args)(*args)


def progress() -> Progress:
    """Return a progress bar with count, elapsed and remaining time; silent where the terminal is not one."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def write(
    out: Path,
    *,
    arguments: Mapping[str, Any],
    metrics: Mapping[str, Any],
    figures: Mapping[str, Figure],
    clock: Clock,
    dtype: str,
    pages: Mapping[str, str] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Write `metrics.json`, a PNG per figure, a file per page (text or HTML) and an .npz per array into `out`.

    Returns the record, which is what metrics.json holds.
    """
    record = {
        "arguments": _plain(arguments),
        "metrics": _plain(metrics),
        "figures": [f"{name}.png" for name in figures],
        "seconds": {"compile": round(clock.compile_seconds, 3), "run": round(clock.run_seconds, 3)},
        "dtype": dtype,
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "git_commit": git_commit(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        staged = Path(folder)
        for name, figure in figures.items():
            figure.savefig(staged / f"{name}.png", dpi=120)
        for name, text in (pages or {}).items():
            (staged / name).write_text(text, encoding="utf-8")
        for name, array in (arrays or {}).items():
            np.savez_compressed(staged / f"{name}.npz", array)
        (staged / "metrics.json").write_text(
            json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        out.mkdir(exist_ok=True)
        # metrics.json last: where it lies, the files it names lie too.
        for path in sorted(staged.iterdir(), key=lambda p: p.name == "metrics.json"):
            shutil.move(path, out / path.name)
    files = "metrics.json", *record["figures"], *(pages or {}), *(f"{name}.npz" for name in arrays or {})
    console.print("wrote", ", ".join(str(out / name) for name in files))
    return record


def git_commit() -> str | None:
    """Return the commit of the source tree, with "+" when it has uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        changes = subprocess.run(
            ["git", "-C", here, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")


def _plain(value: Any) -> Any:
    """Arrays, paths and tuples as JSON; a number JSON cannot hold becomes its name, as a string."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value

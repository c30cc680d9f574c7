"""A folder of checkpoints: which are whole, what they hold, and how one more is written and old ones go.

Process 0 looks and decides, and tells the others: if each looked for itself, those that can read would wait for one
that cannot. Nothing but `dsm.checkpoint` imports this.
"""

import math
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from .seal import NAME, UNSEALED, broken, seal
from .training import TrainingState

try:
    import orbax.checkpoint as ocp
except ImportError as error:
    raise ImportError("dsm.checkpoint needs orbax-checkpoint: pip install 'dsm-dp[checkpoint]'") from error

WHOLE, UNFINISHED, DAMAGED = range(3)


class Found(NamedTuple):
    """What a folder holds."""

    steps: list[int]
    """In ascending order."""
    verdicts: list[int]
    reasons: list[str | None]
    """What is wrong with each; process 0 alone knows it."""

    @property
    def whole(self) -> list[int]:
        """The steps of whole checkpoints."""
        return [step for step, verdict in zip(self.steps, self.verdicts, strict=True) if verdict == WHOLE]


def require_writable(folder: Path) -> None:
    """Make the folder; raise ValueError unless something can be written into it."""
    reason = ""
    if jax.process_index() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0")
        except OSError as error:
            reason = error.strerror or str(error)
    if _told([reason != ""])[0]:
        raise ValueError(f"folder = {str(folder)!r}: cannot write into it ({reason or 'see what process 0 says'})")


def look(manager: ocp.CheckpointManager) -> Found:
    """Look at every checkpoint. Raises ValueError where there are some, none is whole, and one was once."""
    steps = sorted(manager.all_steps())
    reasons = [broken(_path(manager, step)) if jax.process_index() == 0 else None for step in steps]
    verdicts = _told([WHOLE if x is None else UNFINISHED if x == UNSEALED else DAMAGED for x in reasons])
    if WHOLE not in verdicts and DAMAGED in verdicts:
        first = next((x for x in reasons if x not in (None, UNSEALED)), "see what process 0 says")
        raise ValueError(f"no checkpoint in {manager.directory} is whole: {first}")
    return Found(steps, verdicts, reasons)


def clear(manager: ocp.CheckpointManager, found: Found) -> None:
    """Delete what is not whole, with a warning."""
    newest = max(found.whole, default=-1)
    onwards = f"going on from step {newest}" if found.whole else "beginning anew"
    for step, verdict, reason in zip(*found, strict=True):
        # An old one without a seal was being deleted, which is no news.
        if reason is not None and (verdict == DAMAGED or step > newest):
            warnings.warn(
                f"the checkpoint of {step} steps in {manager.directory} is broken and deleted, {reason}: {onwards}",
                stacklevel=3,
            )
        if verdict != WHOLE:
            manager.delete(step)


def write(manager: ocp.CheckpointManager, step: int, state: TrainingState, about: dict[str, Any]) -> None:
    """Write a checkpoint, then its seal."""
    arguments = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), about=ocp.args.JsonSave(about))
    if not manager.save(step, args=arguments):
        raise OSError("orbax declined")
    if jax.process_index() == 0:
        seal(_path(manager, step))


def read_about(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Return what was written beside a state."""
    restored: Any = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
    return restored["about"]


def read_state(manager: ocp.CheckpointManager, step: int, like: TrainingState) -> TrainingState:
    """Return a state, laid out over devices like another one."""
    expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like._asdict())
    restored: Any = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(expected)))
    return TrainingState(**restored["state"])


def thin_out(manager: ocp.CheckpointManager, kept: dict[int, Any], keep: int, best: str | None) -> None:
    """Delete all but the newest ones and the best one, from the disk and from `kept`."""
    steps = sorted(kept)
    wanted = {*steps[-keep:], least(kept, best)}
    for step, stays in zip(steps, _told([step in wanted for step in steps]), strict=True):
        if not stays:
            # The seal goes first, so that half a checkpoint is never taken for a whole one.
            if jax.process_index() == 0:
                (_path(manager, step) / NAME).unlink()
            manager.delete(step)
            del kept[step]


def least(kept: dict[int, Any], name: str | None) -> int | None:
    """Return the first step where the number of this name is least, None where it is nowhere."""
    numbers = {step: about["numbers"].get(name, math.nan) for step, about in sorted(kept.items())}
    return min((step for step in numbers if not math.isnan(numbers[step])), key=numbers.__getitem__, default=None)


def _told(numbers: list[int] | list[bool]) -> list[int]:
    """Return what process 0 holds."""
    return multihost_utils.broadcast_one_to_all(np.asarray(numbers, np.int32)).tolist()


def _path(manager: ocp.CheckpointManager, step: int) -> Path:
    return Path(manager.directory) / str(step)

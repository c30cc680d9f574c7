"""Training that survives: a run that is killed at any moment goes on from its last checkpoint, to the same bits.

    from dsm import checkpoint
    state = checkpoint.fit(key, state, data, "run", batch_loss=loss, optimizer=adam, batch_size=128, num_steps=100_000)

The run goes in chunks (`dsm.chunks`). After each its state is written by orbax, into a folder that gets its name when
all is there and then a seal with the hashes of all files (`dsm.seal`). Only then are older ones deleted, their seals
first. So whatever is cut short shows its damage, and at worst the work of one chunk is lost.

Needs orbax-checkpoint: `pip install 'dsm-dp[checkpoint]'`.
"""

import hashlib
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Key, Num

from . import checkpoint_folder as folders
from . import chunks, training
from .chunks import Chunk, Evaluate, Report
from .training import BatchLoss, TrainingInfo, TrainingState

try:
    import orbax.checkpoint as ocp
except ImportError as error:
    raise ImportError("dsm.checkpoint needs orbax-checkpoint: pip install 'dsm-dp[checkpoint]'") from error


# Names of what is compared of each array of a state begin so.
SHAPE = "shape of "


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainingState
    numbers: dict[str, float]
    """What `evaluate` found then."""


def fit(
    key: Key[Array, ""],
    state: TrainingState,
    data: Num[Array, "N *shape"],
    folder: str | Path,
    *,
    batch_loss: BatchLoss,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    num_steps: int,
    ema_decay: float | Float[Array, ""] = 0.999,
    every: int = 1000,
    keep: int = 3,
    evaluate: Evaluate | None = None,
    best: str | None = None,
    about: Mapping[str, Any] | None = None,
    report: Report | None = None,
    fit: Callable[..., tuple[TrainingState, TrainingInfo]] = training.fit,
) -> TrainingState:
    """`training.fit` until state.step = num_steps, with a checkpoint in `folder` after every `every` steps.

    Where `folder` holds checkpoints of this run, it goes on from the newest one and `state` only says what is where.
    The end has the bits of a run that nobody interrupted, on the same device or mesh. It may go on with another number
    of devices; a sum over a batch is then taken in another order, and the rest agrees to rounding, as the whole run
    would. So it does on another kind of device or with another version of the compiler.

    keep: how many of the newest checkpoints to keep, at least 2, since the newest may prove to be damaged.
    best: a number of `evaluate(state)`; the checkpoint where it was least (the first of equals) is kept as well, see
        `restore`. What is not a number is never best.
    about: settings that make another run, such as {"learning_rate": 1e-3}, in terms of JSON. An optimiser is a pair of
        functions and does not tell them. The key, the data, batch_size, ema_decay and the shapes and dtypes of
        parameters and optimiser are always compared; num_steps and every are not, so a run may be made longer.
    report: called with a `chunks.Chunk` before the first chunk here, and after each before it is saved. So what it
        wrote about steps after the state that it is called with at first is to be forgotten.
    evaluate, fit: see `chunks.fit`.

    With several processes all call this with the same folder, which all of them see; state, key and data are laid out
    over the mesh of `batch_loss`. Process 0 says which checkpoints are whole. Two runs must not share a folder.

    `key` is consumed by the whole run; a digest of it is stored. Warns where a checkpoint is broken: it is deleted and
    an older one taken. Raises ValueError where there are some and none is whole, where they are of another run, naming
    what differs, and where nothing can be written into `folder`, before the first step; OSError where a save fails,
    FloatingPointError where a loss is not finite. The last two name the last checkpoint, which is left as it is.
    """
    for name, value, least in (("every", every, 1), ("keep", keep, 2)):
        if value < least:
            raise ValueError(f"{name} = {value}: at least {least}")
    if best is not None and evaluate is None:
        raise ValueError(f"best = {best!r}: it needs evaluate")
    folder = Path(folder).absolute()
    folders.require_writable(folder)
    key, state, data = chunks.placed((key, state, data), batch_loss)
    run = _fingerprint(key, data, batch_size, ema_decay, about or {}) | _shapes(state)
    options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder, options=options) as manager:
        found = folders.look(manager)
        kept = {step: folders.read_about(manager, step) for step in found.whole}
        start = Chunk(state, None, {})
        if kept:
            newest = max(kept)
            _refuse_another(folder, kept[newest]["run"], run)
            start = Chunk(folders.read_state(manager, newest, state), None, kept[newest]["numbers"])
        folders.clear(manager, found)

        def tell(chunk: Chunk) -> None:
            if report is not None:
                report(start if chunk.infos is None else chunk)

        def save(chunk: Chunk) -> None:
            step, about = int(chunk.state.step), {"run": run, "numbers": chunk.numbers}
            try:
                folders.write(manager, step, chunk.state, about)
                kept[step] = about
                folders.thin_out(manager, kept, keep, best)
            except Exception as error:
                # TensorStore tells all its settings.
                reason = textwrap.shorten(str(error), 400)
                message = f"the checkpoint of {step} steps could not be saved ({reason}); {_last(folder, kept)}"
                raise OSError(message) from error

        try:
            return chunks.fit(
                key,
                start.state,
                data,
                batch_loss=batch_loss,
                optimizer=optimizer,
                batch_size=batch_size,
                num_steps=num_steps,
                ema_decay=ema_decay,
                every=every,
                evaluate=evaluate,
                report=tell,
                save=save,
                fit=fit,
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {_last(folder, kept)}") from error


def restore(folder: str | Path, state: TrainingState, *, best: str | None = None) -> Restored:
    """The newest whole checkpoint in `folder`, or of those that are kept the one where the number `best` was least.

    `state` says shapes, dtypes and devices, as does `training.init`. Nothing is deleted or written. Raises ValueError
    where there is none, or where parameters or optimiser have other shapes or dtypes, naming what differs.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise ValueError(f"folder = {str(folder)!r}: there is none")
    state = jax.tree.map(jnp.asarray, state)
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(create=False)) as manager:
        kept = {step: folders.read_about(manager, step) for step in folders.look(manager).whole}
        step = max(kept, default=None) if best is None else folders.least(kept, best)
        if step is None:
            raise ValueError(f"{folder} holds no whole checkpoint" + (f" with the number {best!r}" if best else ""))
        there = {name: x for name, x in kept[step]["run"].items() if name.startswith(SHAPE)}
        _refuse_another(folder, there, _shapes(state))
        return Restored(folders.read_state(manager, step, state), kept[step]["numbers"])


def _shapes(state: TrainingState) -> dict[str, str]:
    """Return what each array of parameters and optimiser looks like, by its name."""
    named = {"params": state.params, "optimiser": state.opt_state}
    return {
        SHAPE + name + jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}"
        for name, tree in named.items()
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _fingerprint(key, data, batch_size: int | None, ema_decay, about: Mapping[str, Any]) -> dict[str, Any]:
    own = {
        "key": _digest(jax.random.key_data(key)),
        "size of data": f"{data.dtype}{list(data.shape)}",
        "data": _digest(data),
        "batch_size": batch_size,
        "ema_decay": float(ema_decay),
    }
    for name in about:
        if name in own or name.startswith(SHAPE):
            raise ValueError(f"about = {dict(about)}: {name!r} is compared anyway")
    # Settings first: where they differ, a key or data may as well, and a digest says little. As it will be when read.
    return json.loads(json.dumps(dict(about) | own))


def _digest(x: Array) -> str:
    if not (x.is_fully_addressable or x.is_fully_replicated):
        x = multihost_utils.process_allgather(x, tiled=True)
    array = np.ascontiguousarray(x)
    return hashlib.blake2b(array.reshape(-1).view(np.uint8).data, digest_size=8).hexdigest()


def _refuse_another(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    missing = "nothing"
    for name in [*here, *there]:
        a, b = there.get(name, missing), here.get(name, missing)
        if a != b:
            raise ValueError(
                f"{folder} holds checkpoints of another run: {name} is {a} there and {b} here; this one needs another "
                "folder"
            )


def _last(folder: Path, kept: dict[int, Any]) -> str:
    return f"the last checkpoint in {folder} has {max(kept)} steps" if kept else f"there is no checkpoint in {folder}"

"""A training run as a person sees it: a bar that moves, a file that grows, and a folder that survives a kill.

With a folder there are checkpoints (`dsm.checkpoint`) and `metrics.jsonl`, one line of JSON for every chunk of steps.
A run that was killed and goes on ends with the same parameters and the same lines, but for the times in them.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Key
from rich.progress import Progress

from dsm import chunks, training
from experiments import record
from experiments.record import Clock

CHUNKS = 20
LINES = "metrics.jsonl"
CHECKPOINTS = "checkpoints"

Evaluate = Callable[[Key[Array, ""], Any, Any], Mapping[str, Array]]


class Trained(NamedTuple):
    """What a run leaves."""

    state: training.TrainingState
    losses: np.ndarray
    """Of every step taken here, not of those before a restart."""
    lines: list[dict[str, Any]]
    """Those of metrics.jsonl, of the whole run."""


class Evaluation(NamedTuple):
    """What is measured on data that nothing is trained on.

    measure: `measure(key, params, heldout) -> numbers by name`; it is jitted, and gets the averaged parameters.
    key: the same every time, so that the numbers differ by the parameters alone.
    every: chunks between two evaluations; the last state is always evaluated.
    best: name of the number whose least value marks a checkpoint that is kept.
    """

    measure: Evaluate
    key: Key[Array, ""]
    heldout: Any
    every: int = 1
    best: str | None = None


def optimizer(
    learning_rate: float, steps: int, *, warmup: int = 0, clip: float | None = None
) -> optax.GradientTransformation:
    """Return Adam, with a rate that rises from 0 for `warmup` steps and then falls to 0 along a cosine.

    clip: norm to which longer gradients are cut. The rate of the last step stands in the state, where `train` finds it.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0 if warmup else learning_rate, learning_rate, warmup, steps)
    adam = optax.inject_hyperparams(optax.adam)(rate)
    whole = adam if clip is None else optax.chain(optax.clip_by_global_norm(clip), adam)

    def init(params: Any) -> Any:
        # Schedules mix Python floats with integer counts; `training.step` takes care of the update in this way.
        with jax.numpy_dtype_promotion("standard"):
            return whole.init(params)

    return optax.GradientTransformation(init, whole.update)


def train(
    clock: Clock,
    bar: Progress,
    name: str,
    key: Key[Array, ""],
    params: Any,
    data: Float[Array, "N *shape"],
    *,
    batch_loss: training.BatchLoss,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    steps: int,
    ema_decay: float = 0.999,
    every: int | None = None,
    evaluation: Evaluation | None = None,
    folder: Path | None = None,
    resume: bool = False,
    keep: int = 3,
    about: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Trained:
    """Run `steps` steps of `training.fit` under a progress bar, in chunks of `every` (default: 20 chunks).

    A mesh in `batch_loss` is used by all processes that call this; process 0 writes. Of a folder that already holds a
    run `resume` decides: to go on with it, or a ValueError. `about` names the settings that `dsm.checkpoint.fit` cannot
    see, such as the learning rate. `seed` is named where a loss is not finite, which raises FloatingPointError.
    """
    every = every or -(-steps // CHUNKS)
    lines = _Lines(folder, resume)
    if jax.process_index() == 0:
        record.console.print(f"{name}: {sum(x.size for x in jax.tree.leaves(params)):,} parameters")
    task = bar.add_task(name, total=steps, note="compiling")
    losses: list[np.ndarray] = []
    fit, seconds = _timed(clock)

    def report(chunk: chunks.Chunk) -> None:
        done = int(chunk.state.step)
        if chunk.infos is None:
            lines.begin(done)
            bar.update(task, completed=done)
            if resume and jax.process_index() == 0:
                record.console.print(f"{name}: going on from step {done} of {steps}")
            return
        losses.append(np.asarray(chunk.infos.loss))
        pace = len(losses[-1]) / seconds[-1]
        infos = {"loss": losses[-1], "grad_norm": np.asarray(chunk.infos.grad_norm)}
        line: dict[str, Any] = {"step": done} | {what: _number(x.mean(dtype=float)) for what, x in infos.items()}
        if (rate := _rate(chunk.state)) is not None:
            line["learning_rate"] = _number(rate)
        line["steps_per_second"] = _number(pace)
        if chunk.numbers:
            line["evaluation"] = {what: _number(x) for what, x in chunk.numbers.items()}
        lines.add(line)
        shown = "".join(f", {what} {x:.4g}" for what, x in chunk.numbers.items())
        bar.update(task, completed=done, note=f"loss {losses[-1].mean():.4g}, {pace:.3g} steps/s{shown}")

    measure = None if evaluation is None else _measured(clock, evaluation, batch_loss, every, steps)
    settings = {"batch_loss": batch_loss, "optimizer": optimizer, "batch_size": batch_size, "num_steps": steps}
    settings |= {"ema_decay": ema_decay, "every": every, "evaluate": measure, "report": report, "fit": fit}
    state = training.init(params, optimizer)
    # What was asked for comes before what follows from it: the first that differs is named.
    told = dict(about or {}) | {"steps": steps, "every": every}
    if evaluation is not None:
        told |= {"evaluation.every": evaluation.every}
    try:
        if folder is None:
            state = chunks.fit(key, state, data, **settings)
        else:
            from dsm import checkpoint

            best = evaluation and evaluation.best
            state = checkpoint.fit(key, state, data, folder / CHECKPOINTS, keep=keep, best=best, about=told, **settings)
    except FloatingPointError as error:
        raise FloatingPointError(str(error) if seed is None else f"{error}; seed {seed}") from error
    return Trained(state, np.concatenate([np.empty(0, np.float32), *losses]), lines.all)


def _timed(clock: Clock) -> tuple[Callable[..., Any], list[float]]:
    """Return `training.fit`, compiled apart from running, and the list of the seconds of its calls."""
    compiled: dict[int, Callable] = {}
    seconds: list[float] = []

    def fit(key: Any, state: Any, data: Any, *, num_steps: int, **settings: Any) -> Any:
        if num_steps not in compiled:
            compiled[num_steps] = clock.compile(
                lambda key, state, data: training.fit(key, state, data, num_steps=num_steps, **settings),
                key,
                state,
                data,
            )
        start = time.perf_counter()
        result = compiled[num_steps](key, state, data)
        seconds.append(time.perf_counter() - start)
        return result

    return fit, seconds


def _measured(
    clock: Clock, evaluation: Evaluation, batch_loss: training.BatchLoss, every: int, steps: int
) -> chunks.Evaluate:
    record.require(evaluation.every >= 1, f"evaluation.every must be at least 1, got {evaluation.every}")
    key, heldout = chunks.placed((evaluation.key, evaluation.heldout), batch_loss)
    compiled: list[Callable] = []

    def evaluate(state: training.TrainingState) -> Mapping[str, Any]:
        done = int(state.step)
        if done % (every * evaluation.every) and done < steps:
            return {}
        if not compiled:
            compiled.append(clock.compile(evaluation.measure, key, state.ema, heldout))
        return compiled[0](key, state.ema, heldout)

    return evaluate


class _Lines:
    """The lines of metrics.jsonl; kept in memory where there is no folder, written by process 0 where there is one."""

    def __init__(self, folder: Path | None, resume: bool) -> None:
        self.path = None if folder is None else folder / LINES
        self.all: list[dict[str, Any]] = []
        if folder is None:
            return
        there = jax.process_index() == 0 and ((folder / LINES).exists() or (folder / CHECKPOINTS).exists())
        # Process 0 says so for all: another may look when it has begun to write.
        if bool(multihost_utils.broadcast_one_to_all(np.asarray(there))) and not resume:
            raise ValueError(f"{folder} already holds a run: --resume to go on with it, or another folder")

    def begin(self, step: int) -> None:
        """Forget what was written after this step, and half a line at the end."""
        if self.path is None or jax.process_index() != 0:
            return
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole = [json.loads(line) for line in text.split("\n")[:-1]]
        self.all = [line for line in whole if line["step"] <= step]
        part = self.path.with_name(f"{LINES}.part")
        with part.open("w", encoding="utf-8") as file:
            file.writelines(_json(line) for line in self.all)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)

    def add(self, line: dict[str, Any]) -> None:
        """Write one more; the file is closed again, so that the line is there whatever happens next."""
        self.all.append(line)
        if self.path is not None and jax.process_index() == 0:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_json(line))


def _rate(state: training.TrainingState) -> Array | None:
    """Return the learning rate of the last step where the optimiser keeps it (`optax.inject_hyperparams`)."""
    return optax.tree.get(state.opt_state, "learning_rate", None, filtering=lambda path, x: isinstance(x, jax.Array))


def _json(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _number(x: Any) -> float | str:
    """Return a number as JSON has it; one that it does not have becomes its name."""
    return float(x) if math.isfinite(x) else str(float(x))

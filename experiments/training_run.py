"""Networks in training: a run in chunks, so that a bar can move in between, and the energy that parameters define."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from rich.progress import Progress

import dsm
from dsm import training
from experiments.record import Clock

CHUNKS = 20


def energy_of(network: dsm.EnergyMLP, params: Any) -> Callable[..., Array]:
    """Return the function E(x) of a network and its parameters."""
    apply: Any = network.apply
    return lambda x: apply(params, x)


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
) -> tuple[training.TrainingState, np.ndarray]:
    """Run `steps` steps of `training.fit` under a progress bar; return the state and the loss of every step.

    The steps are the bits of one long `fit`, whatever the chunks: the key of a step depends on its number alone.
    """
    chunk = -(-steps // CHUNKS)

    def fit(num_steps: int, state: training.TrainingState, data: Array) -> Any:
        return training.fit(
            key,
            state,
            data,
            batch_loss=batch_loss,
            optimizer=optimizer,
            batch_size=batch_size,
            num_steps=num_steps,
            ema_decay=ema_decay,
        )

    task = bar.add_task(name, total=steps, note="compiling")
    state = jax.jit(lambda p: training.init(p, optimizer))(params)
    compiled: dict[int, Any] = {}
    losses = []
    done = 0
    while done < steps:
        num = min(chunk, steps - done)
        if num not in compiled:
            compiled[num] = clock.compile(lambda state, data, num=num: fit(num, state, data), state, data)
        state, infos = compiled[num](state, data)
        losses.append(np.asarray(infos.loss))
        done += num
        bar.update(task, completed=done, note=f"loss {losses[-1].mean():.4g}")
    return state, np.concatenate(losses)

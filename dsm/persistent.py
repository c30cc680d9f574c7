"""Persistent contrastive divergence: chains that go on while the model is trained, kept in a replay buffer.

`init`, `step` and `fit` are those of `training`, with a buffer of chains in the state. Why training may diverge, and
what helps, is told in `contrastive`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Key, Num, PyTree

from . import training
from .boxes import Box
from .contrastive import Energy, contrast, negatives
from .energies import check_finite
from .training import TrainingInfo, TrainingState


class ReplayBuffer(NamedTuple):
    """The chains that go on from one step of training to the next."""

    x: Float[Array, "B *shape"]


class PersistentState(NamedTuple):
    """What a run carries from step to step, and all that is needed to resume it."""

    training: TrainingState
    buffer: ReplayBuffer


class ContrastiveInfo(NamedTuple):
    """What a step tells. All is measured before the update."""

    training: TrainingInfo
    energy_negatives: Float[Array, ""]
    """Mean energy of the negatives. That of the data is loss + this, where l2 = 0."""
    diverged: Float[Array, ""]
    """Share of the chains that went to inf or nan, and were put back to where they started."""


def advance(
    key: Key[Array, ""],
    energy: Energy,
    buffer: ReplayBuffer,
    *,
    num_chains: int,
    num_steps: int,
    step_size: float | Float[Array, ""],
    temperature: float | Float[Array, ""] = 1.0,
    box: Box | None = None,
    noise: Callable[[Key[Array, ""], int], Float[Array, "num *shape"]] | None = None,
    restart: float | Float[Array, ""] = 0.0,
) -> tuple[ReplayBuffer, Float[Array, "{num_chains} *shape"], Bool[Array, "{num_chains}"]]:
    """Draws num_chains different chains of the buffer, moves them by `negatives`, and puts them back.

    Each one drawn is first replaced, with probability `restart`, by a draw of `noise(key, num)`, the sampler of a
    target for instance. Returns the buffer, the chains that moved, and which of them diverged. num_chains = B and
    restart = 0 is the algorithm of Tieleman; Du and Mordatch keep 10^4 chains and restart 0.05 of those drawn.
    `key` is consumed. Raises ValueError unless 1 <= num_chains <= B, and restart, where known, lies in [0, 1], and
    is 0 without noise; further errors are those of `negatives`. Source: Tieleman (2008); Du and Mordatch (2019),
    Algorithm 1.
    """
    size = buffer.x.shape[0]
    if not 1 <= num_chains <= size:
        raise ValueError(f"num_chains = {num_chains}: the buffer has {size} chains to draw from")
    if not isinstance(restart, Tracer) and not 0 <= float(restart) <= 1:
        raise ValueError(f"restart = {restart}: it is a probability")
    if noise is None and (isinstance(restart, Tracer) or float(restart) > 0):
        raise ValueError(f"restart = {restart}: noise is missing, from which chains start again")
    key_rows, key_noise, key_restart, key_chains = jax.random.split(key, 4)
    # Without replacement: of two chains that go back to one row, one would be lost.
    rows = jax.random.choice(key_rows, size, (num_chains,), replace=False)
    start = buffer.x[rows]
    if noise is not None:
        fresh = noise(key_noise, num_chains)
        if (fresh.shape, fresh.dtype) != (start.shape, start.dtype):
            raise ValueError(
                f"noise draws {fresh.dtype}{list(fresh.shape)}: the chains are {start.dtype}{list(start.shape)}"
            )
        again = jax.random.bernoulli(key_restart, restart, (num_chains,) + (1,) * (start.ndim - 1))
        start = jnp.where(again, fresh, start)
    x, diverged = negatives(
        key_chains, energy, start, num_steps=num_steps, step_size=step_size, temperature=temperature, box=box
    )
    return ReplayBuffer(buffer.x.at[rows].set(x)), x, diverged


def init(params: PyTree, optimizer: optax.GradientTransformation, x: Float[Array, "B *shape"]) -> PersistentState:
    """The state before the first step; the chains of the buffer start at the rows of x, draws of noise or data.

    Raises ValueError if x is known and not finite.
    """
    check_finite("x", x)
    return PersistentState(training.init(params, optimizer), ReplayBuffer(x))


def step(
    key: Key[Array, ""],
    state: PersistentState,
    data: Num[Array, "N *shape"],
    *,
    energy: Callable[[PyTree, Float[Array, "*shape"]], Float[Array, ""]],
    move: Callable[[Key[Array, ""], Energy, ReplayBuffer], tuple[ReplayBuffer, Array, Array]],
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    l2: float | Float[Array, ""] = 0.0,
    ema_decay: float | Float[Array, ""] = 0.999,
) -> tuple[PersistentState, ContrastiveInfo]:
    """Persistent contrastive divergence: chains move under the parameters as they are, then a `training.step` on
    the `contrast` between a minibatch and the chains that moved.

    energy is `energy(params, x)`; move is `partial(advance, num_chains=..., num_steps=..., step_size=...)`, or what
    has its form. `key` is consumed. Errors are those of move, `contrast` and `training.step`.
    """
    key_chains, key_training = jax.random.split(key)
    model = partial(energy, state.training.params)
    buffer, x_negative, diverged = move(key_chains, model, state.buffer)

    def batch_loss(key, params, batch):
        return contrast(partial(energy, params), batch, x_negative, l2=l2)

    trained, info = training.step(
        key_training,
        state.training,
        data,
        batch_loss=batch_loss,
        optimizer=optimizer,
        batch_size=batch_size,
        ema_decay=ema_decay,
    )
    share = jnp.mean(diverged, dtype=x_negative.dtype)
    return PersistentState(trained, buffer), ContrastiveInfo(info, jnp.mean(jax.vmap(model)(x_negative)), share)


def fit(
    key: Key[Array, ""],
    state: PersistentState,
    data: Num[Array, "N *shape"],
    *,
    energy: Callable[[PyTree, Float[Array, "*shape"]], Float[Array, ""]],
    move: Callable[[Key[Array, ""], Energy, ReplayBuffer], tuple[ReplayBuffer, Array, Array]],
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    num_steps: int,
    l2: float = 0.0,
    ema_decay: float = 0.999,
) -> tuple[PersistentState, ContrastiveInfo]:
    """num_steps of `step` as one jitted scan. Returns the state and the infos of all steps, [num_steps] each.

    The step that starts from state.training.step = i uses the key fold_in(key, i), so a run in chunks has the bits
    of the whole. `key` is consumed by the whole run. Compiled once for each of the keyword arguments: make the
    functions outside loops. Errors are those of `step`, and a ValueError if num_steps < 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: at least one step is needed")
    check_finite("data", data)
    return _fit(key, state, data, energy, move, optimizer, batch_size, num_steps, l2, ema_decay)


@partial(jax.jit, static_argnames=("energy", "move", "optimizer", "batch_size", "num_steps", "l2", "ema_decay"))
def _fit(key, state, data, energy, move, optimizer, batch_size, num_steps, l2, ema_decay):
    def body(state, _):
        return step(
            jax.random.fold_in(key, state.training.step),
            state,
            data,
            energy=energy,
            move=move,
            optimizer=optimizer,
            batch_size=batch_size,
            l2=l2,
            ema_decay=ema_decay,
        )

    return jax.lax.scan(body, state, length=num_steps)

"""A run in chunks: between two of them it is evaluated, reported and saved, and it ends where it is no longer a number.

    state = chunks.fit(key, state, data, ..., num_steps=100_000, every=1000, evaluate=evaluate, report=report)

The steps are those of one long `training.fit`. `dsm.checkpoint.fit` is this with checkpoints.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Key, Num, PyTree

from . import training
from .energies import check_finite
from .training import BatchLoss, TrainingInfo, TrainingState

Evaluate = Callable[[TrainingState], Mapping[str, float]]


class Chunk(NamedTuple):
    """What is known between two chunks."""

    state: TrainingState
    infos: TrainingInfo | None
    """Of the steps of the chunk, [every] each; None where the run begins or goes on."""
    numbers: dict[str, float]
    """What `evaluate` found."""


Report = Callable[[Chunk], None]


def fit(
    key: Key[Array, ""],
    state: TrainingState,
    data: Num[Array, "N *shape"],
    *,
    batch_loss: BatchLoss,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    num_steps: int,
    ema_decay: float | Float[Array, ""] = 0.999,
    every: int = 1000,
    evaluate: Evaluate | None = None,
    report: Report | None = None,
    save: Report | None = None,
    fit: Callable[..., tuple[TrainingState, TrainingInfo]] = training.fit,
) -> TrainingState:
    """Steps until state.step = num_steps, in chunks that end where state.step is a multiple of `every`.

    After each chunk `evaluate(state)` gives numbers, perhaps none; then `report` and `save` are called with all that
    is known. `report` is called once before the first chunk too. `fit` is `training.fit`, or one that does the same
    in its own way, such as with a clock.

    With a mesh in `batch_loss` (see `training.per_example`), key, state and data are laid out over it, whole on every
    device, unless they are there already: so all chunks run one program, and the last one, if it is shorter, one like
    it. On another mesh a sum over a batch is taken in another order, and the run agrees to rounding only.

    `key` is consumed by the whole run. Raises FloatingPointError where a loss is not finite, or the parameters after
    a chunk are not; it names the step and the key, which are enough to repeat it, and that chunk is neither evaluated
    nor reported nor saved. Raises ValueError if every < 1, or state.step > num_steps, or as `training.fit` does.
    """
    if every < 1:
        raise ValueError(f"every = {every}: a chunk needs at least one step")
    check_finite("data", data)
    key, state, data = placed((key, state, data), batch_loss)
    done = int(state.step)
    if done > num_steps:
        raise ValueError(f"num_steps = {num_steps}: there are {done} steps already")
    if report is not None:
        report(Chunk(state, None, {}))
    while done < num_steps:
        num = min(every - done % every, num_steps - done)
        state, infos = fit(
            key,
            state,
            data,
            batch_loss=batch_loss,
            optimizer=optimizer,
            batch_size=batch_size,
            num_steps=num,
            ema_decay=ema_decay,
        )
        _refuse_what_is_no_number(key, done, state, infos)
        done += num
        numbers = {} if evaluate is None else {name: float(x) for name, x in evaluate(state).items()}
        for tell in (report, save):
            if tell is not None:
                tell(Chunk(state, infos, numbers))
    return state


def placed(tree: PyTree, batch_loss: BatchLoss) -> PyTree:
    """The same arrays, whole on every device of the mesh of `batch_loss` if it has one and they are not on it yet."""
    mesh = getattr(batch_loss, "mesh", None)

    def place(x):
        x = jnp.asarray(x)
        if mesh is None or (isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh):
            # Bound to where it is, as what has been read from a disk will be: otherwise that is compiled anew.
            return jax.device_put(x, x.sharding)
        return _everywhere(x, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(place, tree)


def _everywhere(x: Array, sharding: NamedSharding) -> Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_everywhere(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    # From the host, JAX lays an array over several processes, and sees to it that all hold the same.
    return jax.device_put(x if sharding.is_fully_addressable else np.asarray(x), sharding)


def _refuse_what_is_no_number(key, first: int, state: TrainingState, infos: TrainingInfo) -> None:
    losses, norms = np.asarray(infos.loss), np.asarray(infos.grad_norm)
    lost = np.flatnonzero(~np.isfinite(losses))
    if len(lost):
        what, step = f"the loss of step {first + lost[0]} is {losses[lost[0]]}", first + lost[0]
    elif not bool(_all_finite((state.params, state.ema))):
        lost = np.append(np.flatnonzero(~np.isfinite(norms)), len(norms) - 1)[0]
        what, step = f"the parameters after step {first + lost} are not finite", first + lost
        what += f" (its loss is {losses[lost]}, the norm of its gradient {norms[lost]})"
    else:
        return
    words = np.asarray(jax.random.key_data(key)).tolist()
    raise FloatingPointError(
        f"{what}; steps count from 0, and this one used fold_in(key, {step}) of the key with the data {words}"
    )


@jax.jit
def _all_finite(tree: Any) -> Bool[Array, ""]:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(x)) for x in floats]))

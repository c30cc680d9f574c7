"""The algorithm of Section 1(c): init / step / fit, the whole run one scan.

A batch loss is any function `batch_loss(key, params, batch) -> scalar`, differentiable in params. A loss for
one example, `loss(key, params, x) -> scalar`, becomes one by `per_example(loss)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, Num, PyTree

from .energies import check_finite

BatchLoss = Callable[[Key[Array, ""], PyTree, Num[Array, "n *shape"]], Float[Array, ""]]


class TrainingState(NamedTuple):
    """What a run carries from step to step, and all that is needed to resume it."""

    step: Int[Array, ""]
    """Steps done so far."""
    params: PyTree
    opt_state: PyTree
    ema: PyTree
    """Exponential moving average of params, the usual choice to sample from."""


class TrainingInfo(NamedTuple):
    """What a step tells."""

    loss: Float[Array, ""]
    """The loss of the minibatch, before the update."""
    grad_norm: Float[Array, ""]
    """Euclidean norm of its gradient."""


@dataclass(frozen=True)
class PerExample:
    """A batch loss, made of a loss for one example by `per_example`."""

    loss: Callable[[Key[Array, ""], PyTree, Any], Float[Array, ""]]
    tile: int
    mesh: Mesh | None = None

    def __call__(self, key: Key[Array, ""], params: PyTree, batch: Num[Array, "n *shape"]) -> Float[Array, ""]:
        """1/n sum_i loss(key_i, params, x_i)."""
        return self._sum(params, jax.random.split(key, batch.shape[0]), batch) / batch.shape[0]

    def value_and_grad(
        self, key: Key[Array, ""], params: PyTree, batch: Num[Array, "n *shape"]
    ) -> tuple[Float[Array, ""], PyTree]:
        """The loss and its gradient in params, added up over tiles and devices: memory does not grow with the batch."""
        n, mesh = batch.shape[0], self.mesh
        keys = jax.random.split(key, n)
        if mesh is None:
            sums = self._sums(params, keys, batch)
        else:
            if n % mesh.size:
                raise ValueError(f"a batch of {n} examples cannot be shared out evenly to {mesh.size} devices")
            axes = mesh.axis_names
            shared, whole = PartitionSpec(axes), PartitionSpec()
            sums = jax.shard_map(
                lambda *part: jax.lax.psum(self._sums(*part), axes),
                mesh=mesh,
                in_specs=(whole, shared, shared),
                out_specs=whole,
                # Otherwise a derivative in params, which every device holds, is summed over devices tile by tile.
                check_vma=False,
            )(params, keys, batch)
        return jax.tree.map(lambda a: a / n, sums)

    def _sum(self, params, keys, batch):
        values = jax.vmap(self.loss, in_axes=(0, None, 0))(keys, params, batch)
        if values.ndim != 1:
            raise ValueError(f"loss(key, params, x) has shape {values.shape[1:]}: it must be a scalar")
        return jnp.sum(values)

    def _sums(self, params, keys, batch):
        """sum_i loss_i and its gradient."""
        n, tile = batch.shape[0], min(self.tile, batch.shape[0])
        total = jax.value_and_grad(self._sum)
        if n == tile:
            return total(params, keys, batch)
        whole = n // tile * tile
        tiles = keys[:whole].reshape(-1, tile), batch[:whole].reshape(-1, tile, *batch.shape[1:])

        def add(so_far, part):
            return jax.tree.map(jnp.add, so_far, total(params, *part)), None

        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(total, params, keys, batch))
        sums, _ = jax.lax.scan(add, zeros, tiles)
        if whole < n:
            sums, _ = add(sums, (keys[whole:], batch[whole:]))
        return sums


def per_example(
    loss: Callable[[Key[Array, ""], PyTree, Any], Float[Array, ""]], *, tile: int = 512, mesh: Mesh | None = None
) -> PerExample:
    """L(params) = 1/n sum_i loss(key_i, params, x_i): lifts a loss for one example to a batch, consuming its key.

    `step` takes its gradient over `tile` examples at a time, so that what is kept for the backward pass fits the
    cache (on a CPU 1.2 to 1.4 times faster at a batch of 4096) and the memory; on a large accelerator give a tile as
    large as the batch. With a `mesh` its devices share each batch, whose size they must divide, and hold the whole of
    params each; the terms of the sum are the same, their order is not, so results agree to rounding. Two liftings of
    one loss are equal, so `fit` is compiled once for both. Raises ValueError if tile < 1, and at the first step if the
    loss is not a scalar.
    """
    if tile < 1:
        raise ValueError(f"tile = {tile}: at least one example is needed")
    if mesh is not None:
        # Axes of `jax.make_mesh` ask for the layout of everything; here only batches have one.
        mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    return PerExample(loss, tile, mesh)


def init(params: PyTree, optimizer: optax.GradientTransformation) -> TrainingState:
    """The state before the first step; the average starts at params."""
    return TrainingState(jnp.zeros((), jnp.int32), params, optimizer.init(params), params)


def step(
    key: Key[Array, ""],
    state: TrainingState,
    data: Num[Array, "N *shape"],
    *,
    batch_loss: BatchLoss,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    ema_decay: float | Float[Array, ""] = 0.999,
) -> tuple[TrainingState, TrainingInfo]:
    """One turn of Section 1(c): sample a minibatch, perturb it, compute the loss, its gradient, and update.

    The minibatch is drawn uniformly with replacement; with batch_size None it is the whole of the data, in
    order (full-batch maximum likelihood, for instance). The average follows ema <- d ema + (1 - d) params
    with d = min(ema_decay, (1 + i) / (10 + i)) after i steps, so that a short run forgets where it started.
    `key` is consumed. Raises ValueError if batch_size < 1, or ema_decay is known and not in [0, 1).
    """
    _check(data, batch_size, ema_decay)
    key_batch, key_loss = jax.random.split(key)
    # (a) sample a minibatch
    batch = data
    if batch_size is not None:
        batch = data[jax.random.randint(key_batch, (batch_size,), 0, data.shape[0])]
    # (b) perturb it, (c) compute the loss: both are the business of batch_loss; (d) backpropagate
    by_tiles = batch_loss.value_and_grad if isinstance(batch_loss, PerExample) else None
    value_and_grad = by_tiles or jax.value_and_grad(batch_loss, argnums=1)
    loss, grads = value_and_grad(key_loss, state.params, batch)
    # (e) update the parameters; optax mixes Python floats with integer counts, which strict promotion refuses
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    i = state.step.astype(jnp.float32)
    decay = jnp.minimum(jnp.asarray(ema_decay, jnp.float32), (1.0 + i) / (10.0 + i))
    ema = jax.tree.map(lambda a, b: b + decay.astype(b.dtype) * (a - b), state.ema, params)
    return TrainingState(state.step + 1, params, opt_state, ema), TrainingInfo(loss, optax.tree.norm(grads))


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
) -> tuple[TrainingState, TrainingInfo]:
    """num_steps of `step` as one jitted scan. Returns the state and the infos of all steps, [num_steps] each.

    The step that starts from state.step = i uses the key fold_in(key, i). So `fit` twice for 100 steps, with
    one key, gives the same bits as once for 200: call it in chunks to report progress or to save. `key` is
    consumed by the whole run. Compiled once for each batch_loss, optimizer, batch_size and num_steps; make
    the first two outside loops. Raises ValueError if num_steps or batch_size < 1, or ema_decay is known and
    not in [0, 1).
    """
    _check(data, batch_size, ema_decay)
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: at least one step is needed")
    return _fit(key, state, data, ema_decay, batch_loss, optimizer, batch_size, num_steps)


@partial(jax.jit, static_argnames=("batch_loss", "optimizer", "batch_size", "num_steps"))
def _fit(key, state, data, ema_decay, batch_loss, optimizer, batch_size, num_steps):
    def body(state, _):
        return step(
            jax.random.fold_in(key, state.step),
            state,
            data,
            batch_loss=batch_loss,
            optimizer=optimizer,
            batch_size=batch_size,
            ema_decay=ema_decay,
        )

    return jax.lax.scan(body, state, length=num_steps)


def _check(data, batch_size: int | None, ema_decay) -> None:
    if data.shape[0] == 0:
        raise ValueError("data has no examples")
    check_finite("data", data)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: at least one example is needed")
    if not isinstance(ema_decay, Tracer) and not 0 <= float(ema_decay) < 1:
        raise ValueError(f"ema_decay = {ema_decay}: it must lie in [0, 1)")

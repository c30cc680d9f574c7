"""The ways to learn a density that `experiments.low_density` compares: equation 1, equation 2, and a variant of each.

Equation 1 normalises by quadrature; persistent contrastive divergence takes the model's mean over Langevin chains that
go on from step to step. Equation 2 has one noise scale; over levels one network, told sigma, learns all scales of a
ladder, and is judged at the smallest.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

import dsm
from dsm import persistent
from experiments.low_density_truth import HALF_WIDTH, SPREAD
from experiments.training_run import energy_of

LIKELIHOOD, DENOISING = "equation 1", "equation 2, "
LEVELS, PERSISTENT = "denoising over levels", "persistent CD"
Energy = Callable[[Float[Array, " 2"]], Float[Array, ""]]
CHAINS = {"num_steps": 10, "step_size": 0.02, "restart": 0.05}
"""Of persistent contrastive divergence, beside as many chains as a batch has points."""


class Model(NamedTuple):
    """A way to learn: models that differ by sigma alone share `train` and `energy`, and are compiled once."""

    name: str
    train: Callable[..., tuple[Any, Float[Array, " steps"]]]
    """`train(key, x_train, grid, sigma)` -> averaged parameters and losses. The key is consumed."""
    energy: Callable[[Any], Energy]
    """Parameters to E(x)."""
    sigma: float
    """Noise scale of the data whose score is learned; 0 for the data themselves."""


def names_of(levels: list[float]) -> list[str]:
    """Return the names of the models: equation 1, equation 2 at each level, then the variants."""
    return [LIKELIHOOD, *(f"{DENOISING}σ = {sigma:g}" for sigma in levels), LEVELS, PERSISTENT]


def make_models(
    network: dsm.EnergyMLP,
    levels: list[float],
    *,
    ladder_size: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> list[Model]:
    """Make the models `names_of(levels)`, the levels ascending, all with the same optimiser, steps and batches."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    smallest = levels[0]
    ladder = dsm.geometric_sigmas(max(SPREAD, 2 * smallest), smallest, ladder_size)
    conditional = dsm.ConditionalEnergyMLP(widths=network.widths, sigma_data=SPREAD)
    apply_plain: Any = network.apply
    apply_conditional: Any = conditional.apply

    # Not `training.fit`, which is jitted over a static loss: this one may hold a traced sigma.
    def train(key, x_train, initial, batch_loss):
        key_init, key_step = jax.random.split(key)

        def step(state, _):
            key = jax.random.fold_in(key_step, state.step)
            return dsm.training.step(
                key, state, x_train, batch_loss=batch_loss, optimizer=optimizer, batch_size=batch_size
            )

        state = dsm.training.init(initial(key_init, x_train[0]), optimizer)
        state, infos = jax.lax.scan(step, state, length=steps)
        return state.ema, infos.loss

    def equation_1(key, x_train, grid, sigma):
        def loss(key, params, batch):
            return dsm.negative_log_likelihood(energy_of(network, params), batch, grid)

        return train(key, x_train, network.init, loss)

    def equation_2(key, x_train, grid, sigma):
        def loss(key, params, x):
            return dsm.denoising(key, dsm.score_of(energy_of(network, params)), x, sigma)

        return train(key, x_train, network.init, dsm.training.per_example(loss))

    def over_levels(key, x_train, grid, sigma):
        def loss(key, params, x):
            return dsm.denoising_over_levels(key, dsm.score_of(partial(apply_conditional, params)), x, ladder)

        initial = partial(conditional.init, sigma=ladder[0])
        return train(key, x_train, initial, dsm.training.per_example(loss))

    def by_chains(key, x_train, grid, sigma):
        key_init, key_step = jax.random.split(key)
        box = dsm.box(-HALF_WIDTH, HALF_WIDTH)

        def noise(key, num):
            return jax.random.uniform(key, (num, 2), x_train.dtype, minval=-HALF_WIDTH, maxval=HALF_WIDTH)

        def step(state, _):
            return persistent.step(
                jax.random.fold_in(key_step, state.training.step),
                state,
                x_train,
                energy=apply_plain,
                move=partial(persistent.advance, num_chains=batch_size, box=box, noise=noise, **CHAINS),
                optimizer=optimizer,
                batch_size=batch_size,
            )

        # Steps fold in 0, 1, ...; the key of the first chains is one that they do not reach.
        start = noise(jax.random.fold_in(key_step, steps), batch_size)
        state = persistent.init(network.init(key_init, x_train[0]), optimizer, start)
        state, infos = jax.lax.scan(step, state, length=steps)
        # The loss of a step alone would hide chains that diverged and were put back.
        losses = jnp.where(infos.diverged > 0, jnp.nan, infos.training.loss)
        return state.training.ema, losses

    def at_smallest(params):
        return lambda x: apply_conditional(params, x, smallest)

    plain = partial(energy_of, network)
    ways = [
        (equation_1, plain, 0.0),
        *((equation_2, plain, sigma) for sigma in levels),
        (over_levels, at_smallest, smallest),
        (by_chains, plain, 0.0),
    ]
    return [Model(name, *way) for name, way in zip(names_of(levels), ways, strict=True)]

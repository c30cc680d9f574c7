"""The objectives of `experiments.objectives` in one form, and the loop that trains an energy by any of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import dsm
from dsm import persistent, training
from experiments.record import Clock
from experiments.trainer import CHUNKS
from experiments.training_run import energy_of

EXPLICIT, DENOISING, VARIATE = "explicit (oracle)", "denoising, eq. (2)", "denoising, control variate"
IMPLICIT, SLICED, REDUCED, DIFFERENCE = "implicit", "sliced", "sliced, variance reduced", "sliced, finite difference"
LIKELIHOOD, CONTRASTIVE, PERSISTENT = "maximum likelihood", "contrastive divergence", "persistent CD"
NOISE_CONTRASTIVE, STEIN = "noise-contrastive", "Stein discrepancy"
NAMES = (
    *(EXPLICIT, DENOISING, VARIATE, IMPLICIT, SLICED, REDUCED, DIFFERENCE),
    *(LIKELIHOOD, CONTRASTIVE, PERSISTENT, NOISE_CONTRASTIVE, STEIN),
)


class Context(NamedTuple):
    """What objectives know besides the batch. All of them aim at q, the data smoothed by N(0, σ² I)."""

    sigma: Float[Array, ""]
    noise: dsm.GaussianMixture
    """The Gaussian with the mean and covariance of q: the noise of NCE, and where persistent chains start."""
    grid: dsm.Grid | None = None
    """Of maximum likelihood."""
    bandwidth: Float[Array, ""] | None = None
    """Of the Stein kernel."""
    step_size: float | Float[Array, ""] = 0.02
    """Of the chains of contrastive divergence."""
    smoothed: Any = None
    """q itself, for the oracle alone."""


Loss = Callable[[Key[Array, ""], Key[Array, ""], Any, Array, Context], Array]


def examples(network: dsm.EnergyMLP) -> dict[str, Loss]:
    """Return the objectives for one example: loss(key of the noise, key of its own, params, clean x, context).

    One key of the noise gives one x~ = x + σ ε, whatever the objective: they all see the same draws of q.
    """

    def energy(params: Any) -> Callable[..., Array]:
        return energy_of(network, params["network"])

    def score(params: Any) -> Callable[..., Array]:
        return dsm.score_of(energy(params))

    return {
        EXPLICIT: lambda noise, own, p, x, c: dsm.explicit(score(p), c.smoothed.score, dsm.perturb(noise, x, c.sigma)),
        DENOISING: lambda noise, own, p, x, c: dsm.denoising(noise, score(p), x, c.sigma),
        VARIATE: lambda noise, own, p, x, c: dsm.denoising_control_variate(noise, score(p), x, c.sigma),
        IMPLICIT: lambda noise, own, p, x, c: dsm.implicit(score(p), dsm.perturb(noise, x, c.sigma)),
        SLICED: lambda noise, own, p, x, c: dsm.sliced(own, score(p), dsm.perturb(noise, x, c.sigma)),
        REDUCED: lambda noise, own, p, x, c: dsm.sliced(
            own, score(p), dsm.perturb(noise, x, c.sigma), variance_reduced=True
        ),
        DIFFERENCE: lambda noise, own, p, x, c: dsm.sliced_finite_difference(
            own, energy(p), dsm.perturb(noise, x, c.sigma)
        ),
    }


def batches(network: dsm.EnergyMLP, cd_steps: int) -> dict[str, Callable[..., Array]]:
    """Return the objectives of a whole batch: loss(key, params, draws x of q, context, negatives)."""

    def energy(params: Any) -> Callable[..., Array]:
        return energy_of(network, params["network"])

    def noise_contrastive(key: Any, p: Any, x: Array, c: Context, negatives: Any) -> Array:
        noise = c.noise.sample(key, len(x))
        return dsm.noise_contrastive(energy(p), p["log_z"], x, noise, c.noise.logdensity)

    return {
        LIKELIHOOD: lambda key, p, x, c, _: dsm.negative_log_likelihood(energy(p), x, c.grid),
        CONTRASTIVE: lambda key, p, x, c, _: dsm.contrastive_divergence(
            key, energy(p), x, num_steps=cd_steps, step_size=c.step_size
        ),
        PERSISTENT: lambda key, p, x, c, negatives: dsm.contrastive.contrast(energy(p), x, negatives),
        NOISE_CONTRASTIVE: noise_contrastive,
        STEIN: lambda key, p, x, c, _: dsm.stein_discrepancy(dsm.score_of(energy(p)), x, bandwidth=c.bandwidth),
    }


def lifted(network: dsm.EnergyMLP, cd_steps: int) -> dict[str, Callable[..., Array]]:
    """Return all objectives as loss(key, params, batch of clean x, context, negatives)."""

    def of_example(loss: Loss) -> Callable[..., Array]:
        def batch_loss(key: Any, params: Any, batch: Array, c: Context, negatives: Any) -> Array:
            noise, own = (jax.random.split(k, len(batch)) for k in jax.random.split(key))
            return jnp.mean(jax.vmap(loss, (0, 0, None, 0, None))(noise, own, params, batch, c))

        return batch_loss

    def of_batch(loss: Callable[..., Array]) -> Callable[..., Array]:
        def batch_loss(key: Any, params: Any, batch: Array, c: Context, negatives: Any) -> Array:
            key_noise, key_own = jax.random.split(key)
            x = jax.vmap(dsm.perturb, (0, 0, None))(jax.random.split(key_noise, len(batch)), batch, c.sigma)
            return loss(key_own, params, x, c, negatives)

        return batch_loss

    return {name: of_example(loss) for name, loss in examples(network).items()} | {
        name: of_batch(loss) for name, loss in batches(network, cd_steps).items()
    }


def parameters(network: dsm.EnergyMLP, key: Key[Array, ""], x: Float[Array, " D"]) -> dict[str, Any]:
    """Return fresh parameters of the energy, and the log Z that only NCE learns. `key` is consumed."""
    return {"network": network.init(key, x), "log_z": jnp.zeros((), x.dtype)}


class Trainer:
    """Trains by one objective; compiled once, for all data of one shape."""

    def __init__(
        self,
        clock: Clock,
        network: dsm.EnergyMLP,
        name: str,
        *,
        cd_steps: int,
        learning_rate: float,
        batch_size: int,
        steps: int,
    ) -> None:
        """Keep what does not change from one run to the next."""
        self.clock, self.steps, self.num_chains = clock, steps, batch_size
        self.chunk = -(-steps // CHUNKS)
        self.compiled: dict[tuple, Callable] = {}
        self.compile_seconds = 0.0
        self.seconds: list[float] = []
        """Of a step, averaged over a chunk; an entry for every chunk."""
        loss = lifted(network, cd_steps)[name]
        optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
        self.init = lambda params, chains: (training.init(params, optimizer), persistent.ReplayBuffer(chains))

        def step(key: Any, data: Array, context: Context, carry: tuple) -> tuple:
            state, buffer = carry
            key_chains, key_step = jax.random.split(jax.random.fold_in(key, state.step))
            negatives = None
            if name == PERSISTENT:
                buffer, negatives, _ = persistent.advance(
                    key_chains,
                    energy_of(network, state.params["network"]),
                    buffer,
                    num_chains=len(buffer.x),
                    num_steps=cd_steps,
                    step_size=context.step_size,
                )
            state, info = training.step(
                key_step,
                state,
                data,
                batch_loss=lambda key, params, batch: loss(key, params, batch, context, negatives),
                optimizer=optimizer,
                batch_size=batch_size,
            )
            return (state, buffer), info.loss

        def run(num: int, key: Any, data: Array, context: Context, carry: tuple) -> tuple:
            return jax.lax.scan(lambda carry, _: step(key, data, context, carry), carry, length=num)

        self.run = run

    def __call__(self, key: Key[Array, ""], params: Any, data: Array, context: Context) -> tuple[Any, np.ndarray]:
        """Return the averaged parameters after all steps, and the loss of each. `key` is consumed."""
        key_chains, key_run = jax.random.split(key)
        carry = self.init(params, context.noise.sample(key_chains, self.num_chains))
        losses, done = [], 0
        while done < self.steps:
            num = min(self.chunk, self.steps - done)
            # A density in the context is part of the program, numbers are not.
            signature = num, type(context.smoothed)
            if signature not in self.compiled:
                before = self.clock.compile_seconds
                self.compiled[signature] = self.clock.compile(
                    lambda *args, num=num: self.run(num, *args), key_run, data, context, carry
                )
                self.compile_seconds = self.clock.compile_seconds - before
            before = self.clock.run_seconds
            carry, loss = self.compiled[signature](key_run, data, context, carry)
            self.seconds.append((self.clock.run_seconds - before) / num)
            losses.append(np.asarray(loss))
            done += num
        return carry[0].ema, np.concatenate(losses)

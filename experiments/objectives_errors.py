"""The errors of an energy in `experiments.objectives`: of its score, its density and its samples, against the truth."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

import dsm
from dsm import langevin, metrics
from experiments import record
from experiments.training_run import energy_of

MALA_STEP = 0.05


def grids(q: Any, nodes: int) -> tuple[dsm.Grid, dsm.Grid]:
    """Return the quadrature on the box of three standard deviations of q, and one twice as fine to judge by."""
    reach = 3 * jnp.sqrt(jnp.diag(q.covariance()))
    lower, upper = tuple((q.mean() - reach).tolist()), tuple((q.mean() + reach).tolist())
    return dsm.quadrature_grid(lower, upper, nodes), dsm.quadrature_grid(lower, upper, 2 * nodes)


def assessor(
    clock: record.Clock, network: dsm.EnergyMLP, q: Any, grid: dsm.Grid, sigma: float, chains: int, chain_steps: int
) -> Callable[..., tuple[dict, Array]]:
    """Return a function from parameters (None: those of q) to the errors and the log density on the grid.

    The key draws the same test noise, chains and exact samples for all models of one seed.
    """
    floor = clock(lambda grid: metrics.denoising_floor(q.logdensity, sigma, grid), grid)
    lower, upper = grid.points.min(axis=0), grid.points.max(axis=0)
    gaussian = dsm.gaussian(q.mean(), q.covariance())

    def measure(params: Any, key: Key[Array, ""], test: Array) -> tuple[dict, Array]:
        energy = (lambda x: -q.logdensity(x)) if params is None else energy_of(network, params["network"])
        score = dsm.score_of(energy)
        key_noise, key_start, key_chain, key_exact, key_lines = jax.random.split(key, 5)
        x_tilde = jax.vmap(dsm.perturb, (0, 0, None))(jax.random.split(key_noise, len(test)), test, sigma)
        exact, s = jax.vmap(q.score)(x_tilde), jax.vmap(score)(x_tilde)
        divergence = metrics.fisher_divergence(score, q.score, x_tilde)
        equation_2 = 0.5 * jnp.sum((s - jax.vmap(dsm.kernel_score, (0, 0, None))(x_tilde, test, sigma)) ** 2, axis=1)
        log_q = jax.vmap(q.logdensity)(grid.points)
        log_p = -jax.vmap(energy)(grid.points) - dsm.log_partition(energy, grid)
        # The box holds all of q but what counts for nothing; q is normalised on it as the model is.
        weights = jax.nn.softmax(grid.log_weights + log_q)

        def logdensity(x: Array) -> Array:
            return jnp.where(jnp.all((x >= lower) & (x <= upper)), -energy(x), -jnp.inf)

        def step(key: Array, state: Any) -> Any:
            return langevin.mala_step(key, state, logdensity, step_size=MALA_STEP)

        start = jnp.clip(gaussian.sample(key_start, chains), lower, upper)
        states = jax.vmap(lambda x: langevin.mala_init(x, logdensity))(start)
        keys = jax.random.split(key_chain, chains)
        samples = langevin.run_many(keys, step, states, chain_steps, thin=chain_steps)[0].x
        return {
            "fisher_divergence": divergence,
            "relative_error": jnp.sqrt(2 * divergence / jnp.mean(jnp.sum(exact**2, axis=1))),
            "denoising_excess": jnp.mean(equation_2 - floor),
            "denoising_excess_error": jnp.std(equation_2) / len(test) ** 0.5,
            "kl": jnp.sum(weights * (log_q - log_p)) - jax.nn.logsumexp(grid.log_weights + log_q),
            "sliced_wasserstein": metrics.sliced_wasserstein(
                key_lines, samples, q.sample(key_exact, chains), num_projections=100
            ),
        }, log_p

    compiled: dict[bool, Callable] = {}

    def assess(params: Any, key: Key[Array, ""], test: Array) -> tuple[dict, Array]:
        if (params is None) not in compiled:
            compiled[params is None] = clock.compile(measure, params, key, test)
        return compiled[params is None](params, key, test)

    return assess

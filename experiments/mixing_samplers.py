"""The samplers of `experiments.mixing`, each as a chain from one start, and how their step sizes are found."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

import dsm
from dsm import chains, langevin, tempering, underdamped
from experiments.mixing_modes import starts
from experiments.record import Clock

ANNEALED = "annealed Langevin"


class Sampler(NamedTuple):
    """A chain from one start: `(key, x, step_size) -> (draws [T, 2], acceptance)`, and how its step size is found."""

    chain: Callable[[Key[Array, ""], Float[Array, " 2"], Any], tuple[Float[Array, "T 2"], Array]]
    step_size: float
    """Where the search for one begins, or, without a warm-up, the one that is used."""
    warm_up: tuple[Callable, Callable] | None = None
    """`(init, step)` for `chains.warm_up`; None where the step size is given."""


def samplers(
    target: dsm.GaussianMixture,
    *,
    evaluations: int,
    kept: int,
    epsilon: float,
    levels: int,
    largest: float,
    leapfrog: int,
    temperatures: tuple[float, ...],
    baoab_step: float,
) -> dict[str, Sampler]:
    """The rows of the comparison; every chain evaluates the score `evaluations` times.

    All but the annealed one keep `kept` draws, evenly spaced.
    """
    h = epsilon / 2

    def iterated(init, step, where=lambda state: state.x, cost=1):
        # A step that costs more evaluations is taken as many times less often.
        num = evaluations // cost

        def chain(key, x, step_size):
            key_start, key_run = jax.random.split(key)
            state = init(key_start, x)
            _, history = chains.run(
                key_run, lambda key, state: step(key, state, step_size), state, num, thin=num // kept
            )
            acceptance = getattr(history.infos, "acceptance", jnp.ones(1))
            return jax.vmap(where)(history.states), jnp.mean(acceptance)

        return chain

    mala, tempered, hmc = metropolis(target), parallel_tempering(target, temperatures), blackjax_hmc(target, leapfrog)
    return {
        "Langevin": Sampler(
            iterated(
                lambda key, x: langevin.init(x),
                lambda key, state, h: langevin.ula_step(key, state, target.score, step_size=h),
            ),
            h,
        ),
        ANNEALED: Sampler(annealed(target, dsm.geometric_sigmas(largest, 1.0, levels), evaluations // levels), h),
        "MALA": Sampler(iterated(*mala), 0.5, mala),
        "BAOAB": Sampler(
            iterated(
                lambda key, x: underdamped.underdamped_init(key, x, target.score),
                lambda key, state, h: underdamped.baoab_step(key, state, target.score, step_size=h),
            ),
            baoab_step,
        ),
        "parallel tempering": Sampler(iterated(*tempered, lambda state: state.x[0], len(temperatures)), 0.5, tempered),
        "HMC (blackjax)": Sampler(iterated(*hmc, lambda state: state.position, leapfrog), 0.5, hmc),
    }


def annealed(target: dsm.GaussianMixture, sigmas: Float[Array, " L"], steps_per_level: int) -> Callable:
    """A chain that goes from the most smoothed density to the least, and keeps the end of each level."""

    def chain(key, x, step_size):
        _, history = dsm.annealed_langevin(
            key,
            lambda x, sigma: target.smooth(sigma).score(x),
            x,
            sigmas,
            steps_per_level=steps_per_level,
            step_size=step_size,
            denoise=False,
        )
        return history.x, jnp.ones(())

    return chain


def metropolis(target: dsm.GaussianMixture) -> tuple[Callable, Callable]:
    """MALA as `init(key, x)` and `step(key, state, step_size)`."""

    def init(key, x):
        return langevin.mala_init(x, target.logdensity)

    def step(key, state, step_size):
        return langevin.mala_step(key, state, target.logdensity, step_size=step_size)

    return init, step


def parallel_tempering(target: dsm.GaussianMixture, temperatures: tuple[float, ...]) -> tuple[Callable, Callable]:
    """Parallel tempering as `init` and `step`: the chain at T = 1 begins at x, the others at starts of their own."""
    ladder = jnp.asarray(temperatures)

    def init(key, x):
        others = starts(key, len(temperatures) - 1, x.dtype)
        return tempering.tempering_init(jnp.concatenate([x[None], others]), target.logdensity)

    def step(key, state, step_size):
        # A step that suits T = 1 suits the modes at T when it is T times as long.
        state, info = tempering.tempering_step(
            key, state, target.logdensity, temperatures=ladder, step_size=step_size * ladder
        )
        return state, langevin.MALAInfo(info.moves.acceptance[0], info.moves.accepted[0], info.diverged)

    return init, step


def blackjax_hmc(target: dsm.GaussianMixture, num_integration_steps: int) -> tuple[Callable, Callable]:
    """HMC of `blackjax` as `init` and `step`."""
    import blackjax

    kernel: Any = blackjax.mcmc.hmc.build_kernel()

    def init(key, x):
        return blackjax.mcmc.hmc.init(x, target.logdensity)

    def step(key, state, step_size):
        mass = jnp.ones(state.position.shape, state.position.dtype)
        state, info = kernel(key, state, target.logdensity, step_size, mass, num_integration_steps)
        return state, langevin.MALAInfo(
            info.acceptance_rate, jnp.asarray(info.is_accepted, mass.dtype), jnp.asarray(info.is_divergent)
        )

    return init, step


def find_step(key: Key[Array, ""], sampler: Sampler, start: Float[Array, "C 2"], num_steps: int, clock: Clock) -> Array:
    """Return the given step size, or one common to all chains that accepts 0.574 of the proposals on average."""
    if sampler.warm_up is None:
        return jnp.asarray(sampler.step_size)
    init, step = sampler.warm_up

    def adapt(key, start):
        key_start, key_run = jax.random.split(key)
        state = jax.vmap(init)(jax.random.split(key_start, len(start)), start)

        def steps(key, state, step_size):
            return jax.vmap(step, (0, 0, None))(jax.random.split(key, len(start)), state, step_size)

        return chains.warm_up(key_run, steps, state, num_steps, step_size=sampler.step_size).step_size

    return clock(adapt, key, start)

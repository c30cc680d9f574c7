"""Annealed Langevin dynamics: chains that follow the smoothed data down a ladder of noise scales."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from . import langevin
from .chains import check_step_size
from .noise import check_sigmas, tweedie


class AnnealedHistory(NamedTuple):
    """What became of a chain, level by level."""

    x: Float[Array, "L *shape"]
    """Where the chain stood at the end of each level, before the last denoising step."""
    diverged: Bool[Array, " L"]
    """Whether a step of that level would have gone to inf or nan, and was left out."""


def annealed_langevin(
    key: Key[Array, ""],
    score: Callable[[Float[Array, "*shape"], Float[Array, ""]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    sigmas: Float[Array, " L"],
    *,
    steps_per_level: int,
    step_size: float | Float[Array, ""],
    temperature: float | Float[Array, ""] = 1.0,
    denoise: bool = True,
) -> tuple[Float[Array, "*shape"], AnnealedHistory]:
    """x <- x + h_i s(x, sigma_i) + sqrt(2 h_i T) eps at level after level, h_i = step_size sigma_i^2 / sigma_L^2.

    One chain from x, usually a draw from N(0, sigma_1^2 I), through the descending `sigmas`; many by vmap.
    With `denoise` it ends on Tweedie's formula x + sigma_L^2 s(x, sigma_L), which takes away the noise of the
    last level.

    step_size is the step h_L of `langevin.ula_step` at the last level. Song and Ermon write alpha_i / 2 for
    h_i, so their epsilon is 2 step_size. In units of its level every step is r = step_size / sigma_L^2: for
    narrow data the variance at each level is then sigma_i^2 / (1 - r/2), stable for r < 2 only; r near 0.1 is
    a usual choice.

    `key` is consumed. Returns the sample and an AnnealedHistory. Raises ValueError if sigmas are known and
    not positive and descending, or steps_per_level < 1. Source: Song and Ermon (2019), Algorithm 1.
    """
    check_sigmas(sigmas)
    if steps_per_level < 1:
        raise ValueError(f"steps_per_level = {steps_per_level}: at least one step is needed")
    check_step_size(step_size)
    smallest = sigmas[-1]

    def level(state, index):
        sigma = sigmas[index]

        def step(key, state):
            return langevin.ula_step(
                key,
                state,
                lambda x: score(x, sigma),
                step_size=step_size * (sigma / smallest) ** 2,
                temperature=temperature,
            )

        state, history = langevin.run(
            jax.random.fold_in(key, index), step, state, steps_per_level, thin=steps_per_level
        )
        return state, AnnealedHistory(state.x, history.infos.diverged[0])

    state, history = jax.lax.scan(level, langevin.init(x), jnp.arange(sigmas.shape[0]))
    if denoise:
        return tweedie(lambda x: score(x, smallest), state.x, smallest), history
    return state.x, history

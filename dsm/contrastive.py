"""Contrastive divergence: the gradient of equation (1) with its E_model taken over short Langevin chains.

Why it diverges, and what helps. The loss lowers E on data and raises it on negatives. Negatives that do not follow
E downhill are raised for ever, and the loss runs to -inf: the chains are too short. Negatives that are thrown about,
by a step above 2 / (the largest curvature of E, which grows in training), leave the data altogether. And E is free
up to a constant, so the energies of both may drift away together. Watch `energy_negatives` and `diverged` of
`persistent.ContrastiveInfo`, or the flags of `negatives`. Then try, in this order: a smaller step_size, more steps,
persistent chains, l2 from 1e-3 to 1, a lower learning rate, clipped gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Key

from . import langevin
from .boxes import Box
from .energies import check_finite, scalar_energy, score_of

Energy = Callable[[Float[Array, "*shape"]], Float[Array, ""]]


def contrast(
    energy: Energy,
    x: Float[Array, "n *shape"],
    x_negative: Float[Array, "m *shape"],
    *,
    l2: float | Float[Array, ""] = 0.0,
) -> Float[Array, ""]:
    """mean E(x) - mean E(x_negative) + l2 (mean E(x)^2 + mean E(x_negative)^2).

    With x_negative drawn from the model exp(-E) / Z and l2 = 0, its gradient in the parameters of E is that of
    equation (1), E_data[grad E] - E_model[grad E], with the sign of a loss. Its value is no likelihood, and near 0
    when all is well. Units of l2: 1 / energy. Source: Hinton (2002); l2: Du and Mordatch (2019), Algorithm 1.
    """
    if not isinstance(l2, Tracer) and not float(l2) >= 0:
        raise ValueError(f"l2 = {l2}: it must not be negative")
    check_finite("x", x)
    check_finite("x_negative", x_negative)
    data, negative = (jax.vmap(lambda x: scalar_energy(energy, x))(x) for x in (x, jax.lax.stop_gradient(x_negative)))
    return jnp.mean(data) - jnp.mean(negative) + l2 * (jnp.mean(data**2) + jnp.mean(negative**2))


def negatives(
    key: Key[Array, ""],
    energy: Energy,
    x: Float[Array, "n *shape"],
    *,
    num_steps: int,
    step_size: float | Float[Array, ""],
    temperature: float | Float[Array, ""] = 1.0,
    box: Box | None = None,
) -> tuple[Float[Array, "n *shape"], Bool[Array, " n"]]:
    """The ends of n chains of num_steps `langevin.ula_step`s on exp(-E) that start at the rows of x.

    Chain i takes the i-th of `split(key, n)`. A chain that met inf or nan on its way is flagged, and its end is its
    start: as a negative of contrastive divergence it then cancels the datum it came from. No gradient flows through
    the chains, neither to x nor to the parameters of E. `key` is consumed. Bias, stability and errors are those of
    `langevin.ula_step` and `langevin.run`.
    """
    score = score_of(energy)

    def step(key, state):
        return langevin.ula_step(key, state, score, step_size=step_size, temperature=temperature, box=box)

    keys = jax.random.split(key, x.shape[0])
    state, history = langevin.run_many(keys, step, langevin.init(x), num_steps, thin=num_steps)
    diverged = history.diverged_at >= 0
    return jax.lax.stop_gradient((jax.vmap(jnp.where)(diverged, x, state.x), diverged))


def contrastive_divergence(
    key: Key[Array, ""],
    energy: Energy,
    batch: Float[Array, "n *shape"],
    *,
    num_steps: int,
    step_size: float | Float[Array, ""],
    temperature: float | Float[Array, ""] = 1.0,
    box: Box | None = None,
    l2: float | Float[Array, ""] = 0.0,
) -> Float[Array, ""]:
    """CD-k: `contrast` of a batch with its own `negatives`, k = num_steps Langevin steps from each datum.

    A batch loss for `training.fit`: `lambda key, params, batch: contrastive_divergence(key, partial(energy, params),
    batch, ...)`. Short chains see E near the data only: wells elsewhere stay as they are. For k large the gradient
    is that of equation (1), up to the bias of the chains. `key` is consumed. Errors are those of `negatives`.
    Source: Hinton (2002); for what its gradient leaves out, Du et al. (2021).
    """
    check_finite("batch", batch)
    x_negative, _ = negatives(
        key, energy, batch, num_steps=num_steps, step_size=step_size, temperature=temperature, box=box
    )
    return contrast(energy, batch, x_negative, l2=l2)

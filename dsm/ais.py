"""Annealed importance sampling: log Z of any energy, with an error bar, and a sandwich from both sides.

`forward` errs low and `reverse` errs high, each on average; where the two agree, log Z is known.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from . import langevin
from .chains import check_step_size
from .energies import check_finite, scalar_energy


class PartitionEstimate(NamedTuple):
    """What N weighted chains say of log Z."""

    log_z: Float[Array, ""]
    standard_error: Float[Array, ""]
    """Of log_z, by the delta method: sd(w) / (mean(w) sqrt(N)). Trust it while it is well below 1; nan if all w = 0."""
    effective_sample_size: Float[Array, ""]
    """(sum w)^2 / sum w^2, from 1 to N: how many chains the answer rests on."""
    log_weights: Float[Array, " N"]
    acceptance: Float[Array, " T"]
    """Mean acceptance of the transitions at betas[1:]; where it is low, a smaller step_size is needed there."""
    x: Float[Array, "N *shape"]
    """Where the chains ended. Those of `forward`, weighted by exp(log_weights), are a sample of exp(-E) / Z."""


def forward(
    key: Key[Array, ""],
    energy: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    base_logdensity: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    x: Float[Array, "N *shape"],
    *,
    betas: Float[Array, " K"],
    step_size: float | Float[Array, ""] | Float[Array, " T"],
    num_transitions: int = 1,
) -> PartitionEstimate:
    """Z ~ mean_i w_i,  log w = sum_{t=1..T} (b_t - b_{t-1}) (-E(x_{t-1}) - log p_0(x_{t-1})), b_t = betas[t].

    x_0 is a row of x, a draw from the base p_0, and x_t comes from x_{t-1} by num_transitions steps of
    `langevin.mala_step` on p_0^(1 - b_t) exp(-b_t E), which each of them leaves invariant. So E[mean w] = Z for any
    step_size and any betas; its logarithm errs low, by half of standard_error^2 where that is small and by unknown
    amounts where it is not. The error falls with T num_transitions, as long as T is not small; a rung costs
    num_transitions + 1 gradients, so 2 to 4 transitions spend them better than 1.

    p_0 must have density wherever exp(-E) has; it should be the wider one of the two. Chain i takes the i-th of
    `split(key, N)`, whatever the others do; one that meets E = inf has weight 0. Memory grows with T by one number
    for each rung. `key` is consumed.

    Raises ValueError if there are fewer than 2 chains (one has no error bar), num_transitions < 1, step_size is neither
    a scalar nor [T], energy or base_logdensity is no scalar, or where known, x is not finite, step_size not positive
    and finite, or betas do not ascend from 0 to 1. Source: Neal (2001), section 2.

    Args:
        energy: E(x), for one example.
        base_logdensity: log p_0(x), normalised, for one example.
        x: N independent draws from p_0.
        betas: the ladder of K = T + 1 numbers, for instance `sigmoid_betas`.
        step_size: of the Langevin steps, one for all t or one for each; in the units of x^2.
    """
    log_weights, acceptance, x = _anneal(
        key, energy, base_logdensity, x, betas, step_size, num_transitions, backwards=False
    )
    return _estimate(log_weights, acceptance, x)


def reverse(
    key: Key[Array, ""],
    energy: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    base_logdensity: Callable[[Float[Array, "*shape"]], Float[Array, ""]],
    x: Float[Array, "N *shape"],
    *,
    betas: Float[Array, " K"],
    step_size: float | Float[Array, ""] | Float[Array, " T"],
    num_transitions: int = 1,
) -> PartitionEstimate:
    """1 / Z ~ mean_i w_i: `forward` run backwards, from draws x of exp(-E) / Z itself, which must be exact, to p_0.

    Its log_z = -log mean w errs high as that of `forward` errs low. Exact draws are at hand where the energy is
    that of a known target, or where the data were drawn from the model. Shapes, arguments and errors are those of
    `forward`, the order of betas and step_size included. Source: Grosse, Ghahramani and Adams (2015).
    """
    log_weights, acceptance, x = _anneal(
        key, energy, base_logdensity, x, betas, step_size, num_transitions, backwards=True
    )
    estimate = _estimate(-log_weights, acceptance, x)
    return estimate._replace(log_z=-estimate.log_z)


def sigmoid_betas(num: int, *, slope: float = 4.0) -> Float[Array, " {num}+1"]:
    """b_t = (g(t) - g(0)) / (g(T) - g(0)), g(t) = sigmoid(slope (2 t / T - 1)), T = num: dense at both ends.

    For slope towards 0 the ladder is linear. Raises ValueError unless num >= 1 and slope is positive and finite.
    Source: Wu et al. (2017), "On the quantitative analysis of decoder-based generative models", slope 4.
    """
    if num < 1:
        raise ValueError(f"num = {num}: a ladder has at least one rung")
    if not 0 < slope < np.inf:
        raise ValueError(f"slope = {slope}: it must be positive and finite")
    # tanh(u / 2) = 2 sigmoid(u) - 1 is odd, so the ladder is as exact at its upper end as at its lower.
    g = np.tanh(slope * np.linspace(-0.5, 0.5, num + 1))
    return jnp.asarray((g - g[0]) / (g[-1] - g[0]), jnp.result_type(float))


def geometric_betas(num: int, smallest: float) -> Float[Array, " {num}+1"]:
    """b_0 = 0, then from b_1 = smallest to b_T = 1 by a constant ratio, T = num: for a base far wider than exp(-E).

    Raises ValueError unless num >= 2 and 0 < smallest < 1. Source: Neal (2001).
    """
    if num < 2:
        raise ValueError(f"num = {num}: a geometric ladder has at least 2 rungs")
    if not 0 < smallest < 1:
        raise ValueError(f"smallest = {smallest}: it must lie between 0 and 1")
    return jnp.asarray(np.append(0.0, np.geomspace(smallest, 1.0, num)), jnp.result_type(float))


def _anneal(key, energy, base_logdensity, x, betas, step_size, num_transitions, *, backwards: bool):
    _check(x, betas, step_size, num_transitions)
    num_chains, rungs = x.shape[0], betas.shape[0] - 1
    betas = jnp.asarray(betas, x.dtype)
    step_sizes = jnp.broadcast_to(jnp.asarray(step_size, x.dtype), (rungs,))
    keys = jax.random.split(key, num_chains)

    def logdensities(x):
        return scalar_energy(base_logdensity, x, name="base_logdensity"), -scalar_energy(energy, x)

    def move(key, x, t):
        def logdensity(x):
            base, model = logdensities(x)
            return (1 - betas[t]) * base + betas[t] * model

        def step(key, state):
            return langevin.mala_step(key, state, logdensity, step_size=step_sizes[t - 1])

        start = langevin.mala_init(x, logdensity)
        state, history = langevin.run(key, step, start, num_transitions, thin=num_transitions)
        return state.x, history.infos.acceptance[0]

    def weigh(log_weight, lost, x, t):
        base, model = logdensities(x)
        term = (betas[t] - betas[t - 1]) * (model - base) - lost
        total = log_weight + term
        # Kahan's sum: thousands of small terms of one sign, added to a large one, would all be rounded alike.
        lost = (total - log_weight) - term
        return total, jnp.where(jnp.isfinite(lost), lost, 0.0)

    def rung(carry, t):
        x, log_weights, lost = carry
        turn = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, t)
        if backwards:
            x, acceptance = jax.vmap(move, in_axes=(0, 0, None))(turn, x, t)
            log_weights, lost = jax.vmap(weigh, in_axes=(0, 0, 0, None))(log_weights, lost, x, t)
        else:
            log_weights, lost = jax.vmap(weigh, in_axes=(0, 0, 0, None))(log_weights, lost, x, t)
            x, acceptance = jax.vmap(move, in_axes=(0, 0, None))(turn, x, t)
        return (x, log_weights, lost), jnp.mean(acceptance)

    zero = jnp.zeros(num_chains, x.dtype)
    (x, log_weights, _), acceptance = jax.lax.scan(rung, (x, zero, zero), jnp.arange(1, rungs + 1), reverse=backwards)
    return log_weights, acceptance, x


def _estimate(log_weights, acceptance, x) -> PartitionEstimate:
    n = float(log_weights.shape[0])
    log_sum = jax.nn.logsumexp(log_weights)
    relative = n * jnp.exp(log_weights - log_sum)
    standard_error = jnp.sqrt(jnp.sum((relative - 1) ** 2) / (n * (n - 1.0)))
    return PartitionEstimate(
        log_z=log_sum - math.log(n),
        standard_error=standard_error,
        effective_sample_size=n**2 / jnp.sum(relative**2),
        log_weights=log_weights,
        acceptance=acceptance,
        x=x,
    )


def _check(x, betas, step_size, num_transitions: int) -> None:
    if num_transitions < 1:
        raise ValueError(f"num_transitions = {num_transitions}: at least one is needed")
    if x.shape[0] < 2:
        raise ValueError(f"x has {x.shape[0]} chains: an error bar takes at least 2")
    check_finite("x", x)
    if betas.shape[0] < 2:
        raise ValueError(f"betas has {betas.shape[0]} entries: a ladder has at least 0 and 1")
    if jnp.shape(step_size) not in ((), (betas.shape[0] - 1,)):
        raise ValueError(f"step_size has shape {jnp.shape(step_size)}: () or ({betas.shape[0] - 1},) is wanted")
    check_step_size(step_size)
    if isinstance(betas, Tracer):
        return
    values = np.asarray(betas)
    for t, end in ((0, 0.0), (len(values) - 1, 1.0)):
        if values[t] != end:
            raise ValueError(f"betas[{t}] = {values[t]}: a ladder goes from 0 to 1")
    for t in np.flatnonzero(~(np.diff(values) > 0))[:1].tolist():
        raise ValueError(f"betas[{t + 1}] = {values[t + 1]} is not above betas[{t}] = {values[t]}")

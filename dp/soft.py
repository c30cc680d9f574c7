"""Entropy-regularised ("soft") dynamic programming: the maximum over actions softened by a temperature τ > 0.

    soft optimality    T_τ v(s) = τ log Σ_a exp(q(s, a) / τ),      q = R + γ P v
    soft policy        π(a|s)   = exp((q(s, a) - T_τ v(s)) / τ)
    what it maximises  E_π[Σ_t γ^t (R_{t+1} + τ H(π(·|S_t)))],      H(π) = -Σ_a π(a) log π(a)

T_τ is monotone and contracts as T does, so that the same certificate holds. As τ -> 0 it becomes T:
`T v <= T_τ v <= T v + τ log A`, hence `v_* <= v_τ <= v_* + τ log A / (1 - γ)`. A forbidden action has probability 0,
and where the episode has ended v = 0: no action is taken there any more, whatever the policy says.
Unlike v_*, v_τ is smooth in R, P, γ and τ everywhere. Source: Ziebart (2010); Geist, Scherrer and Pietquin (2019).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from dp import bellman, linear, transitions
from dp.bounds import Modulus, enclose, modulus, spread
from dp.checks import require_at_least, require_model, require_positive, start_values, tolerance
from dp.choices import Choices, anywhere, maximum, most, of_state, total
from dp.fixed_point import sweep, until_certified
from dp.gradients import Operator
from dp.mdp import MDP, Count, Scalar, induce
from dp.solution import Backup, Solution, conclude


def soft_state_values(
    q: Float[Array, "*rows"], temperature: Scalar, choices: Choices | None = None
) -> Float[Array, " S"]:
    """`τ log Σ_a exp(q(s, a) / τ)`: the soft maximum over actions, shape [S]. τ in units of reward."""
    top, weights = _weights(q, temperature, choices)
    return top + temperature * jnp.log(total(weights, choices))


def soft_policy(q: Float[Array, "*rows"], temperature: Scalar, choices: Choices | None = None) -> Float[Array, "*rows"]:
    """`π(a|s) = exp(q(s, a) / τ) / Σ_b exp(q(s, b) / τ)`, in the shape of q, [S, A]."""
    _, weights = _weights(q, temperature, choices)
    return weights / of_state(total(weights, choices), choices)


def soft_optimality(mdp: MDP, v: Float[Array, " S"], temperature: Scalar) -> Float[Array, " S"]:
    """`T_τ v(s) = τ log Σ_a exp((R(s, a) + γ Σ_s' p(s'|s, a) v(s')) / τ)`: the soft Bellman operator, shape [S]."""
    return jnp.where(ended(mdp), 0, soft_state_values(bellman.action_values(mdp, v), temperature, mdp.choices))


def ended(mdp: MDP) -> Bool[Array, " S"]:
    """Return where the episode has ended: no way on and no reward. No action is taken there, no entropy won."""
    goes_on = (transitions.mass(mdp.P) != 0) | (mdp.R != 0)
    return ~anywhere(goes_on if mdp.mask is None else goes_on & mdp.mask, mdp.choices)


def entropy(policy: Float[Array, "*rows"], choices: Choices | None = None) -> Float[Array, " S"]:
    """`H(π(·|s)) = -Σ_a π(a|s) log π(a|s)` in nats, with 0 log 0 = 0. Shape [S]."""
    return -total(jax.scipy.special.xlogy(policy, policy), choices)


def _weights(q: Float[Array, "*rows"], temperature: Scalar, choices: Choices | None) -> tuple[Array, Array]:
    """Return max_a q and `exp((q - max q) / τ)`; a forbidden action has weight 0."""
    top = jax.lax.stop_gradient(maximum(q, choices))
    allowed = ~jnp.isneginf(q)
    # Not -inf / τ: its derivative would be NaN.
    x = jnp.where(allowed, q - of_state(top, choices), 0) / temperature
    return top, jnp.where(allowed, jnp.exp(x), 0)


# θ = (mdp, τ). The policy that attains T_τ depends on θ and v: second derivatives need it.
SOFT = Operator(
    apply=lambda theta, v: soft_optimality(theta[0], v, theta[1]),
    chain=lambda theta, v: induce(
        theta[0], soft_policy(bellman.action_values(theta[0], v), theta[1], theta[0].choices)
    ),
)


def soft_value_iteration(
    mdp: MDP,
    start: ArrayLike | Solution | None = None,
    *,
    temperature: Scalar,
    tol: Scalar | None = None,
    max_iters: Count = 1_000_000,
) -> Solution:
    """Iterate `v <- T_τ v` until the certificate says that `max(upper - lower) <= tol`.

    start: values [S] or a Solution (default 0). temperature: τ > 0, in units of reward.
    tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32. max_iters: sweeps at most.
    Returns a Solution: v is v_τ, policy [S, A] is the soft policy, and its regularised value lies above `lower`.
    v and q are differentiable in the MDP and in τ.
    Raises ValueError for gamma = 1, tol <= 0 or temperature <= 0. Source: the head of this file.
    """
    arguments = _require(mdp, start, temperature, tol, max_iters, "soft_value_iteration")
    return _soft(mdp, *arguments, exact=False)


def soft_policy_iteration(
    mdp: MDP,
    start: ArrayLike | Solution | None = None,
    *,
    temperature: Scalar,
    tol: Scalar | None = None,
    max_iters: Count = 100_000,
) -> Solution:
    """Evaluate the soft policy exactly, `v <- (I - γ P_π)^{-1} (r_π + τ H(π))`, and soften its action values again.

    This is Newton's method on `v = T_τ v`: it converges quadratically, and each step solves a linear system.
    Arguments, result and errors are those of `soft_value_iteration`; max_iters: evaluations at most.
    """
    arguments = _require(mdp, start, temperature, tol, max_iters, "soft_policy_iteration")
    return _soft(mdp, *arguments, exact=True)


@functools.partial(jax.jit, static_argnames="exact")
def _soft(mdp: MDP, v0, temperature, tol, max_iters, *, exact: bool) -> Solution:
    fixed, v0, tau = jax.lax.stop_gradient((mdp, v0, temperature))
    contraction, over = soft_modulus(fixed, tau), ended(fixed)

    def backed_up(q: Float[Array, "*rows"]) -> Float[Array, " S"]:
        return jnp.where(over, 0, soft_state_values(q, tau, mdp.choices))

    def back_up(v: Float[Array, " S"], policy: Any) -> Backup:
        q = bellman.action_values(fixed, v)
        Tv = backed_up(q)
        known = spread(v, Tv, contraction)
        return Backup(v, Tv, soft_policy(q, tau, mdp.choices), known.gap, known.floor)

    def newton(k: Int[Array, ""], backup: Backup, memory: tuple) -> tuple[Float[Array, " S"], tuple]:
        chain = induce(fixed, backup.policy)
        bonus = jnp.where(over, 0, tau * entropy(backup.policy, mdp.choices))
        return linear.exact(chain._replace(r=chain.r + bonus)), memory

    end, iterations = back_up(v0, None), jnp.asarray(1)
    if exact:
        # Quadratic convergence is over in a few steps or never: what then remains is rounding, which sweeps polish.
        end, iterations = until_certified(newton, back_up, end, tol=tol, max_iters=max_iters, patience=5)
    end, more = until_certified(sweep, back_up, end, tol=tol, max_iters=max_iters - iterations + 1)
    return conclude(
        mdp,
        enclose(end.v, end.Tv, contraction),
        end.policy,
        iterations + more - 1,
        tol,
        backed_up=backed_up,
        operator=SOFT,
        theta=(mdp, temperature),
    )


def soft_modulus(mdp: MDP, temperature: Float[Array, ""]) -> Modulus:
    """Return the `Modulus` of T_τ: that of T, and the rounding of the exponentials and the logarithm.

    With x = (q - max q) / τ <= 0, each exp(x) is off by at most `(2 |x| e^x + 8) u <= 9 u`, where exp and log are taken
    to be right within 8 units in the last place; their sum, at least 1, by a factor (10 A) u, and so the logarithm by
    that, and by 8 u log A of its own. All times τ; the sum with max q is one more rounding of a backup.
    """
    A = most(mdp.R, mdp.choices)
    contraction = modulus(*mdp, more_terms=4)
    unit = jnp.finfo(mdp.R.dtype).eps / 2
    extra = temperature * unit * (12 * A + 12 * math.log(A))
    # Without a temperature there is no operator, and nothing to certify.
    return contraction._replace(extra=jnp.where(temperature > 0, extra, jnp.inf))


def _require(mdp: MDP, start, temperature, tol, max_iters, solver: str) -> tuple:
    require_model(mdp, solver)
    require_at_least(1, max_iters, "max_iters")
    # In the dtype of the MDP it may vanish.
    concrete = not isinstance(temperature, Tracer)
    require_positive(float(np.asarray(temperature, mdp.R.dtype)) if concrete else temperature, "temperature")
    temperature = jnp.asarray(temperature, mdp.R.dtype)
    return start_values(mdp, start), temperature, tolerance(tol, mdp.R.dtype), max_iters

"""The gain of an endless chain: what the average-reward solvers return, its certificate, and their loop.

The certificate (Odoni 1969; Puterman 1994, theorem 8.5.5). For any h whatever, with π the policy that attains T h,

    min_s (T h - h)(s)  <=  gain of π  <=  g_*  <=  max_s (T h - h)(s)          in every state.

Proof: with d the minimum, `T_π h >= h + d`, and n times that, `T_π^n h >= h + n d`: n steps of π earn n d, up to what h
can differ. The maximum likewise, for every policy. Nothing is asked of the chains: the bounds hold in every MDP. They
can meet only where the optimal gain is the same in all states, as in weakly communicating MDPs (`dp.communication`).

Rounding. Rows of floats do not sum to exactly one, and a chain that loses mass earns nothing in the long run. So the
bounds are about the rows divided by their sum. With masses within δ of 1, `|P h / mass - P h| <= δ max|h|`; this, and
the rounding of a backup (`dp.bounds`), move the bounds outwards. Both grow with max|h|, so h is kept centred.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dp import bellman
from dp.bounds import Modulus, backup_error
from dp.choices import maximum
from dp.fixed_point import PATIENCE
from dp.gradients import gain_and_bias
from dp.mdp import MDP, Policy, Scalar


class Average(NamedTuple):
    """What the average-reward solvers return.

    gain: reward per step, halfway between the bounds.
    bias: [S], relative values, the bias up to a constant: `bias[0] = 0`, and bias[s] is how much more starting in s is
        worth, all in all, than starting in state 0.
    q: [S, A], `R - gain + P bias`; its maximum over the actions is the bias, to within the residual.
    policy: [S], the policy that the certificate is about; its own gain, from any state, lies above `lower` too.
    lower, upper: `lower <= g_* <= upper`, rounding included (the gain of the policy after `evaluate_average`).
    iterations: how often the whole model was backed up (in policy iteration: steps, each to a new policy or a sweep).
    residual: `max |T h - gain - h|` at h = bias.
    converged: the certificate met the tolerance, `upper - lower <= tol`. It says nothing about the bias. False where
        max_iters ran out, where a number was not finite, or where the dtype cannot certify tol.

    gain, bias and q are differentiable in R and P (and in the probabilities of a given policy) as a Solution is: by one
    linear solve, at ties with the derivatives of `policy`, which must have one recurrent class.
    """

    gain: Float[Array, ""]
    bias: Float[Array, " S"]
    q: Float[Array, "*rows"]
    policy: Policy
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    iterations: Int[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]


class Gain(NamedTuple):
    """`lower <= g_* <= upper`; mid is halfway, gap the distance, floor what rounding alone adds to it at this h."""

    lower: Float[Array, ""]
    mid: Float[Array, ""]
    upper: Float[Array, ""]
    gap: Float[Array, ""]
    floor: Float[Array, ""]


class Step(NamedTuple):
    """Relative values h, their backup T h (or T_π h), the policy that attains it, and what follows for the gain."""

    h: Float[Array, " S"]
    Th: Float[Array, " S"]
    policy: Policy
    gain: Gain


class Loop(NamedTuple):
    """What `until_certified` carries: the step, how many so far, the best gap and for how long it has only rounded.

    memory: what the solver itself carries.
    """

    step: Step
    iterations: Int[Array, ""]
    best: Float[Array, ""]
    since: Int[Array, ""]
    memory: Any


def enclose_gain(h: Float[Array, " S"], Th: Float[Array, " S"], modulus: Modulus, defect: Float[Array, ""]) -> Gain:
    """Turn h and its backup T h (or T_π h) into bounds on the optimal gain (that of π); defect: δ, see above.

    Infinite where nothing can be said: a number is not finite, or a row does not sum to one.
    """
    eps = jnp.finfo(h.dtype).eps
    scale = jnp.max(jnp.abs(h))
    e = (1 + 8 * eps) * (backup_error(modulus, scale) + defect * scale)
    rise, fall = jnp.max(Th - h), jnp.min(Th - h)
    # One rounding of these differences, and two of the sums.
    upper = rise + 2 * eps * jnp.abs(rise) + e
    lower = fall - 2 * eps * jnp.abs(fall) - e
    gap = (upper - lower) * (1 + 2 * eps)
    # Rows that lose mass are chains that end.
    complete = defect <= 3 * max(1e-8, 100 * float(eps)) + 8 * modulus.rounding
    known = complete & jnp.isfinite(gap)
    return Gain(
        lower=jnp.where(known, lower, -jnp.inf),
        mid=rise / 2 + fall / 2,
        upper=jnp.where(known, upper, jnp.inf),
        gap=jnp.where(known, gap, jnp.inf),
        floor=2 * e + 4 * eps * jnp.maximum(jnp.abs(rise), jnp.abs(fall)),
    )


def until_certified(
    advance: Callable[[Loop], tuple[Step, Any]], start: Step, *, tol, max_iters, memory: Any = ()
) -> Loop:
    """Repeat `step, memory <- advance(loop)` until `gap <= tol`, until nothing but rounding is left, or max_iters."""

    def unfinished(loop: Loop) -> Bool[Array, ""]:
        gap = loop.step.gain.gap
        return (gap > tol) & jnp.isfinite(gap) & (loop.since < PATIENCE) & (loop.iterations < max_iters)

    def step(loop: Loop) -> Loop:
        new, memory = advance(loop)
        # Without a discount the gap may stand still for as long as news takes to cross the chain. Only where it is no
        # larger than rounding explains does standing still mean the end.
        stuck = (new.gain.gap >= loop.best) & (new.gain.gap <= 2 * new.gain.floor)
        return Loop(
            step=new,
            iterations=loop.iterations + 1,
            best=jnp.minimum(loop.best, new.gain.gap),
            since=jnp.where(stuck, loop.since + 1, 0),
            memory=memory,
        )

    return jax.lax.while_loop(unfinished, step, Loop(start, jnp.asarray(1), start.gain.gap, jnp.asarray(0), memory))


def conclude(
    mdp: MDP,
    end: Loop,
    tol,
    *,
    backed_up: Callable[[Float[Array, "*rows"]], Float[Array, " S"]] | None = None,
    of_policy: Policy | None = None,
) -> Average:
    """Turn the last step into an Average. backed_up: T h as a function of q; by default the maximum over actions.

    of_policy: the policy that was given, where there was one, so that gain and bias can be differentiated in it.
    """
    h, _, policy, known = end.step
    gain, bias = gain_and_bias(mdp, policy if of_policy is None else of_policy, known.mid, h - h[0])
    q = bellman.action_values(mdp, bias) - gain
    Th = maximum(q, mdp.choices) if backed_up is None else backed_up(q)
    return Average(
        gain=gain,
        bias=bias,
        q=q,
        policy=policy,
        lower=known.lower,
        upper=known.upper,
        iterations=end.iterations,
        residual=jax.lax.stop_gradient(jnp.max(jnp.abs(Th - bias))),
        converged=jnp.isfinite(known.gap) & (known.gap <= tol),
    )


def row_defect(modulus: Modulus) -> Float[Array, ""]:
    """`max |mass - 1|`, of a modulus with γ = 1."""
    return jnp.maximum(modulus.largest - 1, 1 - modulus.smallest)


def sweep(step: Step, damping: Scalar) -> Float[Array, " S"]:
    """`h + damping (T h - h)`, centred."""
    return centre(step.h + damping * (step.Th - step.h))


def centre(h: Float[Array, " S"]) -> Float[Array, " S"]:
    """Shift h so that max|h| is least: half of what its values differ by."""
    return h - (jnp.max(h) / 2 + jnp.min(h) / 2)


def choose(condition: Bool[Array, ""], one: Step, other: Step) -> Step:
    """Return one step or the other."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), one, other)

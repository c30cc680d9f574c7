"""Average reward: the most that an endless chain can earn per step, its gain.

    g + h(s) = max_a [R(s, a) + Σ_s' p(s'|s, a) h(s')]          the optimality equation, without a discount

g is the gain, h the bias: how much better it is to start in one state than in another. h is known up to a constant.
Below, `T h` is the right-hand side (or `T_π h`, the same for the actions of π).

The certificate is that of `dp.gain`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from dp import bellman, communication
from dp.bounds import Modulus, modulus, modulus_of_chain
from dp.checks import require_actions, require_at_least, require_model, require_policy, start_values, tolerance
from dp.choices import argmax, deterministic, maximum, most, total
from dp.evaluation import is_policy
from dp.gain import Average, Loop, Step, centre, choose, conclude, enclose_gain, row_defect, sweep, until_certified
from dp.linear import bordered
from dp.mdp import MDP, MRP, Count, Policy, Scalar, induce


def relative_value_iteration(
    mdp: MDP,
    start: ArrayLike | Average | None = None,
    *,
    tol: Scalar | None = None,
    max_iters: Count = 1_000_000,
    damping: Scalar = 0.5,
) -> Average:
    """Iterate `h <- h + damping (T h - h)` minus a constant until the certificate says that `upper - lower <= tol`.

    T h = max_a [R + P h]: gamma is ignored. start: values [S], or an Average (default 0).
    damping: in (0, 1]. Below 1 it is as if every state could stay where it is (`P' = (1 - damping) I + damping P`), so
        that periodic chains converge. With 1 they may not.
    tol: absolute, in reward per step; None means 1e-6 in float64 and 1e-3 in float32. max_iters: backups at most.
    Returns an Average. Raises ValueError for an MDP that is not weakly communicating, for episodes that end, for
    tol <= 0 and for damping outside (0, 1]. Inside jit nothing of this is seen: the bounds then stay apart, or are
    infinite, and `converged` is False after max_iters backups or at once.
    Source: White (1963); Schweitzer (1971); Puterman (1994), sections 8.5.4 and 8.5.5.
    """
    require_model(mdp, "relative_value_iteration", discounted=False)
    _require_weakly_communicating(mdp)
    require_at_least(1, max_iters, "max_iters")
    if not isinstance(damping, Tracer) and not 0 < float(damping) <= 1:
        raise ValueError(f"damping must lie in (0, 1], got {damping}")
    start = start_values(mdp, start.bias if isinstance(start, Average) else start)
    dtype = mdp.R.dtype
    return _relative_value_iteration(mdp, start, tolerance(tol, dtype), max_iters, jnp.asarray(damping, dtype))


@jax.jit
def _relative_value_iteration(mdp: MDP, start, tol, max_iters, damping) -> Average:
    mdp = _undiscounted(mdp)
    fixed, start = jax.lax.stop_gradient((mdp, start))
    back_up = _optimality(fixed)

    def advance(loop: Loop) -> tuple[Step, Any]:
        return back_up(sweep(loop.step, damping), None), loop.memory

    end = until_certified(advance, back_up(centre(start), None), tol=tol, max_iters=max_iters)
    return conclude(mdp, end, tol)


# Discounted policy iteration mostly takes a few evaluations; where it takes more, sweeps are cheaper.
ROUGH = 16


class Howard(NamedTuple):
    """What policy iteration remembers.

    tried: the policy evaluated last without a discount. lower: the best lower bound so far.
    rough: how many evaluations with a discount may follow; -1 after them, until the next one without.
    due: no evaluation without a discount before this iteration. wait: for so many iterations after the last failure.
    """

    tried: Int[Array, " S"]
    lower: Float[Array, ""]
    rough: Int[Array, ""]
    due: Int[Array, ""]
    wait: Int[Array, ""]


def average_policy_iteration(
    mdp: MDP,
    start: ArrayLike | Average | None = None,
    *,
    tol: Scalar | None = None,
    max_iters: Count = 10_000,
) -> Average:
    """Evaluate and improve a deterministic policy until the certificate says that `upper - lower <= tol`.

    Evaluation solves `g + h(s) = r_π(s) + Σ_s' p_π(s'|s) h(s')`, h(0) = 0, directly; gamma is ignored. A policy with
    several recurrent classes has no such g. Where that stops the bounds from closing, evaluations with a discount of
    1 - sqrt(eps) follow, which rank the classes; where they do not help either, damped sweeps of relative value
    iteration, twice as many each time: so it converges in every weakly communicating MDP.

    start: the first policy, int [S], or an Average (default: greedy in the rewards).
    tol: absolute, in reward per step; None means 1e-6 in float64 and 1e-3 in float32. max_iters: steps at most.
    Returns an Average. Raises ValueError as `relative_value_iteration` does, and for impossible policies.
    Source: Howard (1960); Puterman (1994), section 8.6.
    """
    require_model(mdp, "average_policy_iteration", discounted=False)
    _require_weakly_communicating(mdp)
    require_at_least(1, max_iters, "max_iters")
    if start is not None:
        start = require_actions(mdp, start.policy if isinstance(start, Average) else start)
    return _average_policy_iteration(mdp, start, tolerance(tol, mdp.R.dtype), max_iters)


@jax.jit
def _average_policy_iteration(mdp: MDP, policy0, tol, max_iters) -> Average:
    mdp = _undiscounted(mdp)
    fixed = jax.lax.stop_gradient(mdp)
    back_up = _optimality(fixed)

    def advance(loop: Loop) -> tuple[Step, Howard]:
        memory, old = loop.memory, loop.step
        policy = old.policy if policy0 is None else jnp.where(loop.iterations == 1, policy0, old.policy)
        rough = memory.rough > 0
        exact = ~rough & (loop.iterations >= memory.due) & jnp.any(policy != memory.tried)
        gamma = jnp.where(rough, 1 - jnp.sqrt(jnp.finfo(mdp.R.dtype).eps), 1).astype(mdp.R.dtype)
        h = jax.lax.cond(exact | rough, lambda: _bias(fixed, policy, gamma), lambda: sweep(old, 0.5))
        new = back_up(h, policy)

        rise, gap = new.gain.lower - memory.lower, new.gain.gap
        failed = exact & ~((rise > loop.best / 8) | (gap < loop.best * (7 / 8)))
        ranks = failed & (memory.rough == 0) & (old.gain.gap > 2 * old.gain.floor)
        sweeps = failed & ~ranks
        go_on = rough & (memory.rough > 1) & jnp.any(new.policy != policy)
        wait = jnp.where(sweeps, 2 * memory.wait, memory.wait)
        after = Howard(
            tried=jnp.where(exact, policy, jnp.where(rough, -1, memory.tried)),
            lower=jnp.maximum(memory.lower, new.gain.lower),
            rough=jnp.select([ranks, exact, go_on, rough], [ROUGH, 0, memory.rough - 1, -1], memory.rough),
            due=jnp.where(sweeps, loop.iterations + wait, memory.due),
            wait=wait,
        )
        # Without a discount a policy passes once by its lower bound and once by its gap, and what is rough comes ever
        # more seldom: in the end the sweeps have all the time they need.
        better = (rise > 0) | (gap < loop.best)
        return choose(jnp.where(exact | rough, (rough | better) & jnp.isfinite(gap), True), new, old), after

    begin = back_up(jnp.zeros(mdp.size, mdp.R.dtype), None)
    rough, due, wait = jnp.asarray(0), jnp.asarray(0), jnp.asarray(ROUGH)
    memory = Howard(jnp.full_like(begin.policy, -1), begin.gain.lower, rough, due, wait)
    end = until_certified(advance, begin, tol=tol, max_iters=max_iters, memory=memory)
    return conclude(mdp, end, tol)


def evaluate_average(
    mdp: MDP,
    policy: Policy | ArrayLike | Average,
    *,
    tol: Scalar | None = None,
    max_iters: Count = 1_000_000,
) -> Average:
    """Find the gain and the bias of a policy: `g + h(s) = Σ_a π(a|s) [R(s, a) + Σ_s' p(s'|s, a) h(s')]`, h(0) = 0.

    policy: int [S] or row-stochastic float [S, A], its rows too taken as divided by their sum. gamma is ignored.
    A direct solve, then as many damped sweeps of `T_π` as the tolerance asks for, mostly none.
    tol: absolute, in reward per step; None means 1e-6 in float64 and 1e-3 in float32. max_iters: backups at most.
    Returns an Average whose bounds enclose the gain of the policy. Raises ValueError for a policy with more than one
    recurrent class, for episodes that end, for tol <= 0 and for impossible policies.
    Source: Puterman (1994), section 8.2.
    """
    require_model(mdp, "evaluate_average", discounted=False)
    policy = require_policy(mdp, policy.policy if isinstance(policy, Average) else policy)
    policy = policy.astype(int if deterministic(policy) else mdp.R.dtype)
    if _concrete(mdp.P, mdp.mask, policy):
        graph = communication.follow(communication.graph(mdp), policy)
        communication.require_endless(graph)
        communication.require_unichain(graph)
    require_at_least(1, max_iters, "max_iters")
    return _evaluate_average(mdp, policy, tolerance(tol, mdp.R.dtype), max_iters)


@jax.jit
def _evaluate_average(mdp: MDP, policy: Policy, tol, max_iters) -> Average:
    mdp = _undiscounted(mdp)
    fixed, pi = jax.lax.stop_gradient((mdp, policy))
    chain = induce(fixed, pi)
    # Traced policies were not checked at the door. What is no policy earns nothing that could be told.
    chain = chain._replace(r=jnp.where(is_policy(mdp, pi), chain.r, -jnp.inf))
    of_chain, defect = _modulus_of_policy(fixed, pi, chain)

    def back_up(h: Float[Array, " S"]) -> Step:
        Th = bellman.sweep(chain, h)
        return Step(h, Th, pi, enclose_gain(h, Th, of_chain, defect))

    def advance(loop: Loop) -> tuple[Step, Any]:
        return back_up(sweep(loop.step, 0.5)), loop.memory

    begin, solved = back_up(jnp.zeros_like(chain.r)), back_up(_bias(fixed, pi, fixed.gamma))
    begin = choose(solved.gain.gap < begin.gain.gap, solved, begin)
    end = until_certified(advance, begin, tol=tol, max_iters=max_iters)
    return conclude(mdp, end, tol, backed_up=lambda q: bellman.state_values(q, pi, mdp.choices), of_policy=policy)


def _undiscounted(mdp: MDP) -> MDP:
    return mdp._replace(gamma=jnp.ones_like(mdp.gamma))


def _optimality(mdp: MDP) -> Callable[[Float[Array, " S"], Int[Array, " S"] | None], Step]:
    """Return the backup T h; the incumbent policy, where one is given, stays among ties."""
    of_mdp = modulus(*mdp)
    defect = row_defect(of_mdp)

    def back_up(h: Float[Array, " S"], incumbent: Int[Array, " S"] | None) -> Step:
        q = bellman.action_values(mdp, h)
        Th = maximum(q, mdp.choices)
        policy = argmax(q, mdp.choices) if incumbent is None else bellman.improve(q, incumbent, mdp.choices)
        return Step(h, Th, policy, enclose_gain(h, Th, of_mdp, defect))

    return back_up


def _modulus_of_policy(mdp: MDP, policy: Policy, chain: MRP) -> tuple[Modulus, Float[Array, ""]]:
    """Return the modulus of T_π, and by how much the masses of its rows are off."""
    of_chain = modulus_of_chain(mdp, policy, chain)
    if deterministic(policy):
        return of_chain, row_defect(of_chain)
    # |Σ_a π_a P_a h - Σ_a (π_a/w) (P_a/m_a) h| <= max|h| Σ_a π_a |m_a - 1/w| <= max|h| (w δ + |w - 1|), w = Σ_a π_a.
    w = total(policy, mdp.choices)
    off = jnp.max(jnp.abs(w - 1)) + most(policy, mdp.choices) * jnp.finfo(w.dtype).eps
    defect = row_defect(modulus(*mdp._replace(mask=policy > 0))) * (1 + off) + off
    return of_chain._replace(extra=off * of_chain.rewards), defect


def _bias(mdp: MDP, policy: Policy, gamma: Float[Array, ""]) -> Float[Array, " S"]:
    """Solve `g + h = r_π + γ P_π h`, h(0) = 0, and return h, centred; nonsense where γ = 1 and π is multichain.

    With γ < 1 it is the discounted value, but for a constant: `h = v_π - v_π(0)`, `g = (1 - γ) v_π(0)`.
    """
    h = bordered(induce(mdp, policy)._replace(gamma=gamma))
    # Not h.at[0].set(0), which XLA on CPU writes into every part of a vector that is spread over devices.
    return centre(jnp.where(jnp.arange(h.shape[0]) == 0, 0, h))


def _require_weakly_communicating(mdp: MDP) -> None:
    if _concrete(mdp.P, mdp.mask):
        graph = communication.graph(mdp)
        communication.require_endless(graph)
        communication.require_weakly_communicating(graph)


def _concrete(*arrays: Any) -> bool:
    return not any(isinstance(x, Tracer) for x in jax.tree.leaves(arrays))

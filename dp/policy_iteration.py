"""Policy iteration: evaluate a policy, make it greedy in its own values, repeat.

    evaluation    v_{k+1} = v_{π_k}         exact;
                            T_{π_k}^m v_k   m sweeps, a fixed number or as many as pay ("modified");
                            |T_{π_k} v_{k+1} - v_{k+1}| <= α |T_{π_k} v_k - v_k|   by a Krylov method ("inexact")
    improvement   π_{k+1}(s) = argmax_a Σ_{s',r} p(s', r|s, a) [r + γ v_{k+1}(s')],  the incumbent action where it ties

With m = 1 this is value iteration. A policy that repeats after truncated evaluation proves nothing: it may be wrong
until the values have travelled far enough. These solvers stop on the certificate of `dp.bounds`, like all others.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from dp import bellman, linear, transitions
from dp.bounds import modulus
from dp.checks import (
    require_actions,
    require_at_least,
    require_model,
    start_policy,
    start_values,
    tolerance,
)
from dp.choices import argmax, most
from dp.evaluation import partial_evaluation
from dp.fixed_point import History, history, until_certified
from dp.linear import Krylov
from dp.mdp import MDP, MRP, Count, Scalar, allowed, induce
from dp.solution import Backup, Solution, back_up, certified
from dp.sweeps import evaluated, spread_of, while_they_pay

# Adaptive sweeps end when the spread of the changes has shrunk so far, or after so many.
SHRINKAGE = 0.1
MOST_SWEEPS = 500

# Policies are evaluated so far before they are improved.
FORCING = 0.003

# A policy that is new in a share of the states is evaluated to this multiple of the share.
CHANGE = 0.03

# After so many inexact evaluations without a smaller gap, or where one made it so much larger, a sweep takes over. The
# patience halves each time.
INEXACT_PATIENCE, INEXACT_GROWTH = 50, 1000.0


def policy_iteration(mdp: MDP, start: Any = None, *, tol: Scalar | None = None, max_iters: Count = 100_000) -> Solution:
    """Evaluate a policy exactly, by a direct solve, and improve it, until the certificate says that it is optimal.

    start: a policy (int [S]), values (float [S]), a pair (policy, values) or a Solution; default: greedy in 0.
    tol: absolute, in units of reward, `max(upper - lower) <= tol`; None means 1e-6 in float64 and 1e-3 in float32.
    max_iters: evaluations at most; there are at most A^S policies, and in practice a few are met.
    Returns a Solution; `iterations` counts evaluations. Raises ValueError for gamma = 1, tol <= 0 and impossible
    policies. Source: Howard (1960).
    """
    start = require_start(mdp, start, max_iters, "policy_iteration")
    return exact(mdp, *start, tolerance(tol, mdp.R.dtype), max_iters)


@jax.jit
def exact(mdp: MDP, policy0, v0, tol, max_iters) -> Solution:
    """`policy_iteration` of arguments that were checked."""

    def value(chain: MRP, v: Float[Array, " S"], Tv: Float[Array, " S"], changed) -> Float[Array, " S"]:
        exact = linear.exact(chain)
        # Elimination always has an answer; a Krylov method may have none.
        return exact if transitions.is_dense(chain.P) else jnp.where(jnp.all(jnp.isfinite(exact)), exact, Tv)

    def stalled(backup: Backup, evaluated: Int[Array, " S"]) -> tuple[Bool[Array, ""], Array, Int[Array, " S"]]:
        # The same policy has the same values again. What is left is what elimination left of them.
        return (backup.policy == evaluated).all(), backup.Tv, backup.policy

    return _iterate(
        mdp, policy0, v0, value, tol, max_iters, stalled=stalled, memory=lambda start: -jnp.ones_like(start.policy)
    )


def modified_policy_iteration(
    mdp: MDP, start: Any = None, *, sweeps: Count | None = None, tol: Scalar | None = None, max_iters: Count = 1_000_000
) -> Solution:
    """Sweep the chain of a policy m times, `v <- T_π v`, then improve the policy, until the certificate says optimal.

    start: a policy (int [S]), values (float [S]), a pair (policy, values) or a Solution; default: greedy in 0.
    sweeps: m >= 1; None sweeps on until the spread of `T_π v - v` is a tenth of what it was, at most 500 times. A sweep
        reads A times less than the backup that improves.
    tol: absolute, in units of reward, `max(upper - lower) <= tol`; None means 1e-6 in float64 and 1e-3 in float32.
    max_iters: evaluations at most. Returns a Solution; `iterations` counts evaluations.
    Raises ValueError for gamma = 1, tol <= 0, sweeps < 1 and impossible policies. Source: Puterman and Shin (1978).
    """
    start = require_start(mdp, start, max_iters, "modified_policy_iteration")
    require_at_least(1, 1 if sweeps is None else sweeps, "sweeps")
    return _modified(mdp, *start, sweeps, tolerance(tol, mdp.R.dtype), max_iters)


@jax.jit
def _modified(mdp: MDP, policy0, v0, sweeps, tol, max_iters) -> Solution:
    def value(chain: MRP, v: Float[Array, " S"], Tv: Float[Array, " S"], changed) -> Float[Array, " S"]:
        # The policy is greedy in v, so that T v is its first sweep.
        if sweeps is None:
            return while_they_pay(chain, v, Tv, wanted=SHRINKAGE * spread_of(Tv - v), most=MOST_SWEEPS)[1]
        return partial_evaluation(chain, Tv, sweeps - 1)

    return _iterate(mdp, policy0, v0, value, tol, max_iters)


def inexact_policy_iteration(
    mdp: MDP,
    start: Any = None,
    *,
    method: Krylov = "bicgstab",
    forcing: Scalar = FORCING,
    tol: Scalar | None = None,
    max_iters: Count = 100_000,
) -> Solution:
    """Evaluate each policy by a Krylov method to a residual `forcing` times the one before, then improve it.

    start: a policy (int [S]), values (float [S]), a pair (policy, values) or a Solution; default: greedy in 0.
    method: "gmres" or "bicgstab", on `P @ v` alone; where it fails, one sweep takes its place (`dp.linear.krylov`).
    forcing: α in (0, 1). Small values evaluate policies that are about to change; large ones improve too often.
    tol: absolute, in units of reward, `max(upper - lower) <= tol`; None means 1e-6 in float64 and 1e-3 in float32.
    max_iters: evaluations at most. Returns a Solution; `iterations` counts evaluations. Sweeps come first, while they
    do more than Krylov steps (`dp.sweeps`), and in the place of evaluations that only made things worse.
    Raises ValueError for gamma = 1, tol <= 0, a forcing term outside (0, 1), an unknown method and impossible policies.
    Source: Gargiani, Liao-McPherson, Zanelli and Lygeros (2023).
    """
    start = require_start(mdp, start, max_iters, "inexact_policy_iteration")
    if method not in ("gmres", "bicgstab"):
        raise ValueError(f'method must be "gmres" or "bicgstab", got {method!r}')
    if not isinstance(forcing, Tracer) and not 0 < float(forcing) < 1:
        raise ValueError(f"forcing must lie between 0 and 1, got {forcing}")
    return inexact(mdp, *start, forcing, tolerance(tol, mdp.R.dtype), max_iters, method=method)


@functools.partial(jax.jit, static_argnames="method")
def inexact(mdp: MDP, policy0, v0, forcing, tol, max_iters, *, method: Krylov) -> Solution:
    """`inexact_policy_iteration` of arguments that were checked."""

    def value(chain: MRP, v: Float[Array, " S"], Tv: Float[Array, " S"], changed) -> Float[Array, " S"]:
        # The less a policy changed, the less it will: what is left then is to evaluate it.
        sweeps = jnp.where(changed > 0, 2 * most(mdp.R, mdp.choices), MOST_SWEEPS)
        forced = jnp.minimum(forcing, CHANGE * changed)
        # The first of all policies, unless it was given, knows nothing of P, and will hardly be the last.
        given = policy0 is not None or v0 is not None
        return evaluated(chain, v, Tv, method=method, forcing=forced, tol=tol, most=sweeps, eager=given | (changed < 1))

    def stalled(backup: Backup, memory: tuple) -> tuple[Bool[Array, ""], Array, tuple]:
        # Nothing proves that inexact evaluations converge: a residual that shrank for one policy may be larger by
        # 2 / (1 - γ) for the next. Then a sweep from the best values so far does, which is always a step ahead.
        best, Tv, since, patience = memory
        better = backup.gap < best
        best, Tv = jnp.where(better, backup.gap, best), jnp.where(better, backup.Tv, Tv)
        since = jnp.where(better, 0, since + 1)
        stands = (since >= patience) | (backup.gap > INEXACT_GROWTH * best)
        return stands, Tv, (best, Tv, since, jnp.where(stands, (patience + 1) // 2, patience))

    def memory(start: Backup) -> tuple:
        return jnp.full_like(start.gap, jnp.inf), start.Tv, jnp.asarray(0), jnp.asarray(INEXACT_PATIENCE)

    return _iterate(mdp, policy0, v0, value, tol, max_iters, stalled=stalled, memory=memory)


def _iterate(
    mdp: MDP,
    policy0: Int[Array, " S"] | None,
    v0: Float[Array, " S"] | None,
    evaluate: Callable[[MRP, Float[Array, " S"], Float[Array, " S"], Float[Array, ""] | None], Float[Array, " S"]],
    tol: Scalar,
    max_iters: Count,
    *,
    stalled: Callable[[Backup, Any], tuple[Bool[Array, ""], Array, Any]] | None = None,
    memory: Callable[[Backup], Any] = lambda start: (),
) -> Solution:
    """Evaluate by `evaluate(chain of π, v, T v, changed)` and improve until certified; sweep instead where that stalls.

    changed: the share of states where π is new. stalled: says whether evaluating has stalled, and which sweep to take;
    sweeps converge from anywhere. memory: what it remembers.
    """
    fixed, v0 = jax.lax.stop_gradient((mdp, v0))
    contraction = modulus(*fixed)

    def improved(backup: Backup) -> Float[Array, " S"]:
        return evaluate(induce(fixed, backup.policy), backup.v, backup.Tv, backup.changed)

    def advance(k: Int[Array, ""], backup: Backup, memory: Any) -> tuple[Float[Array, " S"], Any]:
        if stalled is None:
            return improved(backup), memory
        stands, plain, memory = stalled(backup, memory)
        return jax.lax.cond(stands, lambda backup: plain, improved, backup), memory

    policy = _first_policy(fixed, v0) if policy0 is None else policy0
    # The first evaluation is made inside the loop too, so that it is compiled once: it begins with T_π v in the place
    # of T v, and a gap that says nothing. Of values 0 that is r_π, for which P need not be read.
    chain = induce(fixed, policy)
    v0, Tv = (jnp.zeros_like(chain.r), chain.r) if v0 is None else (v0, bellman.sweep(chain, v0))
    nothing = jnp.full_like(contraction.largest, jnp.finfo(v0.dtype).max)
    zero, one = jnp.zeros_like(nothing), jnp.ones_like(nothing)
    start = Backup(v0, Tv, policy, nothing, zero, fixed.R, one, (nothing, -nothing, nothing))
    end, iterations = until_certified(
        advance,
        functools.partial(back_up, fixed, contraction),
        start,
        tol=tol,
        max_iters=jnp.maximum(max_iters, 1),
        iterations=0,
        memory=memory(start),
    )
    return certified(mdp, end, contraction, iterations, tol)


def _first_policy(mdp: MDP, v0: Float[Array, " S"] | None) -> Int[Array, " S"]:
    """Return the policy greedy in v0, or in 0, for which P need not be read."""
    if v0 is not None:
        return bellman.greedy(mdp, v0)
    return argmax(allowed(mdp, mdp.R), mdp.choices)


def policy_iteration_history(
    mdp: MDP, policy0: ArrayLike, start: ArrayLike | Solution | None, num: int, *, sweeps: int | None = 1
) -> History:
    """Return `num` iterations of policy iteration, however little they prove; see History.

    policy0: int [S]. start: values [S] or None for 0. sweeps: evaluation sweeps per iteration, each from the last
    values; None evaluates exactly.
    """
    require_at_least(1, 1 if sweeps is None else sweeps, "sweeps")
    policy0 = require_actions(mdp, policy0)
    return _policy_iteration_history(mdp, policy0, start_values(mdp, start), num=num, sweeps=sweeps)


@functools.partial(jax.jit, static_argnames=("num", "sweeps"))
def _policy_iteration_history(mdp: MDP, policy0, v0, *, num: int, sweeps: int | None) -> History:
    def step(k: Int[Array, ""], last: History) -> History:
        chain = induce(mdp, last.policy)
        v = linear.exact(chain) if sweeps is None else partial_evaluation(chain, last.v, sweeps)
        q = bellman.action_values(mdp, v)
        return History(v, q, bellman.improve(q, last.policy, mdp.choices))

    return history(step, History(v0, bellman.action_values(mdp, v0), policy0), num)


def require_start(
    mdp: MDP, start: Any, max_iters: Any, solver: str
) -> tuple[Int[Array, " S"] | None, Float[Array, " S"] | None]:
    """Check the model and return the policy and the values to start from, each None where nothing was given."""
    require_model(mdp, solver)
    require_at_least(1, max_iters, "max_iters")
    return (None, None) if start is None else start_policy(mdp, start)

"""Policy iteration: evaluate a policy, make it greedy in its own values, repeat.

    evaluation    v_{k+1} = v_{π_k}  (exact), or  T_{π_k}^m v_k  (m sweeps: "modified" policy iteration)
    improvement   π_{k+1}(s) = argmax_a Σ_{s',r} p(s', r|s, a) [r + γ v_{k+1}(s')],  the incumbent action where it ties

With m = 1 this is value iteration. A policy that repeats after truncated evaluation proves nothing: it may be wrong
until the values have travelled far enough. These solvers stop on the certificate of `dp.bounds`, like all others.
"""

import functools

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from dp import bellman
from dp.bounds import enclose, modulus
from dp.evaluation import direct, partial_evaluation, require_policy, start_values
from dp.fixed_point import Backup, History, Solution, conclude, history, require_iterations, tolerance, until_certified
from dp.mdp import MDP, induce, require_discount


def policy_iteration(
    mdp: MDP,
    policy0: ArrayLike | None = None,
    v0: ArrayLike | None = None,
    *,
    sweeps: int | None = None,
    tol: float | None = None,
    max_iters: int = 100_000,
) -> Solution:
    """Evaluate and improve a deterministic policy until the certificate says that `max(upper - lower) <= tol`.

    policy0: int [S] (default: greedy in v0). v0: [S] where the first truncated evaluation starts (default 0).
    sweeps: None evaluates exactly, by a direct solve, and the policies are then at most A^S and in practice a few;
        m >= 1 applies `T_π` m times, from the values at hand (modified policy iteration).
    tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32. max_iters: evaluations at most.
    Returns a Solution; `iterations` counts evaluations. Raises ValueError for gamma = 1, tol <= 0, sweeps < 1 and
    impossible policies. Source: Howard (1960); Puterman and Shin (1978).
    """
    require_discount(mdp.gamma, "policy_iteration")
    require_iterations(max_iters)
    start = _require(mdp, policy0, sweeps), start_values(mdp, v0)
    return _policy_iteration(mdp, *start, sweeps, tolerance(tol, mdp.R.dtype), max_iters, exact=sweeps is None)


@functools.partial(jax.jit, static_argnames="exact")
def _policy_iteration(mdp: MDP, policy0, v0, sweeps, tol, max_iters, *, exact: bool) -> Solution:
    contraction = modulus(*mdp)

    def back_up(v: Float[Array, " S"], policy: Int[Array, " S"]) -> Backup:
        q = bellman.action_values(mdp, v)
        Tv = jnp.max(q, axis=1)
        return Backup(v, Tv, bellman.improve(q, policy), enclose(v, Tv, contraction))

    def advance(k: Int[Array, ""], backup: Backup) -> Float[Array, " S"]:
        chain = induce(mdp, backup.policy)
        # The policy is greedy in v, so that T v is its first sweep.
        return direct(chain) if exact else partial_evaluation(chain, backup.Tv, sweeps - 1)

    def settled(old: Backup, new: Backup) -> jax.Array:
        # After exact evaluation the same policy gives the same values again. After sweeps it does not.
        return jnp.asarray(exact) & (old.policy == new.policy).all()

    def sweep(k: Int[Array, ""], backup: Backup) -> Float[Array, " S"]:
        return backup.Tv

    policy = bellman.greedy(mdp, v0) if policy0 is None else policy0
    start = back_up(_evaluate_policy(mdp, policy, v0, sweeps), policy)
    end, iterations = until_certified(advance, back_up, start, tol=tol, max_iters=max_iters, settled=settled)
    if exact:
        # Where elimination left a larger residual than sweeps would, a few of them polish the values.
        end, more = until_certified(sweep, back_up, end, tol=tol, max_iters=max_iters - iterations + 1)
        iterations = iterations + more - 1
    return conclude(mdp, end, iterations, tol)


def policy_iteration_history(
    mdp: MDP,
    policy0: ArrayLike,
    v0: ArrayLike | None,
    num: int,
    *,
    sweeps: int | None = 1,
) -> History:
    """Return `num` iterations of policy iteration, however little they prove; see History.

    sweeps: evaluation sweeps per iteration, each from the last values; None evaluates exactly.
    """
    return _policy_iteration_history(mdp, _require(mdp, policy0, sweeps), start_values(mdp, v0), num=num, sweeps=sweeps)


@functools.partial(jax.jit, static_argnames=("num", "sweeps"))
def _policy_iteration_history(mdp: MDP, policy0, v0, *, num: int, sweeps: int | None) -> History:
    def step(k: Int[Array, ""], last: History) -> History:
        v = _evaluate_policy(mdp, last.policy, last.v, sweeps)
        q = bellman.action_values(mdp, v)
        return History(v, q, bellman.improve(q, last.policy))

    return history(step, History(v0, bellman.action_values(mdp, v0), policy0), num)


def _evaluate_policy(mdp: MDP, policy: Int[Array, " S"], v: Float[Array, " S"], sweeps) -> Float[Array, " S"]:
    chain = induce(mdp, policy)
    return direct(chain) if sweeps is None else partial_evaluation(chain, v, sweeps)


def _require(mdp: MDP, policy0: ArrayLike | None, sweeps: int | None) -> Int[Array, " S"] | None:
    """Check the arguments, and bring the policy to the integers that argmax gives."""
    if sweeps is not None and not isinstance(sweeps, Tracer) and sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, or None for exact evaluation; got {sweeps}")
    if policy0 is None:
        return None
    policy = require_policy(mdp, policy0)
    if policy.ndim != 1:
        raise ValueError(f"policy0 must be deterministic, of shape {[mdp.R.shape[0]]}, got {list(policy.shape)}")
    return policy.astype(int)

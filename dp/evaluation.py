"""Policy evaluation: the value `v_π = (I - γ P_π)^{-1} r_π` of a given policy, by a direct solve or by sweeps."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from dp import bellman, transitions
from dp.bounds import enclose, modulus_of_chain
from dp.fixed_point import Backup, Solution, conclude, require_iterations, tolerance, until_certified
from dp.mdp import MDP, MRP, Policy, induce, require_discount


def direct(mrp: MRP) -> Float[Array, " S"]:
    """Solve `(I - γ P) v = r` by elimination: O(S³) work, O(S²) memory; differentiable. Shape [S]."""
    A = jnp.eye(mrp.r.shape[0], dtype=mrp.r.dtype) - mrp.gamma * mrp.P
    return jax.lax.custom_linear_solve(
        lambda v: v - mrp.gamma * transitions.apply(mrp.P, v),
        mrp.r,
        solve=lambda _, b: _solve(A, b),
        transpose_solve=lambda _, b: _solve(A.T, b),
    )


def _solve(A: Float[Array, "S S"], b: Float[Array, " S"]) -> Float[Array, " S"]:
    """Solve A x = b for A = I - γ P or its transpose, alone or in batches by vmap."""
    # LAPACK's LU in batches, as vmap makes it, blocks the threads that it waits for: two at a time on two cores can
    # hang for ever. Small systems are eliminated here, large ones go to LAPACK one by one.
    return _eliminate(A, b) if A.shape[0] <= 32 else _lapack(A, b)


@jax.custom_batching.sequential_vmap
def _lapack(A: Float[Array, "S S"], b: Float[Array, " S"]) -> Float[Array, " S"]:
    return jnp.linalg.solve(A, b)


def _eliminate(A: Float[Array, "S S"], b: Float[Array, " S"]) -> Float[Array, " S"]:
    """Gauss-Jordan without pivots, stable because A is diagonally dominant (Higham 2002, theorem 9.9)."""

    def step(k: Int[Array, ""], Ab: Float[Array, "S S1"]) -> Float[Array, "S S1"]:
        row = Ab[k] / Ab[k, k]
        return (Ab - Ab[:, k, None] * row[None, :]).at[k].set(row)

    return jax.lax.fori_loop(0, A.shape[0], step, jnp.concatenate([A, b[:, None]], axis=1))[:, -1]


def partial_evaluation(mrp: MRP, v: Float[Array, " S"], num: int | Int[Array, ""]) -> Float[Array, " S"]:
    """`T_π^num v`: truncated policy evaluation, `num` synchronous sweeps. Shape [S]."""
    return jax.lax.fori_loop(0, num, lambda _, v: bellman.sweep(mrp, v), v)


def evaluate(
    mdp: MDP,
    policy: Policy | ArrayLike,
    v0: ArrayLike | None = None,
    *,
    method: Literal["direct", "sweeps"] = "direct",
    tol: float | None = None,
    max_iters: int = 1_000_000,
) -> Solution:
    """Find `v_π`, the solution of `v(s) = Σ_a π(a|s) Σ_{s',r} p(s',r|s,a) [r + γ v(s')]`, and enclose it.

    policy: int [S] or row-stochastic float [S, A]. v0: [S], where sweeps start (default 0).
    method: start from the "direct" solution, or from v0 with "sweeps". Either way `v <- T_π v` is repeated until
        `max(upper - lower) <= tol` or `max_iters`; after a direct solution that is seldom needed.
    tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32.
    Returns a Solution whose bounds enclose v_π. Raises ValueError for gamma = 1, tol <= 0 and impossible policies.
    Source: Sutton and Barto (2018), section 4.1; bounds from `dp.bounds`.
    """
    require_discount(mdp.gamma, "evaluate")
    if method not in ("direct", "sweeps"):
        raise ValueError(f'method must be "direct" or "sweeps", got {method!r}')
    policy = require_policy(mdp, policy)
    require_iterations(max_iters)
    return _evaluate(mdp, policy, start_values(mdp, v0), tolerance(tol, mdp.R.dtype), max_iters, method=method)


@functools.partial(jax.jit, static_argnames="method")
def _evaluate(mdp: MDP, policy: Policy, v0, tol, max_iters, *, method: str) -> Solution:
    chain = induce(mdp, policy)
    modulus = modulus_of_chain(mdp, policy, chain)

    def back_up(v: Float[Array, " S"], policy: Policy) -> Backup:
        Tv = bellman.sweep(chain, v)
        return Backup(v, Tv, policy, enclose(v, Tv, modulus))

    # Sweeps polish a direct solution too: the residual of elimination can be larger than that of a sweep.
    start = back_up(direct(chain) if method == "direct" else v0, policy)
    end, iterations = until_certified(lambda k, b: b.Tv, back_up, start, tol=tol, max_iters=max_iters)
    return conclude(mdp, end, iterations, tol, backed_up=lambda q: bellman.state_values(q, policy))


def start_values(mdp: MDP, v0: ArrayLike | None) -> Float[Array, " S"]:
    """Return v0 as an array in the dtype of the MDP, or zeros; ValueError for another shape or a number not finite."""
    S = mdp.R.shape[0]
    if v0 is None:
        return jnp.zeros(S, mdp.R.dtype)
    v = v0 if isinstance(v0, Tracer) else jnp.asarray(np.asarray(v0), mdp.R.dtype)
    if v.shape != (S,):
        raise ValueError(f"v0 must have shape {[S]}, got {list(v.shape)}")
    if not isinstance(v, Tracer) and not np.isfinite(v).all():
        s = int(np.argmin(np.isfinite(v)))
        raise ValueError(f"v0[{s}] = {v[s]} is not finite")
    return v.astype(mdp.R.dtype)


def require_policy(mdp: MDP, policy: ArrayLike) -> Policy:
    """Return the policy as an array; ValueError, naming the state, where it is none. Traced: only the shape."""
    S, A = mdp.R.shape
    policy = policy if isinstance(policy, jax.Array) else jnp.asarray(np.asarray(policy))
    if policy.shape not in ((S,), (S, A)):
        raise ValueError(f"policy must have shape {[S]} or {[S, A]}, got {list(policy.shape)}")
    if policy.ndim == 1 and not jnp.issubdtype(policy.dtype, jnp.integer):
        raise ValueError(f"a policy of shape {[S]} holds actions and must be of integers, got {policy.dtype}")
    if policy.ndim == 2 and not jnp.issubdtype(policy.dtype, jnp.floating):
        raise ValueError(f"a policy of shape {[S, A]} holds probabilities and must be of floats, got {policy.dtype}")
    if isinstance(policy, Tracer) or isinstance(mdp.mask, Tracer):
        return policy
    pi = np.asarray(policy)
    if pi.ndim == 1:
        if ((pi < 0) | (pi >= A)).any():
            s = int(np.argmax((pi < 0) | (pi >= A)))
            raise ValueError(f"policy[{s}] = {pi[s]} is not an action: there are {A}")
        pi = np.eye(A)[pi]
    rows = pi.sum(1)
    wrong = ~(np.abs(rows - 1) <= max(1e-8, 100 * float(jnp.finfo(pi.dtype).eps))) | ~(pi >= 0).all(1)
    if wrong.any():
        s = int(np.argmax(wrong))
        raise ValueError(f"policy[{s}] = {pi[s]} is not a distribution over actions: it sums to {rows[s]:.10g}")
    if mdp.mask is not None and (pi[~np.asarray(mdp.mask)] > 0).any():
        s, a = np.argwhere((pi > 0) & ~np.asarray(mdp.mask))[0]
        raise ValueError(f"policy takes action {a} in state {s}, which the mask forbids")
    return policy

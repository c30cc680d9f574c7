"""Policy evaluation: the value `v_π = (I - γ P_π)^{-1} r_π` of a given policy, direct, by sweeps or Krylov."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from dp import bellman, linear
from dp.bounds import Bounds, enclose, enclose_transient, modulus_of_chain
from dp.checks import require_at_least, require_model, require_policy, start_values, tolerance
from dp.choices import anywhere, deterministic, number, total
from dp.fixed_point import sweep, until_certified
from dp.mdp import MDP, MRP, Count, Policy, Scalar, induce
from dp.solution import Backup, Solution, conclude

Method = Literal["direct", "sweeps", "gmres", "bicgstab"]
# How long to look for the expected number of steps before a chain counts as endless.
MOST_SWEEPS, MOST_CALLS = 100_000, 200

METHODS = ("direct", "sweeps", "gmres", "bicgstab")


def partial_evaluation(mrp: MRP, v: Float[Array, " S"], num: Count) -> Float[Array, " S"]:
    """`T_π^num v`: truncated policy evaluation, `num` synchronous sweeps. Shape [S]."""
    return jax.lax.fori_loop(0, num, lambda _, v: bellman.sweep(mrp, v), v)


def evaluate(
    mdp: MDP,
    policy: Policy | ArrayLike | Solution,
    start: ArrayLike | Solution | None = None,
    *,
    method: Method = "direct",
    tol: Scalar | None = None,
    max_iters: Count = 1_000_000,
) -> Solution:
    """Find `v_π`, the solution of `v(s) = Σ_a π(a|s) Σ_{s',r} p(s',r|s,a) [r + γ v(s')]`, and enclose it.

    policy: int [S], row-stochastic float [S, A], or a Solution that has one.
    start: values [S] or a Solution (default 0); "direct" needs none.
    method: "direct" elimination, then as many sweeps `v <- T_π v` as the tolerance asks for, mostly none;
        "sweeps" alone; or "gmres" or "bicgstab", which read P through `P @ v` only and repeat, on the residual that is
        left, until the tolerance is met: for models too large to eliminate. Each is judged by the same bounds.
    tol: absolute, in units of reward, `max(upper - lower) <= tol`; None means 1e-6 in float64 and 1e-3 in float32.
    max_iters: sweeps, or calls of the Krylov method, at most.
    γ = 1 is allowed where the policy ends every episode; where it does not, the bounds are infinite.
    Returns a Solution whose bounds enclose v_π; it is differentiable in π too, where π is stochastic.
    Raises ValueError for gamma > 1, tol <= 0 and impossible policies; a traced policy that is none is not certified.
    Source: Sutton and Barto (2018), section 4.1; bounds from `dp.bounds`.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    require_model(mdp, "evaluate", discounted=False)
    # Whether γ = 1 decides which bounds are made; where it cannot be seen, both are.
    gamma = None if isinstance(mdp.gamma, Tracer) else float(np.asarray(mdp.gamma))
    if gamma is not None and gamma > 1:
        raise ValueError(f"evaluate needs gamma <= 1, got gamma = {gamma:.10g}")
    discounted = None if gamma is None else gamma < 1
    policy = require_policy(mdp, policy)
    policy = policy.astype(int if deterministic(policy) else mdp.R.dtype)
    require_at_least(1, max_iters, "max_iters")
    tol = tolerance(tol, mdp.R.dtype)
    return _evaluate(mdp, policy, start_values(mdp, start), tol, max_iters, method=method, discounted=discounted)


@functools.partial(jax.jit, static_argnames=("method", "discounted"))
def _evaluate(mdp: MDP, policy: Policy, v0, tol, max_iters, *, method: Method, discounted: bool | None) -> Solution:
    fixed, pi, v0 = jax.lax.stop_gradient((mdp, policy, v0))
    chain = induce(fixed, pi)
    # Traced policies were not checked at the door. What is no policy has no value.
    chain = chain._replace(r=jnp.where(is_policy(fixed, pi), chain.r, -jnp.inf))
    modulus = modulus_of_chain(fixed, pi, chain)
    kind: linear.Krylov = "gmres" if method == "gmres" else "bicgstab"

    def bound(v: Float[Array, " S"], Tv: Float[Array, " S"]) -> Bounds:
        if steps is None:
            return enclose(v, Tv, modulus)
        undiscounted = enclose_transient(v, Tv, steps, chain, modulus)
        if discounted is False:
            return undiscounted
        both = enclose(v, Tv, modulus), undiscounted
        return jax.tree.map(lambda one, other: jnp.where(modulus.largest < 1, one, other), *both)

    # Undiscounted, the bounds are weighted by the expected number of steps to the end.
    ones = jnp.ones_like(chain.r)
    if discounted:
        steps = None
    else:
        find = functools.partial(_expected_steps, chain._replace(r=ones), method=method)
        steps = jax.lax.cond(modulus.largest < 1, lambda: ones, find)

    def back_up(v: Float[Array, " S"], policy: Policy) -> Backup:
        Tv = bellman.sweep(chain, v)
        known = bound(v, Tv)
        return Backup(v, Tv, policy, known.gap, known.floor)

    def krylov(k: Int[Array, ""], backup: Backup, memory: tuple) -> tuple[Float[Array, " S"], tuple]:
        # So far that the tolerance should be met, but no further than one pass of the dtype can get.
        wanted = 0.1 * tol / backup.gap
        forcing = jnp.clip(wanted, jnp.sqrt(jnp.finfo(v0.dtype).eps), 0.1).astype(v0.dtype)
        return linear.krylov(chain, backup.v, method=kind, forcing=forcing), memory

    # Sweeps polish a direct solution too: the residual of elimination can be larger than that of a sweep.
    start = back_up(linear.exact(chain) if method == "direct" else v0, pi)
    advance = krylov if method in ("gmres", "bicgstab") else sweep
    end, iterations = until_certified(advance, back_up, start, tol=tol, max_iters=max_iters)
    backed_up = lambda q: bellman.state_values(q, pi, mdp.choices)  # noqa: E731
    return conclude(mdp, bound(end.v, end.Tv), pi, iterations, tol, backed_up=backed_up, theta=(mdp, policy))


def is_policy(mdp: MDP, pi: Policy) -> Bool[Array, " S"]:
    """Return, for every state, whether π names an action or gives probabilities."""
    if deterministic(pi):
        return (pi >= 0) & (pi < number(mdp.R, mdp.choices))
    # It may have been made in float32 for a model in float64.
    return (jnp.abs(total(pi, mdp.choices) - 1) <= 1e-5) & ~anywhere(~(pi >= 0), mdp.choices)


def _expected_steps(chain: MRP, *, method: Method) -> Float[Array, " S"]:
    """Return a w with `w - γ P w >= 1/2`, about `(I - γ P)^{-1} 1`; whatever came last where the chain does not end."""
    if method == "direct":
        return linear.exact(chain)
    most = MOST_SWEEPS if method == "sweeps" else MOST_CALLS

    def unfinished(state: tuple) -> Bool[Array, ""]:
        w, k = state
        return (jnp.min(linear.product(chain, w)) < 0.5) & jnp.all(jnp.isfinite(w)) & (k < most)

    def improve(state: tuple) -> tuple:
        w, k = state
        # Not BiCGStab, which breaks down on chains as plain as states in a row.
        swept = method == "sweeps"
        return bellman.sweep(chain, w) if swept else linear.krylov(chain, w, method="gmres", forcing=0.01), k + 1

    return jax.lax.while_loop(unfinished, improve, (chain.r, jnp.asarray(0)))[0]

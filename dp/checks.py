"""The door of every solver: its arguments are checked here, on the host, wherever their values are concrete.

Inside someone else's jit values are traced: then only shapes and dtypes can be checked. A check on a value that may be
a JAX array goes through float or NumPy: inside jit, `x > 0` gives a tracer even for a concrete x.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from dp import transitions
from dp.choices import argmax, deterministic
from dp.mdp import MDP, Count, Policy, Scalar, require_mdp
from dp.solution import Solution
from dp.transitions import SparseModel, is_dense


def require_model(mdp: MDP, solver: str, *, discounted: bool = True) -> None:
    """Raise ValueError where the arrays of an MDP do not fit each other, traced or not, or where gamma is 1 or more.

    `make_mdp` checks the numbers; an MDP made by hand, or inside jit, comes here unchecked.
    """
    require_mdp(mdp)
    rows = None if mdp.choices is None else mdp.choices.owner.shape
    _require_fit(solver, is_dense(mdp.P), rows, _form(mdp.P), _form(mdp.R), _form(mdp.gamma), _form(mdp.mask))
    gamma = 0.0 if isinstance(mdp.gamma, Tracer) else float(np.asarray(mdp.gamma))
    if not gamma >= 0:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma:.10g}")
    if discounted and gamma >= 1:
        raise ValueError(
            f"{solver} needs gamma < 1, got gamma = {gamma:.10g}; without a discount there are "
            "dp.total_reward, dp.reachability, dp.finite_horizon, dp.evaluate of a policy that ends, and "
            "dp.relative_value_iteration"
        )


# The shape of an array, its dtype, and whether it takes the dtype of others, as Python's numbers do.
Form = tuple[tuple[int, ...], jnp.dtype, bool]


def _form(x: Any) -> Form | None:
    """Return the form of an array, of transitions, or of a number; None of None."""
    if x is None:
        return None
    # Where there is a dtype it is read off: to ask JAX takes longer than to solve a small model.
    if isinstance(x, SparseModel | jax.Array):
        return x.shape, x.dtype, getattr(x, "weak_type", False)
    return np.shape(x), jnp.result_type(x), isinstance(x, int | float)


@functools.lru_cache
def _require_fit(
    solver: str, dense: bool, rows: tuple[int, ...] | None, P: Form, R: Form, gamma: Form, mask: Form | None
) -> None:
    """Raise ValueError where the parts of an MDP do not fit each other. Those that were seen to fit do so again.

    rows: the shape of the choices where states have different numbers of actions.
    """
    forms = {name: form for name, form in {"P": P, "R": R, "gamma": gamma, "mask": mask}.items() if form is not None}
    if len(P[0]) == 4 and len(R[0]) == 3:
        raise ValueError(f"{solver} takes one MDP, P has shape {list(P[0])}; for many, jax.vmap(dp.{solver})")
    if dense:
        S, A = P[0][:2] if len(P[0]) == 3 else (0, 0)
        expected = {"P": (S, A, S), "R": (S, A), "gamma": (), "mask": (S, A)}
    else:
        rows = P[0] if rows is None else rows
        S, expected = rows[0] if rows else 0, {"P": rows, "R": rows, "gamma": (), "mask": rows}
    for name, (shape, _, _) in forms.items():
        if shape != expected[name] or S == 0:
            fit = "[S, A, S]" if name == "P" else f"{list(expected[name])} to fit P"
            raise ValueError(f"{name} must have shape {fit}, got {list(shape)}")
    dtype = P[1]
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"P must be of floats, got {dtype}")
    for name, (_, other, weak) in forms.items():
        if name != "mask" and other != dtype and not weak:
            raise ValueError(f"P is {dtype} and {name} is {other}: bring them to one dtype, or use dp.make_mdp")


def require_at_least(least: int, value: Count, name: str) -> None:
    """Raise ValueError where a concrete number is below the least that makes sense."""
    if not isinstance(value, Tracer) and int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def require_positive(value: Scalar, name: str) -> None:
    """Raise ValueError where a concrete number is not positive and finite."""
    if not isinstance(value, Tracer) and not 0 < float(value) < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def tolerance(tol: Scalar | None, dtype: jnp.dtype) -> Scalar:
    """Return tol, or where it is None what the dtype can usually certify: 1e-6 in float64, 1e-3 in float32."""
    if tol is None:
        return 1e-6 if dtype == jnp.float64 else 1e-3
    require_positive(tol, "tol")
    return tol


def seen(x: ArrayLike) -> np.ndarray | Array:
    """Return a NumPy array where the numbers can be seen; not inside jit, nor where some lie on other hosts."""
    if isinstance(x, Tracer):
        return x
    elsewhere = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    return x if elsewhere else np.asarray(x)  # pyright: ignore[reportReturnType]


def start_values(mdp: MDP, start: ArrayLike | Solution | None) -> Float[Array, " S"]:
    """Return the values to start from in the dtype of the MDP: those of a Solution, an array [S], or zeros.

    ValueError for another shape or a number that is not finite.
    """
    S = mdp.size
    if start is None:
        return transitions.lay(mdp.P, seen(jnp.zeros(S, mdp.R.dtype)))
    if isinstance(start, Solution):
        # One that says nothing about some states is no reason to refuse the whole.
        start = jnp.where(jnp.isfinite(start.v), start.v, 0)
    v = seen(start)
    if v.shape != (S,):
        raise ValueError(f"start must have shape {[S]}, got {list(v.shape)}")
    if isinstance(v, np.ndarray) and not np.isfinite(v).all():
        s = int(np.argmin(np.isfinite(v)))
        raise ValueError(f"start[{s}] = {v[s]} is not finite")
    return transitions.lay(mdp.P, v.astype(mdp.R.dtype))


def start_policy(mdp: MDP, start: Any) -> tuple[Int[Array, " S"] | None, Float[Array, " S"]]:
    """Return the policy and the values to start from: of a Solution, a pair, a policy (integers) or values (floats).

    The policy is None where only values are known: then it is the one greedy in them.
    """
    if isinstance(start, Solution):
        policy = start.policy if deterministic(start.policy) else argmax(start.q, mdp.choices)
        return require_actions(mdp, policy), start_values(mdp, start)
    if isinstance(start, tuple) and type(start) is not tuple:
        raise ValueError(f"start must be values, a policy, a pair of both or a Solution, got {type(start).__name__}")
    if isinstance(start, tuple):
        policy, v = start
        return require_actions(mdp, policy), start_values(mdp, v)
    array = start if start is None else seen(start)
    if array is None or (array.ndim == 1 and jnp.issubdtype(array.dtype, jnp.floating)):
        return None, start_values(mdp, array)
    return require_actions(mdp, array), start_values(mdp, None)


def require_actions(mdp: MDP, policy: ArrayLike | Solution) -> Int[Array, " S"]:
    """Return a deterministic policy in the integers that argmax gives; ValueError for any other."""
    policy = require_policy(mdp, policy)
    if not deterministic(policy):
        raise ValueError(f"policy must be deterministic, of shape {[mdp.size]}, got {list(policy.shape)}")
    return policy.astype(int)


def require_policy(mdp: MDP, policy: ArrayLike | Solution) -> Policy:
    """Return the policy as an array; ValueError, naming the state, where it is none. Traced: only the shape."""
    S, rows = mdp.size, mdp.R.shape
    policy = policy.policy if isinstance(policy, Solution) else policy
    policy = seen(policy)
    if policy.shape not in ((S,), rows):
        raise ValueError(f"policy must have shape {[S]} or {list(rows)}, got {list(policy.shape)}")
    names_actions = deterministic(policy)
    if policy.shape != rows and not names_actions:
        raise ValueError(f"a policy of shape {[S]} holds actions and must be of integers, got {policy.dtype}")
    if policy.shape != (S,) and not jnp.issubdtype(policy.dtype, jnp.floating):
        raise ValueError(
            f"a policy of shape {list(rows)} holds probabilities and must be of floats, got {policy.dtype}"
        )
    if not isinstance(policy, np.ndarray):
        return policy
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(mdp.choices)):
        return jnp.asarray(policy)
    if names_actions:
        _require_named(mdp, policy)
    else:
        _require_distribution(mdp, policy)
    return transitions.lay(mdp.P, policy)


def _require_named(mdp: MDP, pi: np.ndarray) -> None:
    count = mdp.R.shape[-1] if mdp.choices is None else np.bincount(np.asarray(mdp.choices.owner), minlength=len(pi))
    wrong = (pi < 0) | (pi >= count)
    if wrong.any():
        s = int(np.argmax(wrong))
        raise ValueError(f"policy[{s}] = {pi[s]} is not an action: there are {np.broadcast_to(count, pi.shape)[s]}")
    if mdp.mask is not None and isinstance(mask := seen(mdp.mask), np.ndarray):
        allowed = mask[np.arange(len(pi)), pi]
        if not allowed.all():
            s = int(np.argmin(allowed))
            raise ValueError(f"policy takes action {pi[s]} in state {s}, which the mask forbids")


def _require_distribution(mdp: MDP, pi: np.ndarray) -> None:
    if mdp.choices is None:
        sums, negative = pi.sum(1), ~(pi >= 0).all(1)
        of_state = pi
    else:
        first = np.asarray(mdp.choices.first)
        sums, negative = np.add.reduceat(pi, first), np.logical_or.reduceat(~(pi >= 0), first)
        of_state = np.split(pi, first[1:])
    wrong = ~(np.abs(sums - 1) <= max(1e-8, 100 * float(jnp.finfo(pi.dtype).eps))) | negative
    if wrong.any():
        s = int(np.argmax(wrong))
        raise ValueError(f"policy[{s}] = {of_state[s]} is not a distribution over actions: it sums to {sums[s]:.10g}")
    if mdp.mask is not None and isinstance(mask := seen(mdp.mask), np.ndarray) and (pi[~mask] > 0).any():
        s, a = np.argwhere((pi > 0) & ~mask)[0]
        raise ValueError(f"policy takes action {a} in state {s}, which the mask forbids")

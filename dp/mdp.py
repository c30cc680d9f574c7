"""Finite Markov decision processes, and the Markov reward process that a policy makes of one.

`make_mdp` and `from_dynamics` are the door: they check every number once, on the host, and name what is wrong and
where. Behind the door nothing raises, so that everything can be jitted and vmapped.

How an episode ends: by missing probability mass. A terminal state has an all-zero row and reward 0, hence value 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from dp import transitions

Scalar = float | Float[Array, ""]
Count = int | Int[Array, ""]
Policy = Int[Array, " S"] | Float[Array, "S A"]  # deterministic, or row-stochastic: the rank says which


class MDP(NamedTuple):
    """A finite Markov decision process.

    P: transitions, `P[s, a, s'] = p(s' | s, a)`.
    R: expected rewards `R[s, a] = E[R_{t+1} | S_t = s, A_t = a]`, shape [S, A].
    gamma: discount rate, a scalar in [0, 1].
    mask: [S, A], True where the action is allowed; None allows all.
    """

    P: Float[Array, "S A T"]
    R: Float[Array, "S A"]
    gamma: Float[Array, ""]
    mask: Bool[Array, "S A"] | None = None


class MRP(NamedTuple):
    """A Markov reward process: what is left of an MDP when a policy has chosen.

    P: `P[s, s'] = p_π(s' | s)`, shape [S, S']. r: `r[s] = E_π[R_{t+1} | S_t = s]`, shape [S]. gamma: discount rate.
    """

    P: Float[Array, "S T"]
    r: Float[Array, " S"]
    gamma: Float[Array, ""]


def induce(mdp: MDP, policy: Policy) -> MRP:
    """Return the chain of π: `p_π(s'|s) = Σ_a π(a|s) p(s'|s,a)`, `r_π(s) = E_π[R_{t+1}|s] = Σ_a π(a|s) R(s,a)`.

    A sweep over it reads A times less than one over the MDP. A forbidden action that π takes is worth -inf.
    """
    if policy.ndim == 1:
        R = mdp.R if mdp.mask is None else jnp.where(mdp.mask, mdp.R, -jnp.inf)
        r = R[jnp.arange(R.shape[0]), policy]
    else:
        r = jnp.sum(policy * mdp.R, axis=1)
        if mdp.mask is not None:
            r = jnp.where(jnp.any(~mdp.mask & (policy != 0), axis=1), -jnp.inf, r)
    return MRP(transitions.follow(mdp.P, policy), r, mdp.gamma)


def at_states(mdp: MDP, states: Int[Array, " n"]) -> MDP:
    """Return the rows of some states: P [n, A, S'], R and mask [n, A]. A backup of it is the backup of these states."""
    mask = None if mdp.mask is None else mdp.mask[states]
    return MDP(transitions.rows(mdp.P, states), mdp.R[states], mdp.gamma, mask)


def make_mdp(
    P: ArrayLike,
    R: ArrayLike,
    gamma: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    substochastic: bool = False,
) -> MDP:
    """Check the numbers of an MDP and put it together.

    P: [S, A, S'] probabilities, each row summing to one.
    R: rewards [S, A], [S] (the same for all actions) or [S, A, S'] (averaged over s' with P).
    gamma: discount rate in [0, 1]. Solvers that need a discount refuse 1.
    mask: [S, A], True where the action is allowed. P and R of forbidden actions are not read.
    terminal: [S], True where the episode has ended. P and R of terminal states are not read; their value is 0.
    substochastic: accept rows that sum to less than one; the missing mass ends the episode.

    The dtype is the inputs' common float dtype (float32 unless JAX's 64-bit mode is on). Raises ValueError naming the
    place and the number: rows that do not sum to one to within max(1e-8, 100 eps), negative or non-finite
    probabilities, non-finite rewards, gamma outside [0, 1], shapes that disagree, a state with no allowed action.
    """
    P, R = _host(P, "P"), _host(R, "R")
    # A float32 row sums to 1 within float32's rounding, whatever the dtype of R.
    slack = max(1e-8, 100 * float(np.finfo(P.dtype).eps)) if P.dtype.kind == "f" else 1e-8
    P, R = _floats(P, R)
    if P.ndim != 3 or P.shape[0] != P.shape[2]:
        swapped = P.ndim == 3 and P.shape[1] == P.shape[2]
        hint = "; it looks like [A, S, S]: take P.transpose(1, 0, 2)" if swapped else ""
        raise ValueError(f"P must have shape [S, A, S], got {list(P.shape)}{hint}")
    S, A, _ = P.shape
    if S == 0 or A == 0:
        raise ValueError(f"an MDP needs at least one state and one action, P has shape {list(P.shape)}")
    if R.shape not in ((S, A), (S,), (S, A, S)):
        raise ValueError(f"R must have shape {[S, A]}, {[S]} or {[S, A, S]} to fit P, got {list(R.shape)}")
    gamma = _check_gamma(gamma)
    ended = _flags(terminal, (S,), "terminal", default=False)
    allowed = _flags(mask, (S, A), "mask", default=True) | ended[:, None]
    if not allowed.any(1).all():
        raise ValueError(f"state {int(np.argmin(allowed.any(1)))} has no allowed action in mask")
    read = allowed & ~ended[:, None]

    P = np.where(read[:, :, None], P, 0)
    R = np.where(read if R.ndim == 2 else read[:, :, None], R, 0) if R.ndim > 1 else np.where(ended, 0, R)
    _check_probabilities(P, "P")
    _check_finite(R, "R")
    total = P.sum(-1)
    wrong = read & ((total > 1 + slack) if substochastic else (np.abs(total - 1) > slack))
    if wrong.any():
        s, a = np.argwhere(wrong)[0]
        off = abs(total[s, a] - 1)
        hint = "" if substochastic or total[s, a] > 1 else " (terminal= and substochastic= allow missing mass)"
        if off < 1e-3:  # rounding, not a typo
            hint = f": off by {off:.2g}, {slack:.2g} is allowed; divide P by P.sum(-1, keepdims=True)"
        raise ValueError(f"P[{s}, {a}] sums to {total[s, a]:.10g}, not to 1{hint}")

    if R.ndim == 1:
        R = np.where(read, R[:, None], 0)
    elif R.ndim == 3:
        R = np.einsum("sat,sat->sa", P, R)
    dtype = jax.dtypes.canonicalize_dtype(P.dtype)
    with np.errstate(over="ignore"):
        _check_finite(np.asarray(R, dtype), f"R, in {dtype},")
    return MDP(
        P=jnp.asarray(P, dtype),
        R=jnp.asarray(R, dtype),
        gamma=jnp.asarray(gamma, dtype),
        mask=None if allowed.all() else jnp.asarray(allowed),
    )


def from_dynamics(
    p: ArrayLike,
    rewards: ArrayLike,
    gamma: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    substochastic: bool = False,
) -> MDP:
    """Build an MDP from its one-step dynamics `p[s, a, s', k] = p(s', r_k | s, a)`, with `rewards[k] = r_k`.

        p(s' | s, a) = Σ_k p(s', r_k | s, a)          R(s, a) = Σ_{s', k} r_k p(s', r_k | s, a)

    p: [S, A, S', K]; rewards: [K]. The other arguments and the errors are those of `make_mdp`.
    Source: Sutton and Barto (2018), equations 3.2 to 3.5.
    """
    p, rewards = _floats(_host(p, "p"), _host(rewards, "rewards"))
    if p.ndim != 4 or p.shape[0] != p.shape[2]:
        raise ValueError(f"p must have shape [S, A, S, K], got {list(p.shape)}")
    S, A, _, K = p.shape
    if rewards.shape != (K,):
        raise ValueError(f"rewards must have shape {[K]} to fit p, got {list(rewards.shape)}")
    _check_finite(rewards, "rewards")
    read = _flags(mask, (S, A), "mask", default=True) & ~_flags(terminal, (S,), "terminal", default=False)[:, None]
    p = np.where(read[:, :, None, None], p, 0)
    _check_probabilities(p, "p")
    R = np.einsum("satk,k->sa", p, rewards)
    return make_mdp(p.sum(-1), R, gamma, mask=mask, terminal=terminal, substochastic=substochastic)


def _host(x: ArrayLike, name: str) -> np.ndarray:
    x = _array(x, name)
    if x.dtype.kind not in "biuf" or x.dtype == np.float16:
        raise ValueError(f"{name} must be an array of integers, float32 or float64, got {x.dtype}")
    return x


def _floats(*arrays: np.ndarray) -> list[np.ndarray]:
    """Bring arrays to their common float dtype; integers follow the floats, and alone become JAX's default float."""
    dtype = np.result_type(*([x.dtype for x in arrays if x.dtype.kind == "f"] or [np.float64]))
    return [x.astype(dtype, copy=False) for x in arrays]


def _array(x: ArrayLike, name: str) -> np.ndarray:
    if isinstance(x, Tracer):
        raise ValueError(f"{name} is traced: values are checked on the host. Inside jit, build dp.MDP(P, R, gamma)")
    try:
        return np.asarray(x)
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name} must be an array of real numbers or booleans: {error}") from None


def _flags(x: ArrayLike | None, shape: tuple[int, ...], name: str, *, default: bool) -> np.ndarray:
    if x is None:
        return np.full(shape, default)
    x = _array(x, name)
    if x.shape != shape or x.dtype != np.bool_:
        raise ValueError(f"{name} must be boolean with shape {list(shape)}, got {x.dtype} with {list(x.shape)}")
    return x


def _check_gamma(gamma: ArrayLike) -> np.ndarray:
    gamma = _host(gamma, "gamma")
    if gamma.shape != ():
        raise ValueError(f"gamma must be a scalar, got shape {list(gamma.shape)}; for many discounts, vmap over it")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {float(gamma):.10g}")
    return gamma


def _check_finite(x: np.ndarray, name: str) -> None:
    if not np.isfinite(x).all():
        where = np.argwhere(~np.isfinite(x))[0].tolist()
        raise ValueError(f"{name}{where} = {x[tuple(where)]} is not finite")


def _check_probabilities(p: np.ndarray, name: str) -> None:
    _check_finite(p, name)
    if (p < 0).any():
        where = np.argwhere(p < 0)[0].tolist()
        raise ValueError(f"{name}{where} = {p[tuple(where)]:.10g} is a negative probability")

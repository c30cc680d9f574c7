"""Dense models: arrays of probabilities, checked at the door. Behind it nothing raises, so that all can be jitted."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from dp import memory
from dp.mdp import MDP
from dp.validation import (
    cast,
    check_actions,
    check_finite,
    check_gamma,
    check_masses,
    check_probabilities,
    flags,
    floats,
    host,
    rounding_slack,
)


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
    Raises MemoryError where the host has too little: see `dp.memory`.
    """
    P, R = host(P, "P"), host(R, "R")
    slack = rounding_slack(P.dtype)
    P, R = floats(P, R)
    if P.ndim != 3 or P.shape[0] != P.shape[2]:
        swapped = P.ndim == 3 and P.shape[1] == P.shape[2]
        hint = "; it looks like [A, S, S]: take P.transpose(1, 0, 2)" if swapped else ""
        raise ValueError(f"P must have shape [S, A, S], got {list(P.shape)}{hint}")
    S, A, _ = P.shape
    if S == 0 or A == 0:
        raise ValueError(f"an MDP needs at least one state and one action, P has shape {list(P.shape)}")
    if R.shape not in ((S, A), (S,), (S, A, S)):
        raise ValueError(f"R must have shape {[S, A]}, {[S]} or {[S, A, S]} to fit P, got {list(R.shape)}")
    gamma = check_gamma(gamma)
    memory.require(memory.dense(P.size, P.itemsize), f"P of shape {list(P.shape)}", memory.SPARSER)
    allowed, ended = check_actions(mask, terminal, (S, A))
    read = allowed & ~ended[:, None]

    P = np.where(read[:, :, None], P, 0)
    R = np.where(read if R.ndim == 2 else read[:, :, None], R, 0) if R.ndim > 1 else np.where(ended, 0, R)
    check_probabilities(P, "P")
    check_finite(R, "R")
    hint = "terminal= and substochastic= allow missing mass"
    check_masses(P.sum(-1), slack, read=read, thin=substochastic, hint=hint)
    if R.ndim == 1:
        R = np.where(read, R[:, None], 0)
    elif R.ndim == 3:
        R = np.einsum("sat,sat->sa", P, R)
    dtype = jax.dtypes.canonicalize_dtype(P.dtype)
    return MDP(
        P=jnp.asarray(P, dtype),
        R=jnp.asarray(cast(R, dtype)),
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
    p, rewards = floats(host(p, "p"), host(rewards, "rewards"))
    if p.ndim != 4 or p.shape[0] != p.shape[2]:
        raise ValueError(f"p must have shape [S, A, S, K], got {list(p.shape)}")
    S, A, _, K = p.shape
    if rewards.shape != (K,):
        raise ValueError(f"rewards must have shape {[K]} to fit p, got {list(rewards.shape)}")
    check_finite(rewards, "rewards")
    memory.require(memory.dense(p.size, p.itemsize), f"p of shape {list(p.shape)}", memory.SPARSER)
    read = flags(mask, (S, A), "mask", default=True) & ~flags(terminal, (S,), "terminal", default=False)[:, None]
    p = np.where(read[:, :, None, None], p, 0)
    check_probabilities(p, "p")
    R = np.einsum("satk,k->sa", p, rewards)
    return make_mdp(p.sum(-1), R, gamma, mask=mask, terminal=terminal, substochastic=substochastic)

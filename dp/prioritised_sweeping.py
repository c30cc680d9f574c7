"""Prioritised sweeping: back up the state whose values are known least, and tell its predecessors.

    s = argmax priority,      δ = T v(s) - v(s),      v(s) <- T v(s),
    priority(s) <- 0,         priority(u) <- priority(u) + γ max_a p(s|u, a) |δ|      for every u (s included)

A priority is never below the residual of its state, `|T v(u) - v(u)|`: a change of δ in s moves T v(u) by no more than
`γ max_a p(s|u, a) |δ|`. Source: Moore and Atkeson (1993); the bound is that of Peng and Williams (1993), summed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from dp import bellman, transitions
from dp.bounds import modulus
from dp.checks import require_at_least, require_model, start_values, tolerance
from dp.fixed_point import PATIENCE, recentred, until_certified
from dp.mdp import MDP, Count, Scalar, at_states
from dp.solution import Solution, back_up, certified
from dp.successors import Ragged, make_ragged
from dp.table import merged, tabulate


def prioritised_sweeping(
    mdp: MDP,
    start: ArrayLike | Solution | None = None,
    *,
    updates: Count | None = None,
    tol: Scalar | None = None,
    max_iters: Count = 1_000_000,
) -> Solution:
    """Back states up in the order of their residuals until the certificate says that `max(upper - lower) <= tol`.

    start: values [S] or a Solution (default 0).
    updates: backups of single states between two synchronous ones, which give the certificate and fresh priorities;
        None means S. A single backup is worth its cost where values flow through few states at a time.
    tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32. max_iters: synchronous backups.
    Returns a Solution. Raises ValueError for gamma = 1, tol <= 0 or updates < 1.
    Source: the head of this file; stopping rule: `dp.bounds`.
    """
    require_model(mdp, "prioritised_sweeping")
    require_at_least(1, max_iters, "max_iters")
    updates = mdp.size if updates is None else updates
    require_at_least(1, updates, "updates")
    start, tol = start_values(mdp, start), tolerance(tol, mdp.R.dtype)
    return _prioritised_sweeping(mdp, _listed_predecessors(mdp), start, updates, tol, max_iters)


@jax.jit
def _prioritised_sweeping(mdp: MDP, predecessors: Ragged | None, v0, updates, tol, max_iters) -> Solution:
    fixed, v0 = jax.lax.stop_gradient((mdp, v0))
    contraction = modulus(*fixed)
    feel = _dense_predecessors(fixed) if predecessors is None else predecessors

    def update(k, v: Float[Array, " S"]) -> Float[Array, " S"]:
        priority = jnp.abs(bellman.optimality(fixed, v) - v)
        step = functools.partial(_update, fixed, feel)
        return jax.lax.fori_loop(0, updates, lambda _, state: step(*state), (v, priority))[0]

    advance, memory = recentred(update, contraction)
    end, iterations = until_certified(
        advance,
        lambda v, policy: back_up(fixed, contraction, v),
        back_up(fixed, contraction, v0),
        tol=tol,
        max_iters=max_iters,
        # With few updates at a time a large model takes many before the last state has had its turn.
        patience=PATIENCE * -(-mdp.size // updates),
        memory=memory,
    )
    return certified(mdp, end, contraction, iterations, tol)


def _update(
    mdp: MDP, predecessors: Float[Array, "S S"] | Ragged, v: Float[Array, " S"], priority: Float[Array, " S"]
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """Back up the state of the highest priority; return the values and priorities after it."""
    s = jnp.argmax(priority)[None]
    Tv = bellman.optimality(at_states(mdp, s), v)
    change = mdp.gamma * jnp.abs(Tv - v[s])
    v, priority = v.at[s].set(Tv), priority.at[s].set(0)
    if isinstance(predecessors, Ragged):
        before = predecessors.take(s)
        return v, priority.at[before.state].add(before.prob * change[None])
    return v, priority + predecessors[s[0]] * change


def _listed_predecessors(mdp: MDP) -> Ragged | None:
    """`max_a p(s' | s, a)` in lists, row s', of a sparse model whose numbers are concrete."""
    if transitions.is_dense(mdp.P) or any(isinstance(x, Tracer) for x in jax.tree.leaves(mdp)):
        return None
    table = merged(tabulate(mdp))
    S = len(table.choices) - 1
    edge = table.indices * S + table.owner[table.row]
    order = np.argsort(edge, kind="stable")
    edge, first = np.unique(edge[order], return_index=True)
    prob = np.maximum.reduceat(table.data[order], first) if len(edge) else table.data
    return make_ragged(edge // S, edge % S, prob, S)


def _dense_predecessors(mdp: MDP) -> Float[Array, "S S"]:
    """`max_a p(s' | s, a)` over the allowed actions, row s': how much of a change in s' the values of s can feel.

    Where P is not dense the sum over actions takes the place of the maximum.
    """
    if transitions.is_dense(mdp.P):
        allowed = True if mdp.mask is None else mdp.mask[:, :, None]
        return jnp.max(mdp.P, axis=1, initial=0.0, where=allowed).T
    every = at_states(mdp, jnp.arange(mdp.size))
    table = every.P.tabulated()
    prob = table.prob if every.mask is None else jnp.where(every.mask[None], table.prob, 0)
    state = jnp.broadcast_to(jnp.arange(mdp.size)[None, :, None], prob.shape)
    return jnp.zeros((mdp.size, mdp.size), prob.dtype).at[table.state, state].add(prob)

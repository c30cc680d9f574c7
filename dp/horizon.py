"""Finite horizons: backward induction over H stages, each with a model of its own where the model changes.

    v_H(s) = start(s)
    q_t(s, a) = R_t(s, a) + γ_t Σ_s' p_t(s'|s, a) v_{t+1}(s')          t = H - 1, ..., 0
    v_t(s) = max_a q_t(s, a),    or Σ_a π_t(a|s) q_t(s, a) for a given policy

H backups are all it takes, at any discount, γ = 1 included: nothing has to converge. What separates the answer from the
truth is rounding alone, and the certificate encloses it.

The theorem. Let v̂ be the values as computed, e_t a bound on the rounding of the backup that made v̂_t out of v̂_{t+1}
(the e of `dp.bounds`), and `ρ_t(s) = max_a |γ_t| Σ_s' p_t(s'|s, a)` over the allowed actions. A maximum moves no
further than what it is taken of, and an average no further than its weights sum to, so that

    |v̂_t - v_t|(s) <= w_t(s) (e_t + ρ_t(s) max_s' |v̂_{t+1} - v_{t+1}|(s')),        v̂_H = v_H,

with `w_t(s) = max(1, Σ_a |π_t(a|s)|)`, or 1 without averages, and e_t counting the A roundings of an average. The same
holds with the value of the policy found in place of v_t, because its actions attain the maxima v̂_t(s).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from dp import bellman, transitions
from dp.bounds import Modulus, backup_error, modulus
from dp.checks import require_policy, start_values, tolerance
from dp.choices import argmax, deterministic, most, total
from dp.mdp import MDP, Policy, Scalar
from dp.solution import Solution
from dp.successors import Ragged
from dp.transitions import Transitions

Plan = Int[Array, "H S"] | Float[Array, "H *rows"]  # a policy for every stage, deterministic or row-stochastic


def finite_horizon(
    mdp: MDP, horizon: int, start: ArrayLike | Solution | None = None, *, tol: Scalar | None = None
) -> Solution:
    """Maximise the reward of H stages: `v_t(s) = max_a [R_t(s, a) + γ_t Σ_s' p_t(s'|s, a) v_{t+1}(s')]`.

    mdp: any of P, R, gamma and mask may carry a leading axis of stages, of length `horizon`; what does not is the same
        in every stage. `dp.stack` makes stages of MDPs.
    start: [S], the values v_H at the end, where the induction starts (default 0), or a Solution that has them.
    tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32. It only decides `converged`.
    Returns a Solution with one more axis, the stage t. v, lower, upper: [H + 1, S]; `lower <= v_t <= upper` for the
    exact numbers, and `lower` bounds the value of the policy too. q: [H, S, A]. policy: [H, S], of equally good actions
    the first. iterations: H. residual: a bound on `max_t |T_t v_{t+1} - v_t|`, which is rounding alone.
    converged: the certificate met the tolerance, `max (upper - lower) <= tol`.

    v and q are differentiable in P, R, gamma and start, with the derivatives of the value of `policy`, at ties too.
    Raises ValueError for a horizon that is no integer >= 1, for stages that are not as many, for shapes that do not
    fit, for a start that is not finite and for tol <= 0. Source: Puterman (1994), section 4.5.
    """
    horizon = _require_stages(mdp, horizon)
    start = start_values(_one_stage(mdp), start)
    return _backward_induction(mdp, None, start, tolerance(tol, mdp.R.dtype), horizon=horizon)


def evaluate_horizon(
    mdp: MDP,
    policy: ArrayLike,
    horizon: int,
    start: ArrayLike | Solution | None = None,
    *,
    tol: Scalar | None = None,
) -> Solution:
    """Find the value of a policy: `v_t(s) = Σ_a π_t(a|s) [R_t(s, a) + γ_t Σ_s' p_t(s'|s, a) v_{t+1}(s')]`.

    policy: actions, int [S] or [H, S], or probabilities, float [S, A] or [H, S, A], taken in the dtype of the MDP.
    The rest is as in `finite_horizon`. The Solution's policy has the axis of stages, and its bounds enclose v_π. Raises
    ValueError as there, and for impossible policies, naming the stage and the state.
    Source: Puterman (1994), section 4.2.
    """
    horizon = _require_stages(mdp, horizon)
    start, plan = start_values(_one_stage(mdp), start), _require_plan(mdp, policy, horizon)
    return _backward_induction(mdp, plan, start, tolerance(tol, mdp.R.dtype), horizon=horizon)


@functools.partial(jax.jit, static_argnames="horizon")
def _backward_induction(mdp: MDP, plan: Plan | None, start, tol, *, horizon: int) -> Solution:
    """Back up from the last stage to the first; without a plan, each stage takes its greedy actions."""
    eps = jnp.finfo(mdp.R.dtype).eps
    averages = plan is not None and not deterministic(plan)
    # What all stages share stays out of the scan: no copies, and one sum over P for all the moduli.
    varying = {name: getattr(mdp, name) for name in _stages(mdp)}

    def modulus_of(own: dict[str, Any]) -> Modulus:
        stage = jax.lax.stop_gradient(mdp._replace(**own))
        stage = stage._replace(gamma=jnp.abs(stage.gamma))
        return modulus(*stage, more_terms=most(stage.R, stage.choices) if averages else 0)

    def step(later: tuple[Array, Array], stage: tuple[dict[str, Any], Policy | None, Modulus]):
        v, error = later
        own, policy, modulus = stage
        now = mdp._replace(**own)
        q = bellman.action_values(now, v)
        if policy is None:
            policy = argmax(q, now.choices)
        # The value of the actions taken, not the maximum, whose derivative would be split at ties.
        value = bellman.state_values(q, policy, now.choices)

        scale = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
        weight = jax.lax.stop_gradient(jnp.maximum(1, total(jnp.abs(policy), now.choices))) if averages else 1
        weight = weight * (1 + 2 * modulus.rounding) * (1 + 8 * eps)
        e = backup_error(modulus, scale)
        error = weight * (e + modulus.most * jnp.max(error))
        return (value, error), (value, error, q, policy, jnp.max(weight * e))

    begin = start, jnp.zeros_like(start)
    stages = varying, plan, jax.vmap(modulus_of, axis_size=horizon)(varying)
    _, (v, error, q, policy, residual) = jax.lax.scan(step, begin, stages, length=horizon, reverse=True)
    v, error = jnp.concatenate([v, start[None]]), jnp.concatenate([error, jnp.zeros_like(error[:1])])
    lower, upper = _enclose(jax.lax.stop_gradient(v), error)
    return Solution(
        v=v,
        q=q,
        policy=policy,
        lower=lower,
        upper=upper,
        iterations=jnp.asarray(horizon),
        residual=jnp.max(residual),
        converged=jnp.max(upper - lower) * (1 + 2 * eps) <= tol,
    )


def _enclose(v: Float[Array, "T S"], error: Float[Array, "T S"]) -> tuple[Float[Array, "T S"], Float[Array, "T S"]]:
    """Return v - error and v + error, rounded outwards unless the error is 0; infinite where nothing is known."""
    shift = error + 4 * jnp.finfo(v.dtype).eps * (jnp.abs(v) + error)
    known, exact = jnp.isfinite(v) & jnp.isfinite(error), error == 0
    lower, upper = jnp.where(exact, v, v - shift), jnp.where(exact, v, v + shift)
    return jnp.where(known, lower, -jnp.inf), jnp.where(known, upper, jnp.inf)


def _stages(mdp: MDP) -> dict[str, int]:
    """Return the fields that have an axis of stages in front, and its length."""
    owner = None if mdp.choices is None else mdp.choices.owner
    # An array of every field, and how many axes it has in one stage.
    fields = {
        "P": (_array_of(mdp.P), transitions.rank(mdp.P)),
        "R": (mdp.R, 2 if owner is None else 1),
        "gamma": (mdp.gamma, 0),
        "mask": (mdp.mask, 2),
        "choices": (owner, 1),
    }
    found = {}
    for name, (x, rank) in fields.items():
        if x is None:
            continue
        shape = np.shape(x)
        if len(shape) not in (rank, rank + 1):
            raise ValueError(f"{name} must have {rank} axes, or one more for the stages, got shape {list(shape)}")
        if len(shape) > rank:
            found[name] = shape[0]
    return found


def _array_of(P: Transitions) -> Array:
    """Return an array of P whose axes tell whether there are stages."""
    return P if transitions.is_dense(P) else P.place if isinstance(P, Ragged) else P.state


def _one_stage(mdp: MDP) -> MDP:
    """Return the MDP with R and choices of the first stage only: `dp.checks` reads shapes from them."""
    stages = _stages(mdp)
    first = {name: jax.tree.map(lambda x: x[0], getattr(mdp, name)) for name in ("R", "choices") if name in stages}
    return mdp._replace(**first)


def _require_stages(mdp: MDP, horizon: int) -> int:
    """Return the horizon; ValueError where it is no number of stages, or where a field has others."""
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
        raise ValueError(f"horizon must be an integer >= 1 (static under jit), got {horizon!r}")
    for name, number in _stages(mdp).items():
        if number != horizon:
            raise ValueError(f"{name} has {number} stages, but horizon = {horizon}")
    return int(horizon)


def _require_plan(mdp: MDP, policy: ArrayLike, horizon: int) -> Plan:
    """Return the policy of every stage; ValueError, naming stage and state, if it is none. Traced: only the shape."""
    one = _one_stage(mdp)
    S, rows = one.size, one.R.shape
    policy = policy if isinstance(policy, Tracer) else np.asarray(policy)
    of_actions = jnp.issubdtype(policy.dtype, jnp.integer)
    shape = (S,) if of_actions else rows
    if not (of_actions or jnp.issubdtype(policy.dtype, jnp.floating)) or policy.shape not in (shape, (horizon, *shape)):
        raise ValueError(
            f"policy must be of integers with shape {[S]} or {[horizon, S]}, or of floats with shape {list(rows)} "
            f"or {[horizon, *rows]}, got {policy.dtype} with {list(policy.shape)}"
        )
    if not isinstance(policy, Tracer) and not isinstance(mdp.mask, Tracer):
        mask = None if mdp.mask is None else np.broadcast_to(np.asarray(mdp.mask), (horizon, *rows))
        for t, pi in enumerate(np.broadcast_to(np.asarray(policy), (horizon, *shape))):
            try:
                require_policy(one._replace(mask=None if mask is None else mask[t]), pi)
            except ValueError as error:
                raise ValueError(f"in stage {t}, {error}") from None
    plan = jnp.broadcast_to(policy, (horizon, *shape))
    return plan if of_actions else plan.astype(mdp.R.dtype)

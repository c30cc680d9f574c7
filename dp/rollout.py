"""Episodes under a policy: what happens, step by step, when nature and the policy draw.

    A_t ~ π(· | S_t),    S_{t+1} ~ p(· | S_t, A_t),    G = Σ_t γ^t R(S_t, A_t)

An MDP holds expected rewards, and so does an episode: `rewards[t] = R(s, a) = E[R_{t+1} | S_t = s, A_t = a]`. Hence
E[G | S_0 = s] = v_π(s), but G varies less than the returns of a model whose rewards are themselves random.

An episode ends where probability mass is missing, or with the arrival in a terminal state. Shapes do not depend on the
data: num_steps are always made, and those after the end change nothing and earn nothing.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from dp import transitions
from dp.checks import require_at_least, require_model, require_policy
from dp.choices import deterministic, most
from dp.mdp import MDP, Policy, Scalar
from dp.soft import ended
from dp.solution import Solution


class Episode(NamedTuple):
    """What happened in num_steps steps; t counts from 0.

    states: [n + 1], `states[t]` = S_t, the last state of the episode after its end. actions, rewards: [n].
    alive: [n + 1], True as long as the episode goes on. Action and reward of a step that is not alive are 0.
    """

    states: Int[Array, " n1"]
    actions: Int[Array, " n"]
    rewards: Float[Array, " n"]
    alive: Bool[Array, " n1"]


class Return(NamedTuple):
    """The sum of an episode: `value = Σ_t γ^t R(S_t, A_t)`, the steps made, and whether the episode ended in them."""

    value: Float[Array, ""]
    steps: Int[Array, ""]
    ended: Bool[Array, ""]


class Now(NamedTuple):
    """Where an episode is."""

    state: Int[Array, ""]
    alive: Bool[Array, ""]


def rollout(
    key: Key[Array, ""], mdp: MDP, policy: Policy | ArrayLike | Solution, start: ArrayLike, *, num_steps: int
) -> Episode:
    """Follow a policy from a state for num_steps steps, or to the end if that comes first.

    policy: int [S], probabilities in the form of R, or a Solution. start: a state. key is consumed.
    Many: `jax.vmap(lambda key: dp.rollout(key, mdp, policy, start, num_steps=100))(keys)`. Each episode is then the
    same to the last bit as it is alone. `returns` keeps no history, and takes less memory.
    Raises ValueError for impossible policies, a start that is no state and num_steps < 1.
    """
    return _rollout(key, mdp, *_arguments(key, mdp, policy, start, num_steps, "rollout"), num_steps=num_steps)


def returns(
    key: Key[Array, ""], mdp: MDP, policy: Policy | ArrayLike | Solution, start: ArrayLike, *, num_steps: int
) -> Return:
    """Follow the same episode as `rollout` with the same key, and keep only its return and its length.

    It stops with the end of the episode; under vmap, with the end of the last. What lies beyond num_steps would have
    added no more than `γ^num_steps / (1 - γ) max |R|`.
    """
    return _returns(key, mdp, *_arguments(key, mdp, policy, start, num_steps, "returns"), num_steps=num_steps)


def discounted_return(rewards: Float[Array, "*batch n"], gamma: Scalar) -> Float[Array, "*batch"]:
    """`Σ_t γ^t rewards[t]` along the last axis."""
    discounts = jnp.asarray(gamma, rewards.dtype) ** jnp.arange(rewards.shape[-1]).astype(rewards.dtype)
    return jnp.matmul(rewards, discounts, precision="highest")


def time_to_absorption(episode: Episode) -> tuple[Int[Array, "*batch"], Bool[Array, "*batch"]]:
    """Return after how many steps the episode ended, and whether it did; if not, it took longer than the steps made."""
    return jnp.sum(episode.alive[..., :-1], axis=-1), ~episode.alive[..., -1]


@functools.partial(jax.jit, static_argnames="num_steps")
def _rollout(key, mdp: MDP, policy, start, *, num_steps: int) -> Episode:
    over = ended(mdp)

    def advance(now: Now, t: Int[Array, ""]) -> tuple[Now, tuple]:
        after, action, reward = _step(jax.random.fold_in(key, t), mdp, policy, over, now)
        return after, (after.state, action, reward, after.alive)

    begin = Now(start, ~over[start])
    _, (states, actions, rewards, alive) = jax.lax.scan(advance, begin, jnp.arange(num_steps))
    states, alive = jnp.append(begin.state, states), jnp.append(begin.alive, alive)
    # A traced start was not checked at the door: what is no state earns nothing that could be told.
    rewards = jnp.where((start >= 0) & (start < mdp.size), rewards, jnp.nan)
    return Episode(states.astype(int), actions.astype(int), rewards, alive)


@functools.partial(jax.jit, static_argnames="num_steps")
def _returns(key, mdp: MDP, policy, start, *, num_steps: int) -> Return:
    over = ended(mdp)

    def advance(loop: tuple[Now, Return, Array]) -> tuple[Now, Return, Array]:
        now, total, discount = loop
        after, _, reward = _step(jax.random.fold_in(key, total.steps), mdp, policy, over, now)
        total = Return(total.value + discount * reward, total.steps + 1, ~after.alive)
        return after, total, discount * mdp.gamma

    def goes_on(loop: tuple[Now, Return, Array]) -> Bool[Array, ""]:
        now, total, _ = loop
        return now.alive & (total.steps < num_steps)

    begin = Now(start, ~over[start])
    zero, one = jnp.zeros((), mdp.R.dtype), jnp.ones((), mdp.R.dtype)
    zero = jnp.where((start >= 0) & (start < mdp.size), zero, jnp.nan)
    loop = begin, Return(zero, jnp.asarray(0), ~begin.alive), one
    return jax.lax.while_loop(goes_on, advance, loop)[1]


def _step(key, mdp: MDP, policy, over: Bool[Array, " S"], now: Now) -> tuple[Now, Int[Array, ""], Float[Array, ""]]:
    """Draw an action and a next state; return where the episode is then, the action and R(s, a)."""
    s, (u_action, u_state) = now.state, jax.random.uniform(key, (2,), mdp.R.dtype)
    action = policy[s] if deterministic(policy) else _draw(u_action, _weights(mdp, policy, s))[0]
    action = action.astype(s.dtype)
    reward = mdp.R[s, action] if mdp.choices is None else mdp.R[mdp.choices.first[s] + action]
    if mdp.mask is not None:
        reward = jnp.where(mdp.mask[s, action], reward, -jnp.inf)
    states, probabilities = transitions.successors(mdp.P, mdp.choices, s, action)
    slot, left = _draw(u_state, probabilities)
    after = jnp.where(now.alive & ~left, states[slot].astype(s.dtype), s)
    return (
        Now(after, now.alive & ~left & ~over[after]),
        jnp.where(now.alive, action, 0),
        jnp.where(now.alive, reward, 0),
    )


def _weights(mdp: MDP, policy: Float[Array, "*rows"], s: Int[Array, ""]) -> Float[Array, " A"]:
    """Return π(· | s)."""
    if mdp.choices is None:
        return policy[s]
    row = mdp.choices.first[s] + jnp.arange(most(mdp.R, mdp.choices), dtype=mdp.choices.first.dtype)
    own = mdp.choices.owner.at[row].get(mode="fill", fill_value=-1) == s
    return jnp.where(own, policy.at[row].get(mode="fill", fill_value=0), 0)


def _draw(u: Float[Array, ""], p: Float[Array, " K"]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Turn a uniform number into k with probability p_k; also say whether it is none, as the mass missing from p is.

    A sum within rounding of one counts as one, so that no episode ends by rounding, and a slot of probability 0 is
    never drawn, whatever the order in which the sums are taken.
    """
    upto = jnp.cumsum(p)
    whole = upto[-1] > 1 - max(1e-8, 100 * float(jnp.finfo(p.dtype).eps))
    beyond = (upto > u.astype(p.dtype) * jnp.where(whole, upto[-1], 1)) & (p > 0)
    last = p.shape[0] - 1 - jnp.argmax((p > 0)[::-1])
    found = jnp.any(beyond)
    return jnp.where(found, jnp.argmax(beyond), last), ~found & ~whole


def _arguments(
    key: Any, mdp: MDP, policy, start: ArrayLike, num_steps: int, name: str
) -> tuple[Policy, Int[Array, ""]]:
    require_model(mdp, name, discounted=False)
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key) or np.shape(key) != ():
        raise ValueError(f"key must be one key, as jax.random.key(seed) makes it; for many episodes vmap {name}")
    require_at_least(1, num_steps, "num_steps")
    policy = require_policy(mdp, policy)
    start = jnp.asarray(start)
    if start.shape != () or not jnp.issubdtype(start.dtype, jnp.integer):
        raise ValueError(f"start must be one state, got {start.dtype} of shape {list(start.shape)}; for many, vmap")
    if not isinstance(start, Tracer) and not 0 <= int(start) < mdp.size:
        raise ValueError(f"start must be a state, 0 to {mdp.size - 1}, got {start}")
    return (policy.astype(jnp.int32) if deterministic(policy) else policy), start.astype(jnp.int32)

"""The tables of Gymnasium's toy-text environments: FrozenLake, Taxi, CliffWalking, and any other that has them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

from dp.mdp import MDP
from dp.sparse import from_successors


def from_gymnasium(env: Any, gamma: ArrayLike, *, enter_last: bool = False) -> MDP:
    """Make an MDP of the table `P[s][a] = [(p, s', r, terminated), ...]` of an environment.

        p(s' | s, a) = Σ p where not terminated          R(s, a) = Σ p r

    An episode ends with `terminated`: what comes after is worth 0, whatever the table says of the state where it ended
    (some tables go on from there). The mass of such outcomes is missing from P, and their reward counts.

    env: anything with `env.unwrapped.P`; Gymnasium itself is not needed. gamma: discount rate.
    enter_last: False, and the state in which an episode ends is never entered, so that it cannot be the goal of
        `reachability` or `total_reward`. True, and it is entered, and is a terminal state; possible only where no step
        enters it and goes on. The values are the same.
    Raises ValueError naming state and action for a table that is not as above.
    """
    table = _table(env)
    S = len(table)
    outcomes = [[_outcomes(table, s, a) for a in range(len(_actions(table, s)))] for s in range(S)]
    A = len(outcomes[0])
    for s, row in enumerate(outcomes):
        if len(row) != A:
            raise ValueError(f"P[{s}] has {len(row)} actions and P[0] has {A}")
    last = _last_states(outcomes) if enter_last else np.zeros(S, bool)
    going = [[[x for x in here if last[x[1]] or not x[3]] for here in row] for row in outcomes]
    K = max(1, max(len(here) for row in going for here in row))
    state, prob = np.zeros((S, A, K), np.int32), np.zeros((S, A, K))
    for s, row in enumerate(going):
        for a, here in enumerate(row):
            state[s, a, : len(here)] = [x[1] for x in here]
            prob[s, a, : len(here)] = [x[0] for x in here]
    R = np.array([[sum(x[0] * x[2] for x in here) for here in row] for row in outcomes])
    return from_successors(state, prob, R, gamma, terminal=last, substochastic=True)


def _last_states(outcomes: list[list[list[tuple]]]) -> np.ndarray:
    """Return the states in which episodes end; ValueError, naming state and action, where one goes on."""
    last = np.zeros(len(outcomes), bool)
    last[[x[1] for row in outcomes for here in row for x in here if x[3]]] = True
    for s, row in enumerate(outcomes):
        for a, here in enumerate(row):
            for p, successor, _, terminated in here:
                if p > 0 and last[successor] and not terminated and not last[s]:
                    raise ValueError(
                        f"P[{s}][{a}] enters state {successor} and goes on, but elsewhere the episode ends there: "
                        "enter_last=True cannot make it terminal"
                    )
    return last


def initial_distribution(env: Any) -> Float[np.ndarray, " S"]:
    """Return the distribution over first states, `env.unwrapped.initial_state_distrib`, as an array [S]."""
    mu = np.asarray(getattr(env.unwrapped, "initial_state_distrib", None))
    S = len(_table(env))
    if mu.shape != (S,) or mu.dtype.kind not in "biuf" or not (mu >= 0).all() or not abs(mu.sum() - 1) <= 1e-8:
        raise ValueError(f"env.unwrapped.initial_state_distrib must be a distribution over {S} states, got {mu}")
    return mu.astype(float)


def _table(env: Any) -> Mapping:
    table = getattr(getattr(env, "unwrapped", env), "P", None)
    if not isinstance(table, Mapping) or not table:
        raise ValueError("env.unwrapped.P must be a table P[s][a] of outcomes; this environment has none")
    if set(table) != set(range(len(table))):
        raise ValueError(f"the keys of P must be the states 0 to {len(table) - 1}")
    return table


def _actions(table: Mapping, s: int) -> Mapping:
    if not isinstance(table[s], Mapping) or not table[s] or set(table[s]) != set(range(len(table[s]))):
        raise ValueError(f"P[{s}] must be a table of the actions 0, 1, ...")
    return table[s]


def _outcomes(table: Mapping, s: int, a: int) -> list[tuple[float, int, float, bool]]:
    """Return the checked outcomes of an action."""
    found, S = [], len(table)
    for outcome in table[s][a]:
        try:
            p, successor, r, terminated = outcome
            p, r, whole = float(p), float(r), int(successor) == successor
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"P[{s}][{a}] must hold (p, s', r, terminated), got {outcome}") from None
        if not (0 <= p <= 1 and np.isfinite(r)):
            raise ValueError(f"P[{s}][{a}]: probability {p:.10g}, reward {r:.10g}: not a probability, or not finite")
        if not whole or not 0 <= successor < S:
            raise ValueError(f"P[{s}][{a}] leads to state {successor}: there are {S}")
        found.append((p, int(successor), r, bool(terminated)))
    total = sum(x[0] for x in found)
    if abs(total - 1) > 1e-8:
        raise ValueError(f"P[{s}][{a}]: the probabilities sum to {total:.10g}, not to 1")
    return found

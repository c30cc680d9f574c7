"""Garnet: random MDPs with a chosen number of successors (Archibald, McKinnon and Thomas, 1995)."""

import numpy as np
from jaxtyping import ArrayLike

from dp import memory
from dp.mdp import MDP
from dp.problems.assemble import assemble

# So many numbers of P, 256 MB in float64, are drawn and stored as an array unless asked otherwise.
DENSE = 2**25


def garnet(
    states: int, actions: int, successors: int, *, gamma: ArrayLike, seed: int, dense: bool | None = None
) -> MDP:
    """Return a random MDP: each (s, a) leads to `successors` distinct states, with standard normal rewards.

    The probabilities are the lengths into which `successors - 1` uniform points cut [0, 1]. float64 on the host, then
    JAX's default float. dense: whether P is an array; None makes it one where S A S <= 2^25. The numbers are the same
    in both forms. A million states with 4 actions and 4 successors take a few seconds and no array of S^2 numbers.
    Raises ValueError unless 1 <= successors <= states and actions >= 1.
    """
    if not (1 <= successors <= states and actions >= 1):
        raise ValueError(f"need 1 <= successors <= states and actions >= 1, got {successors}, {states}, {actions}")
    slots = states * actions * successors
    what = f"a garnet of {states:,} states, {actions} actions and {successors} successors"
    memory.require(memory.successors(slots, 8) + 16 * slots, what, memory.SPREAD)
    small = states * actions * states <= DENSE
    next_states, prob, rewards = draw(np.random.default_rng(seed), (states, actions), states, successors, sort=small)
    return assemble(next_states, prob, rewards, gamma, dense=small if dense is None else dense)


def draw(
    rng: np.random.Generator, rows: tuple[int, int], states: int, successors: int, *, sort: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw rows [n, A] of a garnet of so many states: successors [n, A, K], their probabilities, and rewards [n, A].

    sort: draw the successors by ranking a random number for each of all states, not one by one.
    """
    if sort:
        next_states = rng.random((*rows, states)).argpartition(successors - 1, axis=-1)[..., :successors]
    else:
        next_states = _distinct(rng, rows, states, successors)
    cuts = np.sort(rng.random((*rows, successors - 1)), axis=-1)
    edge = np.zeros((*rows, 1))
    prob = np.diff(np.concatenate([edge, cuts, edge + 1], axis=-1))
    return next_states, prob, rng.standard_normal(rows)


def _distinct(rng: np.random.Generator, shape: tuple[int, ...], n: int, k: int) -> np.ndarray:
    """Draw k distinct numbers below n, every set of them as likely as any other (Floyd; Bentley, 1987)."""
    chosen = np.empty((*shape, k), np.int32)
    for i, top in enumerate(range(n - k, n)):
        drawn = rng.integers(0, top, shape, np.int32, endpoint=True)
        chosen[..., i] = np.where((chosen[..., :i] == drawn[..., None]).any(-1), top, drawn)
    return chosen

"""Garnet: random MDPs with a chosen number of successors (Archibald, McKinnon and Thomas, 1995)."""

import numpy as np
from jaxtyping import ArrayLike

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
    rng = np.random.default_rng(seed)
    small = states * actions * states <= DENSE
    if small:
        next_states = rng.random((states, actions, states)).argpartition(successors - 1, axis=-1)[..., :successors]
    else:
        next_states = _distinct(rng, (states, actions), states, successors)
    cuts = np.sort(rng.random((states, actions, successors - 1)), axis=-1)
    edge = np.zeros((states, actions, 1))
    prob = np.diff(np.concatenate([edge, cuts, edge + 1], axis=-1))
    rewards = rng.standard_normal((states, actions))
    return assemble(next_states, prob, rewards, gamma, dense=small if dense is None else dense)


def _distinct(rng: np.random.Generator, shape: tuple[int, ...], n: int, k: int) -> np.ndarray:
    """Draw k distinct numbers below n, every set of them as likely as any other (Floyd; Bentley, 1987)."""
    chosen = np.empty((*shape, k), np.int32)
    for i, top in enumerate(range(n - k, n)):
        drawn = rng.integers(0, top, shape, np.int32, endpoint=True)
        chosen[..., i] = np.where((chosen[..., :i] == drawn[..., None]).any(-1), top, drawn)
    return chosen

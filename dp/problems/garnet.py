"""Garnet: random MDPs with a chosen number of successors (Archibald, McKinnon and Thomas, 1995)."""

import numpy as np
from jaxtyping import ArrayLike

from dp.mdp import MDP, make_mdp


def garnet(states: int, actions: int, successors: int, *, gamma: ArrayLike, seed: int) -> MDP:
    """Return a random MDP: each (s, a) leads to `successors` distinct states, with standard normal rewards.

    The probabilities are the lengths into which `successors - 1` uniform points cut [0, 1]. float64 on the host, then
    JAX's default float. Raises ValueError unless 1 <= successors <= states and actions >= 1.
    """
    if not (1 <= successors <= states and actions >= 1):
        raise ValueError(f"need 1 <= successors <= states and actions >= 1, got {successors}, {states}, {actions}")
    rng = np.random.default_rng(seed)
    next_states = rng.random((states, actions, states)).argpartition(successors - 1, axis=-1)[..., :successors]
    cuts = np.sort(rng.random((states, actions, successors - 1)), axis=-1)
    edge = np.zeros((states, actions, 1))
    P = np.zeros((states, actions, states))
    np.put_along_axis(P, next_states, np.diff(np.concatenate([edge, cuts, edge + 1], axis=-1)), axis=-1)
    return make_mdp(P, rng.standard_normal((states, actions)), gamma)

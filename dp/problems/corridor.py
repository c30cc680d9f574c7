"""Corridor: states in a row, a prize at the end. Its values flow one way, so the order of sweeps decides everything."""

import numpy as np
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP


def corridor(length: int, *, gamma: ArrayLike, slip: float = 0.1) -> MDP:
    """Return the MDP of a corridor of `length` states with actions left (0) and right (1).

    A move succeeds with probability 1 - slip and else stays put. Moving right from the last state ends the episode with
    reward 1; every other move earns 0; moving left from the first state stays. With success p = 1 - slip,
    `v_*(s) = c^(length - s)` for `c = γ p / (1 - γ slip)`, times 1/γ: the last success pays at once.
    Raises ValueError unless length >= 1 and 0 <= slip < 1.
    """
    if length < 1 or not 0 <= slip < 1:
        raise ValueError(f"need length >= 1 and 0 <= slip < 1, got {length} and {slip}")
    s = np.arange(length)
    P = np.zeros((length, 2, length))
    P[s, :, s] = slip
    P[s, 0, np.maximum(s - 1, 0)] += 1 - slip
    P[s[:-1], 1, s[1:]] += 1 - slip
    R = np.zeros((length, 2))
    R[-1, 1] = 1 - slip
    return make_mdp(P, R, gamma, substochastic=True)

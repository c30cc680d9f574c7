"""Space Exploration: a spacecraft that trades energy for discoveries.

States F (full energy), L (low energy) and D (depleted, terminal); actions C (conserve) and E (explore).

    F, C -> F          probability 1        reward   1
    F, E -> L, F       probability 1/2 each reward   2
    L, C -> F, L       probability 1/2 each reward   1
    L, E -> D          probability 1        reward -10

With γ = 1/2 the best is to explore at full energy and to conserve at low: v_* = (7/2, 5/2, 0).
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.dense import from_dynamics
from dp.mdp import MDP

STATES = ("F", "L", "D")
ACTIONS = ("C", "E")
REWARDS = np.array([1.0, 2.0, -10.0])


def dynamics() -> np.ndarray:
    """Return the table `p[s, a, s', k] = p(s', r_k | s, a)`, [3, 2, 3, 3], with r = (1, 2, -10)."""
    F, L, D = range(3)
    C, E = range(2)
    p = np.zeros((3, 2, 3, 3))
    p[F, C, F, 0] = 1.0
    p[F, E, L, 1] = p[F, E, F, 1] = 0.5
    p[L, C, F, 0] = p[L, C, L, 0] = 0.5
    p[L, E, D, 2] = 1.0
    return p


def space_exploration(gamma: ArrayLike = 0.5) -> MDP:
    """Return the MDP of Space Exploration: 3 states, 2 actions, D terminal."""
    return from_dynamics(dynamics(), REWARDS, gamma, terminal=np.array([False, False, True]))

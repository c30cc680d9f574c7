"""The recycling robot: a robot looks for cans until its battery is low (Sutton and Barto, 2018, example 3.3).

States high (0) and low (1) are the charge of its battery; actions search (0), wait (1), recharge (2).

    high, search   -> high   probability α       reward r_search
                   -> low    probability 1 - α   reward r_search
    high, wait     -> high   probability 1       reward r_wait
    low, search    -> low    probability β       reward r_search
                   -> high   probability 1 - β   reward -3: the battery ran out, and the robot was carried home
    low, wait      -> low    probability 1       reward r_wait
    low, recharge  -> high   probability 1       reward 0

A high battery is not recharged. The book leaves α, β and the rewards open, but for r_search > r_wait.
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP

STATES = ("high", "low")
ACTIONS = ("search", "wait", "recharge")


def recycling_robot(
    gamma: ArrayLike = 0.9,
    *,
    alpha: float = 0.8,
    beta: float = 0.6,
    r_search: float = 2.0,
    r_wait: float = 1.0,
    rescue: float = -3.0,
) -> MDP:
    """Return the MDP of the recycling robot: 2 states, 3 actions, of which high allows two.

    To search with a high battery and recharge a low one is worth `v(high) = r_search / (1 - γ (α + γ (1 - α)))` and
    `v(low) = γ v(high)`. Raises ValueError unless α and β are probabilities.
    """
    if not (0 <= alpha <= 1 and 0 <= beta <= 1):
        raise ValueError(f"need 0 <= alpha, beta <= 1, got {alpha} and {beta}")
    P = np.array([[[alpha, 1 - alpha], [1, 0], [0, 0]], [[1 - beta, beta], [0, 1], [1, 0]]])
    R = np.array([[r_search, r_wait, 0.0], [beta * r_search + (1 - beta) * rescue, r_wait, 0.0]])
    return make_mdp(P, R, gamma, mask=np.array([[True, True, False], [True, True, True]]))

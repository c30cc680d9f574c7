"""Forest management: let a forest grow older and worth more, or cut it before it burns.

States are ages 0 to `states - 1`; actions wait (0) and cut (1).

    wait    age + 1, at most the last    probability 1 - fire    reward 0, in the last age wait_reward
            age 0                        probability fire
    cut     age 0                        probability 1           reward 0 in age 0, cut_reward in the last, else 1

With the default numbers the best is to wait in every age: v_* = (26.244, 29.484, 33.484).
Source: the example of the MDP Toolbox (Chadès, Chapron, Cros, Garcia and Sabbadin, 2014).
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP

WAIT, CUT = 0, 1


def forest(
    states: int = 3, *, gamma: ArrayLike = 0.9, wait_reward: float = 4.0, cut_reward: float = 2.0, fire: float = 0.1
) -> MDP:
    """Return the MDP of a forest of so many ages, with the probability of a fire in a year of waiting.

    With w = wait_reward, p = fire, c = γ (1 - p), waiting for ever is worth `v(0) = w c^(S-1) / (1 - γ)` in age 0 and
    `v(s) = (w c^(S-1-s) + γ p v(0)) / (1 - c)` in any. Raises ValueError unless states >= 2 and 0 <= fire <= 1.
    """
    if states < 2 or not 0 <= fire <= 1:
        raise ValueError(f"need states >= 2 and 0 <= fire <= 1, got {states} and {fire}")
    age = np.arange(states)
    P = np.zeros((states, 2, states))
    P[age, WAIT, np.minimum(age + 1, states - 1)] = 1 - fire
    P[:, WAIT, 0] += fire
    P[:, CUT, 0] = 1
    R = np.zeros((states, 2))
    R[1:, CUT] = 1
    R[-1] = wait_reward, cut_reward
    return make_mdp(P, R, gamma)

"""Toymaker: advertise while the toy sells, do research when it does not (Howard, 1960, chapters 2 to 4).

    toy           action          to 1   to 2    rewards
    1 (success)   no advertising   0.5    0.5     9    3
                  advertising      0.8    0.2     4    4
    2 (failure)   no research      0.4    0.6     3   -7
                  research         0.7    0.3     1  -19

In the long run it is best to advertise and to do research: 2 per week, where doing neither earns 1; success is worth 10
more than failure. At γ = 0.9 this is best as well, and v_* = (2020/91, 160/13), about (22.2, 12.3).
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP

_PROBABILITIES = np.array([[[0.5, 0.5], [0.8, 0.2]], [[0.4, 0.6], [0.7, 0.3]]])
_REWARDS = np.array([[[9.0, 3.0], [4.0, 4.0]], [[3.0, -7.0], [1.0, -19.0]]])


def toymaker(gamma: ArrayLike = 0.9) -> MDP:
    """Return the MDP of the toymaker: 2 states; action 1 is the one that costs."""
    return make_mdp(_PROBABILITIES, _REWARDS, gamma)

"""Taxicab: a driver between three towns, Howard's example of the average reward (Howard, 1960, chapter 5).

Actions: cruise (0), drive to the taxi stand (1), pull over and wait for a radio call (2); town 2 has no radio.

    town  action   to 1   to 2   to 3    rewards
    1     cruise    1/2    1/4    1/4    10   4   8
          stand    1/16    3/4   3/16     8   2   4
          call      1/4    1/8    5/8     4   6   4
    2     cruise    1/2      0    1/2    14   0  18
          stand    1/16    7/8   1/16     8  16   8
    3     cruise    1/4    1/4    1/2    10   2   8
          stand     1/8    3/4    1/8     6   4   2
          call      3/4   1/16   3/16     4   0   8

It is best to go to the stand in every town: 1588/119 (13.3445) per trip, with relative values (-20/17, 1506/119, 0).
Greed for the next fare alone would cruise in every town, and earn 9.2. At γ = 0.9 the stand is best as well, and
v_* = (1459720, 1623540, 1473920)/11999, about (121.65, 135.31, 122.84).
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP

CRUISE, STAND, CALL = range(3)
ACTIONS = ("cruise", "stand", "call")

_PROBABILITIES = (
    np.array(
        [
            [[8, 4, 4], [1, 12, 3], [4, 2, 10]],
            [[8, 0, 8], [1, 14, 1], [0, 0, 0]],
            [[4, 4, 8], [2, 12, 2], [12, 1, 3]],
        ]
    )
    / 16
)
_REWARDS = np.array(
    [
        [[10.0, 4.0, 8.0], [8.0, 2.0, 4.0], [4.0, 6.0, 4.0]],
        [[14.0, 0.0, 18.0], [8.0, 16.0, 8.0], [0.0, 0.0, 0.0]],
        [[10.0, 2.0, 8.0], [6.0, 4.0, 2.0], [4.0, 0.0, 8.0]],
    ]
)


def taxicab(gamma: ArrayLike = 0.9) -> MDP:
    """Return the MDP of the taxicab: 3 states, 3 actions, of which state 1 (town 2) allows two."""
    mask = np.ones((3, 3), bool)
    mask[1, CALL] = False
    return make_mdp(_PROBABILITIES, _REWARDS, gamma, mask=mask)

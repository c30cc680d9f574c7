"""Two states: the smallest MDP with a choice, and with an end in sight (Puterman, 1994, figure 3.1.1).

    state  action   to s1   to s2   reward
    s1     a11        1/2     1/2        5
           a12          0       1       10
    s2     a21          0       1       -1

A state for good, s2, costs 1 a step; on the way to it, s1 pays. At γ = 0.95 it is best to linger, with a11:
v_* = (-60/7, -20). Below γ = 10/11 it is best to take the 10 and go. In the long run nothing matters: the gain is -1.
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP


def two_state(gamma: ArrayLike = 0.95) -> MDP:
    """Return Puterman's two-state MDP: s2 has only one action, so that its second is masked."""
    P = np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.0, 0.0]]])
    R = np.array([[5.0, 10.0], [-1.0, 0.0]])
    return make_mdp(P, R, gamma, mask=np.array([[True, True], [True, False]]))

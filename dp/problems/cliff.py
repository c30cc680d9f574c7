"""The cliff: the shortest way to the goal runs along an abyss (Sutton and Barto, 2018, example 6.6).

A grid of 4 x 12; the start is the lower left corner, the goal the lower right, and the ten cells between them are the
cliff. A step costs 1; one into the cliff costs 100 and leads back to the start. Without slipping the best way takes 13
steps, one cell above the cliff. On ice (slip > 0) it is worth a detour.
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.mdp import MDP
from dp.problems.assemble import assemble
from dp.problems.gridworld import ASTRAY, steps

HEIGHT, WIDTH = 4, 12
START, GOAL = 36, 47  # cells (3, 0) and (3, 11)


def cliff(gamma: ArrayLike = 1.0, *, slip: float = 0.0, fall: float = -100.0) -> MDP:
    """Return the MDP of the cliff: 48 states `row * 12 + column`, actions up, down, left, right.

    slip: the probability that a step goes sideways instead, half to either side. fall: the reward of a step into the
    cliff. The goal is terminal, and so are the cells of the cliff, where nobody stays.
    Raises ValueError unless 0 <= slip <= 1.
    """
    if not 0 <= slip <= 1:
        raise ValueError(f"need 0 <= slip <= 1, got {slip}")
    reached, _ = steps(HEIGHT, WIDTH, np.zeros((HEIGHT, WIDTH), bool))
    falls = (reached > START) & (reached < GOAL)
    state, R = np.where(falls, START, reached), np.where(falls, fall, -1.0)
    takes = np.array([1 - slip, slip / 2, slip / 2])
    return assemble(
        np.moveaxis(state[ASTRAY], -1, 0),
        np.broadcast_to(takes, (HEIGHT * WIDTH, 4, 3)),
        (takes @ R[ASTRAY]).T,
        gamma,
        terminal=np.arange(HEIGHT * WIDTH) > START,
    )

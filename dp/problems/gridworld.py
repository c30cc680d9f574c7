"""Gridworlds: cells of a grid, steps up, down, left and right, and the examples of Sutton and Barto (2018).

The state of cell (row, column) is `row * width + column`, so that `v.reshape(height, width)` is the picture.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import ArrayLike

from dp.mdp import MDP, make_mdp

Cell = tuple[int, int]  # row, column; (0, 0) is the upper left

ACTIONS = ("up", "down", "left", "right")
DOWN, RIGHT = np.array([-1, 1, 0, 0]), np.array([0, 0, -1, 1])
SIDEWAYS = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]) / 2


def gridworld(
    height: int,
    width: int,
    *,
    gamma: ArrayLike,
    step_reward: float = 0.0,
    wall_reward: float = 0.0,
    slip: float = 0.0,
    terminals: Iterable[Cell] = (),
    jumps: Mapping[Cell, tuple[Cell, float]] | None = None,
) -> MDP:
    """Return the MDP of a grid: states are cells, actions are `ACTIONS`.

    A step moves to the next cell; one off the grid leaves the cell as it is, and earns `wall_reward` beside the
    `step_reward` of every step. slip: the probability that a step goes sideways instead, half to either side.
    terminals: cells where the episode has ended. jumps: from a cell, whatever the action, to another cell for a
    reward, `{cell: (to, reward)}`; that reward is all that the step earns.
    Raises ValueError for a grid without cells, a cell that is not on the grid and a slip outside [0, 1].
    """
    if height < 1 or width < 1 or not 0 <= slip <= 1:
        raise ValueError(f"need height, width >= 1 and 0 <= slip <= 1, got {height}, {width} and {slip}")

    def state(cell: Cell) -> int:
        row, column = cell
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"cell {cell} is not on the grid of {height} x {width}")
        return row * width + column

    here = np.arange(height * width)[:, None]
    row, column = here // width + DOWN, here % width + RIGHT
    on_grid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    reached = np.where(on_grid, row * width + column, here)
    R = np.where(on_grid, step_reward, step_reward + wall_reward).astype(float)
    for cell, (to, reward) in (jumps or {}).items():
        reached[state(cell)], R[state(cell)] = state(to), reward

    takes = (1 - slip) * np.eye(4) + slip * SIDEWAYS  # [action, move]
    P = np.einsum("am,smt->sat", takes, np.eye(height * width)[reached])
    ended = np.zeros(height * width, bool)
    ended[[state(cell) for cell in terminals]] = True
    return make_mdp(P, R @ takes.T, gamma, terminal=ended)


def gridworld_3_5(gamma: ArrayLike = 0.9) -> MDP:
    """Return the 5 x 5 gridworld of Sutton and Barto (2018), examples 3.5 and 3.8.

    From A = (0, 1) every action leads to (4, 1) with reward 10, from B = (0, 3) to (2, 3) with reward 5; a step off the
    grid earns -1, any other 0. The best from A is to come back in four steps: `v_*(A) = 10 / (1 - γ^5)`.
    """
    return gridworld(5, 5, gamma=gamma, wall_reward=-1.0, jumps={(0, 1): ((4, 1), 10.0), (0, 3): ((2, 3), 5.0)})


def gridworld_4_1(gamma: ArrayLike = 1.0) -> MDP:
    """Return the 4 x 4 gridworld of Sutton and Barto (2018), example 4.1: -1 a step until one of two corners.

    γ = 1 and both corners are terminal: -v_π is the expected number of steps, and -v_* the distance to a corner.
    """
    return gridworld(4, 4, gamma=gamma, step_reward=-1.0, terminals=[(0, 0), (3, 3)])

"""Gridworlds: cells of a grid, steps up, down, left and right, and the examples of Sutton and Barto (2018).

The state of cell (row, column) is `row * width + column`, so that `v.reshape(height, width)` is the picture.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import ArrayLike

from dp.mdp import MDP
from dp.problems.assemble import assemble

Cell = tuple[int, int]  # row, column; (0, 0) is the upper left

ACTIONS = ("up", "down", "left", "right")
DOWN, RIGHT = np.array([-1, 1, 0, 0]), np.array([0, 0, -1, 1])
# The steps that an action may turn into: its own, and the two to either side.
ASTRAY = np.array([[0, 2, 3], [1, 2, 3], [2, 0, 1], [3, 0, 1]])


def gridworld(
    height: int,
    width: int,
    *,
    gamma: ArrayLike,
    step_reward: float = 0.0,
    wall_reward: float = 0.0,
    slip: float = 0.0,
    terminals: Iterable[Cell] | np.ndarray = (),
    jumps: Mapping[Cell, tuple[Cell, float]] | None = None,
    walls: Iterable[Cell] | np.ndarray = (),
    wind: Sequence[int] | np.ndarray | None = None,
    gust: float = 0.0,
    dense: bool | None = None,
) -> MDP:
    """Return the MDP of a grid: states are cells, actions are `ACTIONS`.

    A step moves to the next cell; one off the grid or into a wall leaves the cell as it is, and earns `wall_reward`
    beside the `step_reward` of every step. slip: the probability that a step goes sideways instead, half to either
    side. terminals: cells where the episode has ended. jumps: from a cell, whatever the action, to another cell for a
    reward, `{cell: (to, reward)}`; that reward is all that the step earns.
    walls: cells that cannot be entered; as states they are terminal, and worth 0.
    wind: for each column by how many cells a step that leaves from there is blown upwards when it is done; the edge
        and walls stop it. gust: the probability that it blows one cell further, and again that it blows one less
        (downwards, if need be), in columns where there is wind. Neither blows on a jump.
    terminals and walls are cells, or a boolean array [height, width].
    dense: whether P is an array; None makes it one for at most 1,024 cells. A million cells take a second.
    Raises ValueError for a grid without cells, a cell that is not on the grid, a jump into or out of a wall, a slip
    outside [0, 1], a gust outside [0, 1/2] and a wind that is not one integer a column.
    Source: Sutton and Barto (2018), examples 3.5, 4.1, 6.5 and exercise 6.10.
    """
    if height < 1 or width < 1 or not 0 <= slip <= 1:
        raise ValueError(f"need height, width >= 1 and 0 <= slip <= 1, got {height}, {width} and {slip}")
    if not 0 <= gust <= 0.5:
        raise ValueError(f"need 0 <= gust <= 1/2, got {gust}")
    blows = np.zeros(width, int) if wind is None else np.asarray(wind)
    if blows.shape != (width,) or blows.dtype.kind not in "iu":
        raise ValueError(f"wind must be {width} integers, one a column, got {blows.dtype} with {list(blows.shape)}")

    solid, ended = (_flags(cells, height, width) for cells in (walls, terminals))
    reached, bumped = steps(height, width, solid)
    here = np.arange(height * width)
    R = np.where(bumped, step_reward + wall_reward, step_reward)

    # What the wind makes of each step, [4, S], and how likely that is in each cell, [S].
    outcomes = [(reached, np.ones(here.size))]
    if blows.any():
        force = blows[here % width]
        chances = {0: 1 - 2 * gust, 1: gust, -1: gust} if gust else {0: 1.0}
        outcomes = [
            (_blow(reached, np.where(force, force + more, 0), solid), np.where(force, p, float(more == 0)))
            for more, p in chances.items()
        ]

    for cell, (to, reward) in (jumps or {}).items():
        s, t = _state(cell, height, width), _state(to, height, width)
        if solid.flat[s] or solid.flat[t]:
            raise ValueError(f"the jump from {cell} to {to} begins or ends in a wall")
        R[:, s] = reward
        for to_state, _ in outcomes:
            to_state[:, s] = t

    moves = ASTRAY if slip else ASTRAY[:, :1]
    takes = np.array([1 - slip, slip / 2, slip / 2])[: moves.shape[1]]
    state = np.concatenate([np.moveaxis(to_state[moves], -1, 0) for to_state, _ in outcomes], axis=-1)
    prob = np.concatenate([p[:, None, None] * np.broadcast_to(takes, moves.shape) for _, p in outcomes], axis=-1)
    return assemble(state, prob, (takes @ R[moves]).T, gamma, terminal=(ended | solid).ravel(), dense=dense)


def steps(height: int, width: int, solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the state that each of the four steps reaches, int32 [4, S], and whether it was stopped, bool [4, S].

    solid: [height, width], True where there is a wall.
    """
    here = np.arange(height * width, dtype=np.int32).reshape(height, width)
    reached = np.stack([here] * 4)
    reached[0, 1:], reached[1, :-1] = here[:-1], here[1:]
    reached[2, :, 1:], reached[3, :, :-1] = here[:, :-1], here[:, 1:]
    reached = np.where(solid.ravel()[reached], here, reached)
    return reached.reshape(4, -1), (reached == here).reshape(4, -1)


def _blow(reached: np.ndarray, force: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Blow what has been reached, [4, S], upwards by force [S] cells, one by one, downwards where it is negative."""
    (up, down, _, _), _ = steps(solid.shape[0], solid.shape[1], solid)
    for i in range(int(np.abs(force).max())):
        reached = np.where(force > i, up[reached], np.where(force < -i, down[reached], reached))
    return reached


def _state(cell: Cell, height: int, width: int) -> int:
    row, column = cell
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"cell {cell} is not on the grid of {height} x {width}")
    return row * width + column


def _flags(cells: Iterable[Cell] | np.ndarray, height: int, width: int) -> np.ndarray:
    if isinstance(cells, np.ndarray) and cells.dtype == bool:
        if cells.shape != (height, width):
            raise ValueError(f"a map of cells must have shape {[height, width]}, got {list(cells.shape)}")
        return cells
    flags = np.zeros(height * width, bool)
    flags[[_state(cell, height, width) for cell in cells]] = True
    return flags.reshape(height, width)


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


def windy_gridworld(gamma: ArrayLike = 1.0, *, gust: float = 0.0) -> MDP:
    """Return the windy gridworld of Sutton and Barto (2018), example 6.5: 7 x 10, -1 a step, from (3, 0) to (3, 7).

    Without gusts the shortest way takes 15 steps. gust = 1/3 is the stochastic wind of exercise 6.10.
    """
    wind = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)
    return gridworld(7, 10, gamma=gamma, step_reward=-1.0, terminals=[(3, 7)], wind=wind, gust=gust)

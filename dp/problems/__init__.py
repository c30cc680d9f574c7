"""Problems with known answers or known difficulty, one file per family."""

from dp.problems.corridor import corridor as corridor
from dp.problems.forest import forest as forest
from dp.problems.garnet import garnet as garnet
from dp.problems.gridworld import gridworld as gridworld
from dp.problems.gridworld import gridworld_3_5 as gridworld_3_5
from dp.problems.gridworld import gridworld_4_1 as gridworld_4_1
from dp.problems.random_dense import random_dense as random_dense
from dp.problems.space_exploration import space_exploration as space_exploration
from dp.problems.taxicab import taxicab as taxicab
from dp.problems.toymaker import toymaker as toymaker
from dp.problems.two_state import two_state as two_state

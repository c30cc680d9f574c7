"""Problems with known answers or known difficulty, one file per family."""

from dp.problems.corridor import corridor as corridor
from dp.problems.garnet import garnet as garnet
from dp.problems.space_exploration import space_exploration as space_exploration

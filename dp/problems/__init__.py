"""Problems with known answers or known difficulty, one file per family."""

from dp.problems.admission_control import admission_control as admission_control
from dp.problems.bus_engine import bus_engine as bus_engine
from dp.problems.cliff import cliff as cliff
from dp.problems.corridor import corridor as corridor
from dp.problems.forest import forest as forest
from dp.problems.gambler import gambler as gambler
from dp.problems.garnet import garnet as garnet
from dp.problems.gridworld import gridworld as gridworld
from dp.problems.gridworld import gridworld_3_5 as gridworld_3_5
from dp.problems.gridworld import gridworld_4_1 as gridworld_4_1
from dp.problems.gridworld import windy_gridworld as windy_gridworld
from dp.problems.jacks_car_rental import jacks_car_rental as jacks_car_rental
from dp.problems.perishable_inventory import perishable_inventory as perishable_inventory
from dp.problems.perishable_inventory import perishable_step as perishable_step
from dp.problems.random_dense import random_dense as random_dense
from dp.problems.recycling_robot import recycling_robot as recycling_robot
from dp.problems.space_exploration import space_exploration as space_exploration
from dp.problems.tandem_ring import tandem_ring as tandem_ring
from dp.problems.taxicab import taxicab as taxicab
from dp.problems.toymaker import toymaker as toymaker
from dp.problems.two_state import two_state as two_state

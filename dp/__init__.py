"""Exact dynamic programming for finite Markov decision processes, with a certificate on every answer."""

from . import problems as problems
from .bellman import action_values as action_values
from .bellman import expectation as expectation
from .bellman import expected_reward as expected_reward
from .bellman import greedy as greedy
from .bellman import optimality as optimality
from .bellman import state_values as state_values
from .bounds import Bounds as Bounds
from .bounds import bounds as bounds
from .evaluation import evaluate as evaluate
from .fixed_point import Solution as Solution
from .mdp import MDP as MDP
from .mdp import MRP as MRP
from .mdp import from_dynamics as from_dynamics
from .mdp import induce as induce
from .mdp import make_mdp as make_mdp
from .policy_iteration import policy_iteration as policy_iteration
from .policy_iteration import policy_iteration_history as policy_iteration_history
from .value_iteration import value_iteration as value_iteration
from .value_iteration import value_iteration_history as value_iteration_history

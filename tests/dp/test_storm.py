"""Models that Storm ships, in its PRISM language, against exact values: Storm's own, with rational arithmetic."""

import warnings
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dp.reachability import reachability
from dp.sparse import from_choices
from dp.total_reward import total_reward

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    stormpy = pytest.importorskip("stormpy")
FILES = Path(stormpy.__file__).parent / "examples" / "files" / "mdp"


class Built:
    """A model as Storm builds it: its labels, its initial state, and the MDP of one of its rewards."""

    def __init__(self, name, constants=""):
        program = stormpy.parse_prism_program(str(FILES / name))
        if constants:
            program = stormpy.instantiate_constants(program, constants)
            program = program[0] if isinstance(program, tuple) else program
        self.storm = stormpy.build_model[stormpy.Rational](program)
        self.start = self.storm.initial_states[0]

    def label(self, name):
        states = np.zeros(self.storm.nr_states, bool)
        states[list(self.storm.labeling.get_states(name))] = True
        return states

    def mdp(self, reward=None):
        matrix, S = self.storm.transition_matrix, self.storm.nr_states
        choices = np.array([matrix.get_row_group_start(s) for s in range(S)] + [matrix.nr_rows])
        entries = [[(e.column, e.value) for e in matrix.get_row(c)] for c in range(matrix.nr_rows)]
        rewards = np.zeros(matrix.nr_rows)
        if reward is not None:
            model = self.storm.reward_models[reward]
            if model.has_state_rewards:
                rewards += np.repeat([_float(x) for x in model.state_rewards], np.diff(choices))
            if model.has_state_action_rewards:
                rewards += [_float(x) for x in model.state_action_rewards]
        return from_choices(
            np.array([_float(p) for row in entries for _, p in row]),
            np.array([s for row in entries for s, _ in row]),
            np.append(0, np.cumsum([len(row) for row in entries])),
            choices,
            rewards,
        )


def _float(rational):
    return float(Fraction(str(rational)))


built = cache(Built)


def encloses(solution, state, exact):
    """The certificate holds for the rational number, not only for a float near it, and to 1e-6 of it."""
    assert solution.converged
    lower, v, upper = (float(x[state]) for x in (solution.lower, solution.v, solution.upper))
    assert Fraction(lower) <= exact <= Fraction(upper)
    assert abs(v - exact) <= 1e-9 * abs(exact) and upper - lower <= 1e-9 * abs(exact)


@pytest.mark.parametrize(
    ("name", "reward", "goal", "maximise", "exact"),
    [
        ("tiny_rewards.nm", "", "target", False, Fraction(1)),
        ("coin2-2.nm", "steps", "finished", True, Fraction(75)),
        ("coin2-2.nm", "steps", "finished", False, Fraction(48)),
        ("two_dice.nm", "coinflips", "done", False, Fraction(22, 3)),
        ("two_dice.nm", "coinflips", "done", True, Fraction(22, 3)),
        ("slipgrid.nm", "", "target", False, Fraction(20, 3)),
        ("leader4.nm", "rounds", "elected", False, Fraction(30, 7)),
        ("leader4.nm", "rounds", "elected", True, Fraction(30, 7)),
    ],
)
def test_expected_rewards_until_a_label(name, reward, goal, maximise, exact):
    model = built(name)
    solution = total_reward(model.mdp(reward), model.label(goal), maximise=maximise, tol=1e-9)
    encloses(solution, model.start, exact)


@pytest.mark.parametrize(
    ("name", "goal", "maximise", "exact"),
    [
        ("coin2-2.nm", lambda m: m.label("finished") & m.label("all_coins_equal_1"), False, Fraction(49, 128)),
        ("coin2-2.nm", lambda m: m.label("finished") & ~m.label("agree"), True, Fraction(13, 120)),
        ("two_dice.nm", lambda m: m.label("seven"), False, Fraction(1, 6)),
        ("two_dice.nm", lambda m: m.label("seven"), True, Fraction(1, 6)),
    ],
)
def test_probabilities_of_reaching_a_label(name, goal, maximise, exact):
    model = built(name)
    encloses(reachability(model.mdp(), goal(model), maximise=maximise), model.start, exact)


def test_an_ethernet_of_a_thousand_states():
    model = built("csma2_2.nm")
    mdp, goal = model.mdp("time"), model.label("all_delivered")
    for maximise, time in ((False, 66.9993228627), (True, 70.6657597662)):
        solution = total_reward(mdp, goal, maximise=maximise)
        assert solution.converged
        np.testing.assert_allclose(solution.v[model.start], time, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["tiny_rewards.nm", "slipgrid.nm", "maze_2.nm", "die_c1.nm", "wlan0-2-2.nm"])
def test_every_state_every_label_every_reward_as_storm_has_it(name):
    model = built(name)
    for label in sorted(set(model.storm.labeling.get_labels()) - {"init", "deadlock"}):
        goal = model.label(label)
        for pick, maximise in (("min", False), ("max", True)):
            agrees(model, f'P{pick}=? [F "{label}"]', reachability(model.mdp(), goal, maximise=maximise))
            for reward in model.storm.reward_models:
                named = f'{{"{reward}"}}' if reward else ""
                solution = total_reward(model.mdp(reward), goal, maximise=maximise)
                agrees(model, f'R{named}{pick}=? [F "{label}"]', solution)


def agrees(model, prop, solution):
    found = stormpy.model_checking(model.storm, stormpy.parse_property(prop)).get_value_vector()
    assert solution.converged
    for exact, lower, upper in zip(map(str, found), solution.lower, solution.upper, strict=True):
        if exact == "inf":
            assert float(lower) == np.inf
        else:
            assert Fraction(float(lower)) <= Fraction(exact) <= Fraction(float(upper))

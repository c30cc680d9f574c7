"""The table of a small model: what it says is true, and it says what it leaves out."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import dp
from dp.problems import corridor, gambler, garnet, recycling_robot, space_exploration, toymaker
from dp.problems.space_exploration import ACTIONS, STATES
from dp.show import _upwards, show

SPACECRAFT = """\
state       v      ±  action  policy         q    reward  leads to
F      3.5000  1e-09  C                 2.7500    1.0000  F
                      E            *    3.5000    2.0000  F 0.5, L 0.5
L      2.5000  1e-09  C            *    2.5000    1.0000  F 0.5, L 0.5
                      E               -10.0000  -10.0000  D
D      0.0000  0e+00                                      terminal
converged: max(upper - lower) <= 2e-09, iterations: 3"""


def solution(mdp: dp.MDP, v, policy, gap: float = 2e-9, converged: bool = True) -> dp.Solution:
    v, gaps = jnp.asarray(v), jnp.where(jnp.asarray(v) == 0, 0.0, gap)
    q = dp.action_values(mdp, v)
    zero, three = jnp.zeros(()), jnp.asarray(3)
    return dp.Solution(v, q, jnp.asarray(policy), v - gaps / 2, v + gaps / 2, three, zero, jnp.asarray(converged))


def test_the_spacecraft_to_the_letter():
    mdp = space_exploration()
    # 3.5 - 1e-9 and 3.5 + 1e-9 in binary: less than 2.0e-9 apart.
    found = show(mdp, solution(mdp, [3.5, 2.5, 0.0], [1, 0, 0], gap=1.9e-9), states=STATES, actions=ACTIONS)
    assert found == SPACECRAFT


def test_a_model_alone():
    assert show(recycling_robot(), states=("high", "low")).split("\n") == [
        "state  action  reward  leads to",
        "high   0       2.0000  high 0.8, low 0.2",
        "       1       1.0000  high",
        "low    0       0.0000  high 0.4, low 0.6",
        "       1       1.0000  low",
        "       2       0.0000  high",
    ]


def test_what_ends_is_said():
    lines = show(corridor(2, gamma=0.9, slip=0.25), digits=2).split("\n")
    assert lines[-1] == "       1         0.75  1 0.25, end 0.75"


def test_a_stochastic_policy_has_probabilities():
    mdp = recycling_robot()
    policy = [[0.25, 0.75, 0.0], [0.5, 0.125, 0.375]]
    lines = show(mdp, solution(mdp, [1.0, 2.0], policy, gap=1.9e-9, converged=False)).split("\n")
    assert [line.split()[4 if line[0] != " " else 1] for line in lines[1:6]] == [
        "0.25",
        "0.75",
        "0.5",
        "0.125",
        "0.375",
    ]
    assert lines[-1].startswith("NOT converged: max(upper - lower) <= 2e-09")


def test_ragged_models_and_names_for_every_choice():
    mdp = gambler(0.25, goal=4)
    lines = show(mdp).split("\n")
    assert lines[1:] == [
        "0                      terminal",
        "1      0       0.0000  0 0.75, 2 0.25",
        "2      0       0.0000  1 0.75, 3 0.25",
        "       1       0.2500  0 0.75, 4 0.25",
        "3      0       0.2500  2 0.75, 4 0.25",
        "4                      terminal",
    ]
    named = show(mdp, actions=["", "one", "one", "two", "one", ""]).split("\n")
    assert [line.split()[0 if line[0] == " " else 1] for line in named[2:6]] == ["one", "one", "two", "one"]
    marked = show(mdp, solution(mdp, [0.0, 0.1, 0.25, 0.4, 0.0], [0, 0, 1, 0, 0])).split("\n")
    assert ["*" in line for line in marked[1:7]] == [False, True, False, True, True, False]


def test_what_is_left_out_is_counted():
    mdp = garnet(1000, 2, 8, gamma=0.9, seed=0)
    lines = show(mdp, most=7).split("\n")
    assert len(lines) == 8
    assert lines[-1] == "... 997 more states"
    assert all(line.endswith(", 4 more") for line in lines[1:-1])
    assert show(mdp, most=1).split("\n")[-1] == "... 999 more states"
    assert "more state" not in show(space_exploration(), most=5)
    assert show(space_exploration(), most=4).split("\n")[-1] == "... 1 more state"


def test_an_average_has_a_gain():
    mdp = toymaker()
    bias, gamma, policy = jnp.array([0.0, -10.0]), jnp.asarray(1.0), jnp.array([1, 1])
    q = dp.action_values(mdp._replace(gamma=gamma), bias) - 2
    bounds = jnp.asarray(2.0), jnp.asarray(1.75), jnp.asarray(2.25)
    found = dp.Average(bounds[0], bias, q, policy, *bounds[1:], jnp.asarray(4), jnp.zeros(()), jnp.asarray(True))
    lines = show(mdp, found).split("\n")
    assert lines[0].split()[:3] == ["state", "bias", "action"]
    assert lines[3].split() == ["1", "-10.0000", "0", "-11.0000", "-3.0000", "0", "0.4,", "1", "0.6"]
    assert lines[-2:] == ["gain 2.0000 ± 3e-01 a step", "converged: max(upper - lower) <= 5e-01, iterations: 4"]


def test_what_is_infinite_is_known_to_be():
    mdp = space_exploration(1.0)
    infinite = jnp.array([jnp.inf, jnp.inf, 0.0])
    found = solution(mdp, [1.0, 1.0, 0.0], [0, 0, 0])._replace(v=infinite, lower=infinite, upper=infinite)
    lines = show(mdp, found).split("\n")
    assert lines[1].split()[:3] == ["0", "inf", "0e+00"]
    assert lines[-1] == "converged: max(upper - lower) <= 0e+00, iterations: 3"


def test_numbers_that_decimals_would_hide_have_an_exponent():
    mdp = dp.make_mdp(np.ones((1, 2, 1)), np.array([[1e-7, -3e-8]]), 0.5)
    assert "1.0000e-07" in show(mdp) and "-3.0000e-08" in show(mdp)
    mdp = dp.make_mdp(np.ones((1, 2, 1)), np.array([[1.0, -3e-8]]), 0.5)
    assert show(mdp).split("\n")[2].split() == ["1", "0.0000", "0"]


def test_a_bound_is_never_printed_below_itself():
    for x in [*np.random.default_rng(0).lognormal(-5, 10, 1000), 1.0, 0.1, 1e-12, 9.5, 9.6e-7, 3e-5, 0.0]:
        text = _upwards(float(x))
        assert x <= float(text) <= 2.0001 * x
        assert re.fullmatch(r"\de[+-]\d\d", text)
    assert (_upwards(np.inf), _upwards(np.nan)) == ("inf", "nan")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("states must hold 3 names, got 2", {"states": ("F", "L")}),
        ("actions must hold 2 names, or 6, one for every choice; got 3", {"actions": ("C", "E", "X")}),
        ("most must be at least 1, got 0", {"most": 0}),
        ("digits must be at least 0, got -1", {"digits": -1}),
    ],
)
def test_tables_that_are_none(message, arguments):
    with pytest.raises(ValueError, match=re.escape(message)):
        show(space_exploration(), **arguments)


def test_a_solution_of_another_model_is_refused():
    with pytest.raises(ValueError, match="it is of another model, or of several stages"):
        show(recycling_robot(), dp.solve(space_exploration()))
    with pytest.raises(ValueError, match="or of several stages"):
        show(space_exploration(), dp.finite_horizon(space_exploration(), 3))


def test_something_that_holds_an_mdp_is_none(unchecked):
    model = dp.formats.Model(recycling_robot(), np.ones(2, bool), {}, {})
    for function in (show, dp.solve, dp.as_dense):
        with pytest.raises(ValueError, match=r"a dp\.MDP is needed, got Model: pass its \.mdp"):
            function(model)

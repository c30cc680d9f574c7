"""Storm's format: what Storm itself reads in a file, and what is refused."""

import itertools
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest

from dp import formats
from dp.dense import make_mdp
from dp.formats import Model
from dp.table import tabulate

GOOD = """\
// Exported by storm
@type: MDP
@value_type: rational
@parameters

@reward_models
time energy 
@nr_states
2
@nr_choices
3
@model
state 0 [1/2, 0] init "two words"
//[x=0	& y=1]
	action go [1, -3]
		0 : 1/3
		1 : 2/3
	action __NOLABEL__ [0, 0]
		1 : 1
state 1 [0, 2.5e-1] goal
//[x=1	& y=1]
	action go [0, 1]
		0 : 0.25
		1 : 75e-2
"""  # noqa: W291


def read(tmp_path: Path, text: str | bytes, **sets) -> Model:
    path = tmp_path / "model.drn"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return formats.read_drn(path, **sets)


def test_everything_in_a_file_is_read(tmp_path: Path):
    model = read(tmp_path, GOOD, rewards="energy", gamma=0.5)
    table = tabulate(model.mdp)
    np.testing.assert_array_equal(table.data, [1 / 3, 2 / 3, 1, 0.25, 0.75])
    np.testing.assert_array_equal(table.indices, [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(table.indptr, [0, 2, 3, 5])
    np.testing.assert_array_equal(table.choices, [0, 2, 3])
    np.testing.assert_array_equal(model.mdp.R, [-3, 0, 1.25])
    np.testing.assert_array_equal(model.with_rewards("time").R, [1.5, 0.5, 0])
    assert float(model.mdp.gamma) == 0.5 and model.initial.tolist() == [True, False]
    assert {name: x.tolist() for name, x in model.labels.items()} == {"two words": [True, False], "goal": [False, True]}
    assert model.states == ("x=0 & y=1", "x=1 & y=1") and model.actions == ("go", "", "go")


def test_of_several_rewards_none_is_chosen_silently(tmp_path: Path):
    assert not read(tmp_path, GOOD).mdp.R.any()
    with pytest.raises(ValueError, match="no rewards are called 'cost'; there are 'time', 'energy'"):
        read(tmp_path, GOOD, rewards="cost")
    with pytest.raises(ValueError, match="no rewards are called 'cost'; there are 'time', 'energy'"):
        read(tmp_path, GOOD).with_rewards("cost")


CONVERTED = ["1/3", "2/7", "1" + "0" * 300 + "/3" + "0" * 300, "0.1", "1e-5", "123456789/987654321987654321", "-7/3"]


@pytest.mark.parametrize("text", CONVERTED)
def test_a_number_is_the_float_next_to_it(tmp_path: Path, text: str):
    model = read(tmp_path, GOOD.replace("2.5e-1", "0").replace("[0, 1]", f"[0, {text}]"), rewards="energy")
    assert float(model.mdp.R[2]) == float(Fraction(text))


def test_markov_chains_files_of_windows_and_older_files_are_read(tmp_path: Path):
    chain = "@type: DTMC\n@parameters\n\n@reward_models\n\n@nr_states\n1\n@model\nstate 0 init\n\taction 0\n\t\t0 : 1\n"
    for text in (chain, chain.replace("\n", "\r\n"), chain.replace("@nr_states\n1", "@nr_states: 1")):
        model = read(tmp_path, text)
        assert model.mdp.R.shape == (1,) and model.actions is None and model.states is None and not model.rewards


def test_missing_mass_needs_permission(tmp_path: Path):
    text = GOOD.replace("		0 : 0.25\n", "").replace("		1 : 1\n", "")
    with pytest.raises(ValueError, match=r"drn:18: .*state 0, choice 1 sum to 0, not to 1; substochastic="):
        read(tmp_path, text)
    table = tabulate(read(tmp_path, text, substochastic=True).mdp)
    np.testing.assert_array_equal(table.data, [1 / 3, 2 / 3, 0.75])
    bare = GOOD[: GOOD.rindex("	action")].replace("@nr_choices\n3", "@nr_choices\n2")
    with pytest.raises(ValueError, match=r"drn:20: state 1 has no action; substochastic= makes it terminal"):
        read(tmp_path, bare)
    model = read(tmp_path, bare, substochastic=True, rewards="energy")
    np.testing.assert_array_equal(model.mdp.R, [-3, 0, 0.25])


WRONG = [
    ("type: MDP", "type: POMDP", 2, "models of type 'POMDP' are not read"),
    ("type: MDP", "type: Markov Automaton", 2, "are not read, only MDP and DTMC"),
    ("type: MDP", "type: DTMC", 18, "state 0 of a Markov chain has a second action"),
    ("rational", "double-interval", 3, "values of type 'double-interval' are not read"),
    ("@parameters\n\n", "@parameters\n\np q\n", 6, "expected a line that begins with @, got 'p q'"),
    ("@parameters\n\n", "@parameters\np q\n", 4, "the model has parameters"),
    ("@parameters", "@placeholders", 4, "@placeholders is not known"),
    ("@parameters", "@type: MDP\n@parameters", 4, "@type comes twice, first in line 2"),
    ("time energy", "time time", 6, "a name comes twice among the rewards"),
    ("time energy ", "time", 13, "2 rewards, but @reward_models names 1"),
    ("@nr_states\n2", "@nr_states\n3", 24, "the file ends after 2 states, but @nr_states says 3"),
    ("@nr_states\n2", "@nr_states\n1", 17, "successor 1 is out of range: there are 1"),
    ("@nr_states\n2", "@nr_states\n999999999999", 12, "bytes, and a file of"),
    ("@nr_states\n2", "@nr_states\n" + "9" * 30, 8, "@nr_states must be an integer, 0 or more, and not astronomical"),
    ("@nr_states\n2", "@nr_states\n0", 8, "a model needs at least one state"),
    ("@nr_states\n2\n", "", 10, "@nr_states is missing before @model"),
    ("@nr_choices\n3", "@nr_choices\n4", 24, "the file has 3 actions, but @nr_choices says 4"),
    ("state 1", "state 0", 20, "state 0 where state 1 of 2 should be"),
    ("state 1", "state 2", 20, "state 2 where state 1 of 2 should be"),
    ("state 1", "state one", 20, "state must be an integer"),
    ("state 1", "stat 1", 20, "expected a state, an action or a successor"),
    ("state 0 [1/2, 0]", "state 0 !3 [1/2, 0]", 13, "exit rates and observations"),
    ("state 0 [1/2, 0]", "state 0 {4}", 13, "exit rates and observations"),
    ("goal", "goal goal", 20, "a label comes twice"),
    ('"two words"', '"two words', 13, "quotation marks go around a whole label"),
    ("[1/2, 0]", "[1/2, 0", 13, "rewards without an end"),
    ("[1/2, 0]", "[1/2]", 13, "1 rewards, but @reward_models names 2"),
    ("go [1, -3]", "go", 15, "the action has no rewards, but @reward_models names 2"),
    ("go [1, -3]", "[1, -3]", 15, "an action needs a name"),
    ("go [1, -3]", "go [1, -3] !", 15, "'!' after an action is not understood"),
    ("		0 : 1/3", "		2 : 1/3", 16, "successor 2 is out of range: there are 2, numbered from 0"),
    ("		0 : 1/3", "		-1 : 1/3", 16, "expected a state, an action or a successor, got '-1 : 1/3'"),
    ("		0 : 1/3", "		1 : 1/3", 17, "state 0, choice 0 has the successor 1 twice"),
    ("		0 : 1/3", "		0 : 1/4", 15, "state 0, choice 0 sum to 0.9166666667, not to 1"),
    ("		0 : 1/3", "		0 : 1/3 1", 16, "'1/3 1' is not a number"),
    ("		0 : 1/3", "		0 1/3", 16, "successor must be an integer"),
    ("	action go [1, -3]\n", "", 15, "a successor outside of an action"),
    ("0.25", "-0.25", 23, "-0.25 is a negative probability"),
    ("0.25", "nan", 23, "'nan' is not a number"),
    ("0.25", "1_0", 23, "'1_0' is not a number"),
    ("0.25", "1e999999999", 23, "'1e999999999' is too large for a float"),
    ("0.25", "1e-999999999", 23, "'1e-999999999' is too small for a float, and 0 would be another model"),
    ("0.25", "1/0", 23, "'1/0' divides by zero"),
    ("0.25", "9" * 5000, 23, "a number of 5000 characters; 2000 are allowed"),
    ("0.25", "[0.2, 0.3]", 23, "is not a number"),
    ("goal", "go\x00al", 20, "has characters that are not text"),
]


@pytest.mark.parametrize(("old", "new", "line", "reason"), WRONG)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, reason: str):
    assert old in GOOD
    at = GOOD.rindex(old) if old.startswith("goal") else GOOD.index(old)
    with pytest.raises(ValueError) as error:
        read(tmp_path, GOOD[:at] + new + GOOD[at + len(old) :])
    assert str(error.value).startswith(f"{tmp_path / 'model.drn'}:{line}: ") and reason in str(error.value)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path):
    for end in range(len(GOOD)):
        with pytest.raises(ValueError, match=r"model\.drn:[0-9]+: "):
            read(tmp_path, GOOD[:end])


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    for data, line in (b"\xff\xfe", 1), (GOOD.encode() + b"\x80\n", 25), (b"\x00" * 100, 1), (b"", 1):
        with pytest.raises(ValueError, match=rf"model\.drn:{line}: "):
            read(tmp_path, data)


def test_tables_larger_than_their_file_are_refused(tmp_path: Path):
    states = 3000
    body = "".join(f"state {s} l{s}\n\taction 0\n\t\t{s} : 1\n" for s in range(states))
    with pytest.raises(ValueError, match="the labels and rewards would take 9,000,000 bytes"):
        read(tmp_path, f"@type: MDP\n@nr_states\n{states}\n@model\n{body}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": {'a"b': np.ones(2, bool)}}, "the label 'a\"b' cannot be written"),
        ({"labels": {"init": np.ones(2, bool)}}, 'the label "init" says where an episode may start'),
        ({"states": ("a\n", "b")}, "the state name 'a.n' cannot be written"),
        ({"actions": ("a b",) * 4}, "the action name 'a b' cannot be written"),
        ({"actions": ("[1]",) * 4}, "no action can be called"),
        ({"actions": ("a",)}, "actions must hold 4 names, one for every choice, got 1"),
        ({"rewards": {"a b": np.ones((2, 2))}}, "the reward name 'a b' cannot be written"),
        ({"rewards": {"": np.zeros((2, 2))}}, "the R of this model is none of its named rewards"),
    ],
)
def test_names_that_would_come_back_different_are_not_written(tmp_path: Path, change: dict, reason: str):
    model = Model(make_mdp(np.full((2, 2, 2), 0.5), np.ones((2, 2)), 0.9), np.ones(2, bool), {}, {})
    with pytest.raises(ValueError, match=reason):
        formats.write_drn(tmp_path / "model.drn", model._replace(**change))
    assert not (tmp_path / "model.drn").exists()


def test_several_models_at_once_are_not_written(tmp_path: Path):
    mdp = make_mdp(np.full((2, 2, 2), 0.5), np.ones((2, 2)), 0.9)
    with pytest.raises(ValueError, match="models are written one by one"):
        formats.write_drn(tmp_path / "model.drn", jax.tree.map(lambda x: np.stack([x, x]), mdp))


def test_a_dense_model_keeps_the_numbers_of_its_actions_as_names(tmp_path: Path):
    mask = np.array([[False, True], [True, True]])
    mdp = make_mdp(np.full((2, 2, 2), 0.5), np.arange(4.0).reshape(2, 2), 0.9, mask=mask)
    formats.write_drn(tmp_path / "model.drn", mdp)
    found = formats.read_drn(tmp_path / "model.drn")
    assert found.actions == ("1", "0", "1")
    np.testing.assert_array_equal(found.mdp.R, [1, 2, 3])


@pytest.mark.parametrize("name", ["mdp/two_dice.nm", "dtmc/die.pm", "mdp/multiobjective1.nm", "mdp/slipgrid.nm"])
def test_storm_reads_the_same(tmp_path: Path, name: str):
    stormpy = pytest.importorskip("stormpy")
    io = pytest.importorskip("stormpy.io")
    program = stormpy.parse_prism_program(str(Path(stormpy.__file__).parent / "examples/files" / name))
    exact = stormpy.build_model[stormpy.Rational](program, options=stormpy.BuilderOptions(build_full=True))
    io.export_to_drn(exact, str(tmp_path / "theirs.drn"))
    model = formats.read_drn(tmp_path / "theirs.drn")
    assert_as_storm(model, exact)
    assert model.states is not None and len(set(model.states)) == exact.nr_states
    formats.write_drn(tmp_path / "ours.drn", model)
    assert_as_storm(model, stormpy.build_model_from_drn(str(tmp_path / "ours.drn")))


def value(entry) -> float:
    # By way of Fraction: Storm's own conversion of its exact numbers to floats cuts them off, 2/5 below 0.4.
    return float(Fraction(str(entry.value() if callable(entry.value) else entry.value)))


def assert_as_storm(model: Model, storm) -> None:
    table, matrix = tabulate(model.mdp), storm.transition_matrix
    entries = [(e.column, value(e)) for c in range(storm.nr_choices) for e in matrix.get_row(c)]
    assert entries == list(zip(table.indices.tolist(), table.data.tolist(), strict=True))
    assert [matrix.get_row_group_start(s) for s in range(storm.nr_states)] == table.choices[:-1].tolist()
    labels = {name: set(np.flatnonzero(x).tolist()) for name, x in {"init": model.initial, **model.labels}.items()}
    theirs = {name: set(storm.labeling.get_states(name)) for name in storm.labeling.get_labels()}
    assert labels == {name: states for name, states in theirs.items() if states}
    assert set(model.rewards) == set(storm.reward_models)
    owner = np.repeat(np.arange(storm.nr_states), np.diff(table.choices))
    for name, theirs in storm.reward_models.items():
        total = np.zeros(storm.nr_choices)
        if theirs.has_state_rewards:
            total += np.array([float(Fraction(str(x))) for x in theirs.state_rewards])[owner]
        if theirs.has_state_action_rewards:
            total += np.array([float(Fraction(str(x))) for x in theirs.state_action_rewards])
        np.testing.assert_array_equal(model.rewards[name], total)


def test_the_names_of_a_module_are_its_public_names():
    names = [x for x in vars(formats) if not x.startswith("_")]
    pairs = itertools.product(("read", "write"), ("drn", "prism", "npz"))
    assert {"_".join(pair) for pair in pairs} < set(names)

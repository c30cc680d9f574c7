"""PRISM's explicit files: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from dp import formats
from dp.dense import make_mdp
from dp.formats import Model
from dp.table import tabulate

GOOD = {
    "tra": "2 3 5\n1 0 0 0.25\n1 0 1 0.75 stay\n0 0 0 0.5\n0 0 1 .5\n0 1 1 1 go\n".replace("0.25\n", "0.25 stay\n"),
    "lab": '0="init" 1="deadlock" 2="two words"\n0: 0\n1: 1 2\n',
    "sta": "(x,y)\n0:(0,1)\n1:(1,1)\n",
    "srew": '# Reward structure "time"\n# State rewards\n2 1\n1 3\n',
    "trew": '# Reward structure "time"\n# Transition rewards\n2 3 3\n1 0 0 4\n0 0 0 0.1\n0 0 1 0.1\n',
}


def read(tmp_path: Path, **changed: str) -> Model:
    files = {kind: tmp_path / f"model.{kind}" for kind in GOOD}
    for kind, path in files.items():
        path.write_text(changed.get(kind, GOOD[kind]))
    tra = files.pop("tra")
    return formats.read_prism(tra, **files, gamma=0.9)


def test_everything_in_the_files_is_read(tmp_path: Path):
    model = read(tmp_path)
    table = tabulate(model.mdp)
    np.testing.assert_array_equal(table.data, [0.5, 0.5, 1, 0.25, 0.75])
    np.testing.assert_array_equal(table.indices, [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(table.choices, [0, 2, 3])
    assert model.states == ("0,1", "1,1") and model.actions == ("", "go", "stay")
    assert {name: x.tolist() for name, x in model.labels.items()} == {
        "deadlock": [False, True],
        "two words": [False, True],
    }
    assert model.initial.tolist() == [True, False] and list(model.rewards) == ["time"]
    # r(s) + Σ p r, and exactly r where r is the same for all successors.
    np.testing.assert_array_equal(model.mdp.R, [0.1, 0, 3 + 0.25 * 4])


def test_a_markov_chain_has_one_choice_everywhere(tmp_path: Path):
    (tmp_path / "chain.tra").write_text("2 3\n0 0 0.5\n0 1 0.5\n1 1 1\n")
    (tmp_path / "chain.trew").write_text("2 1\n0 1 3\n")
    model = formats.read_prism(tmp_path / "chain.tra", trew=tmp_path / "chain.trew")
    np.testing.assert_array_equal(model.mdp.R, [1.5, 0])
    assert model.actions is None and not model.labels and not model.initial.any() and list(model.rewards) == [""]


def test_several_rewards_keep_their_names(tmp_path: Path):
    mdp = make_mdp(np.full((2, 2, 2), 0.5), np.zeros((2, 2)), 0.9)
    rewards = {"time": np.arange(4.0).reshape(2, 2), "": np.ones((2, 2))}
    files = formats.write_prism(tmp_path / "model", Model(mdp, np.ones(2, bool), {}, rewards))
    assert [path.name for path in files["trew"]] == ["model1.trew", "model2.trew"]
    found = formats.read_prism(**files)
    assert list(found.rewards) == ["time", ""] and not found.mdp.R.any()
    np.testing.assert_array_equal(found.with_rewards("time").R, [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"trew:1: there are transition rewards called 'time' already"):
        formats.read_prism(files["tra"], trew=[files["trew"][0]] * 2)


def test_missing_mass_is_not_written(tmp_path: Path):
    P = np.full((2, 2, 2), 0.5)
    P[1, 0] = [0.5, 0.25]
    with pytest.raises(ValueError, match=r"state 1, action 0: the probabilities sum to 0.75; PRISM's rows sum to one"):
        formats.write_prism(tmp_path / "model", make_mdp(P, np.zeros((2, 2)), 0.9, substochastic=True))


WRONG = [
    ("tra", "2 3 5", "2 3 6", 6, "the file ends after 5 lines, but line 1 says 6"),
    ("tra", "2 3 5", "2 4 5", 1, "the file has 3 choices, but its first line says 4"),
    ("tra", "2 3 5", "3 3 5", 1, "state 2 of 3 has no transitions"),
    ("tra", "2 3 5", "9999999999 3 5", 1, "state 2 of 9999999999 has no transitions"),
    ("tra", "2 3 5", "1 3 5", 2, "the index 1 is out of range: there are 1"),
    ("tra", "2 3 5", "2 3 5 1", 1, "the first line must be 3 or 2 integers"),
    ("tra", "2 3 5", "mdp", 1, "a count of the first line must be an integer"),
    ("tra", "0 1 1 1 go", "0 2 1 1 go", 6, "state 0 has a choice 2 but no choice 1"),
    ("tra", "0 1 1 1 go", "0 1 1 1 go on", 6, "expected 3 integers and a number"),
    ("tra", "0 0 1 .5", "0 0 1 .5 go", 5, "state 0, choice 0 has two names"),
    ("tra", "0 0 1 .5", "0 0 0 .5", 5, "state 0, choice 0 has the successor 0 twice"),
    ("tra", "0 0 1 .5", "0 0 1 .4", 4, "state 0, choice 0 sum to 0.9, not to 1"),
    ("tra", "0 0 1 .5", "0 0 1 -.5", 5, "-0.5 is a negative probability"),
    ("tra", "0 0 1 .5", "0 0 x .5", 5, "the index must be an integer"),
    ("tra", GOOD["tra"], "2 0 0\n", 1, "state 0 of 2 has no transitions"),
    ("lab", "0: 0", "0: 3", 2, "label 3 is out of range: there are 3"),
    ("lab", "0: 0", "2: 0", 2, "state 2 is out of range"),
    ("lab", "0: 0", "1: 0", 3, "state 1 comes twice"),
    ("lab", "0: 0", "0 0", 2, "state must be an integer"),
    ("lab", "1: 1 2", "1: 1 1", 3, "a label comes twice"),
    ("lab", '1="deadlock"', '1="init"', 1, "the first line must be as in"),
    ("lab", '1="deadlock"', '7="deadlock"', 1, "the first line must be as in"),
    ("lab", '1="deadlock"', '1="deadlock', 1, "the first line must be as in"),
    ("lab", GOOD["lab"], "\n \n", 2, "the file says nothing"),
    ("lab", "0: 0", "#: 0", 2, "state must be an integer"),
    ("tra", "0 1 1 1 go", "#1 1 1 go", 6, "the index must be an integer"),
    ("sta", "1:(1,1)\n", "", 2, "the file ends after 1 states, but the model has 2"),
    ("sta", "1:(1,1)", "1:1,1", 3, "expected state 1 and its values in brackets"),
    ("sta", "1:(1,1)", "0:(1,1)", 3, "expected state 1 and its values in brackets"),
    ("sta", "(x,y)", "x,y", 1, "the first line must name the variables in brackets"),
    ("srew", "2 1", "3 1", 3, "3 states, but the model has 2"),
    ("srew", "2 1\n1 3", "2 2\n1 3\n1 4", 5, "state 1 comes twice"),
    ("srew", "1 3", "1 1e400", 4, "too large for a float"),
    ("srew", "1 3", "1 3 go", 4, "expected 1 integers and a number"),
    ("srew", "# State", '# Reward structure "more"\n# State', 2, "a second name of rewards"),
    ("trew", "1 0 0 4", "1 1 0 4", 4, "state 1, choice 1 has no transition to state 0"),
    ("trew", "1 0 0 4", "0 1 0 4", 4, "state 0, choice 1 has no transition to state 0"),
    ("trew", "1 0 0 4", "0 0 0 4", 5, "state 0, choice 0 has the successor 0 twice"),
    ("trew", "2 3 3", "2 3", 4, "expected 2 integers and a number"),
]


@pytest.mark.parametrize(("kind", "old", "new", "line", "reason"), WRONG)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, kind: str, old: str, new: str, line: int, reason: str):
    assert old in GOOD[kind]
    with pytest.raises(ValueError) as error:
        read(tmp_path, **{kind: GOOD[kind].replace(old, new)})
    assert str(error.value).startswith(f"{tmp_path}/model.{kind}:{line}: ") and reason in str(error.value)


@pytest.mark.parametrize("kind", GOOD)
def test_a_file_cut_off_inside_a_line_is_refused(tmp_path: Path, kind: str):
    for end in range(len(GOOD[kind])):
        # Where whole lines are missing, only a count can tell; .lab has none.
        if kind != "lab" or GOOD[kind][end - 1 : end] != "\n":
            with pytest.raises(ValueError, match=rf"model\.{kind}:[0-9]+: "):
                read(tmp_path, **{kind: GOOD[kind][:end]})

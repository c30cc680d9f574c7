"""Models written in Storm's explicit format, DRN: see `dp.formats.drn`."""

from collections.abc import Iterator

import numpy as np

from dp.formats.drn import UNNAMED
from dp.formats.model import Model, as_model, choice_names, reward_rows
from dp.formats.text import Source, require_name, written
from dp.mdp import MDP
from dp.table import tabulate


def write_drn(path: Source, model: Model | MDP) -> None:
    """Write a model of any form to a DRN file: `read_drn` finds the same floats, labels and names in it.

    Rewards belong to choices. Not written: gamma, which the format does not know, and actions that are forbidden; the
    others keep their numbers as names. Missing mass stays missing: `read_drn` then wants `substochastic=True`, and
    Storm wants rows that sum to one.

    Raises ValueError for names that the format cannot hold, with the characters.
    """
    model = as_model(model)
    text = list(_text(model))  # whatever is wrong is found before there is a file
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(text)


def _text(model: Model) -> Iterator[str]:
    table, rewards = tabulate(model.mdp), reward_rows(model)
    S, C = len(table.choices) - 1, len(table.rewards)
    names = "".join(f"{require_name(name, 'the reward name', forbidden=' @')} " for name in rewards)
    yield f"@type: MDP\n@parameters\n\n@reward_models\n{names}\n@nr_states\n{S}\n@nr_choices\n{C}\n@model\n"
    labels = _labels(model)
    actions = [_action(name) for name in choice_names(model, table)]
    earned = np.stack(list(rewards.values()), axis=1).tolist() if rewards else []
    data, indices = table.data.tolist(), table.indices.tolist()
    for s in range(S):
        yield " ".join([f"state {s}", *labels[s]]) + "\n"
        if model.states is not None:
            yield f"//[{require_name(model.states[s], 'the state name', forbidden='')}]\n"
        for c in range(table.choices[s], table.choices[s + 1]):
            rewards_of = f" [{', '.join(map(written, earned[c]))}]" if earned else ""
            yield f"\taction {actions[c]}{rewards_of}\n"
            for n in range(table.indptr[c], table.indptr[c + 1]):
                yield f"\t\t{indices[n]} : {written(data[n])}\n"


def _labels(model: Model) -> list[list[str]]:
    """Return the labels of every state as they are written."""
    if "init" in model.labels:
        raise ValueError('the label "init" says where an episode may start: put it into `initial`')
    found: list[list[str]] = [[] for _ in range(model.mdp.size)]
    for name, members in {"init": model.initial, **model.labels}.items():
        require_name(name, "the label", forbidden='"')
        plain = name.replace("_", "a").isalnum() and name.isascii()
        for s in np.flatnonzero(members):
            found[s].append(name if plain else f'"{name}"')
    return found


def _action(name: str) -> str:
    if name.startswith("[") or name == UNNAMED:
        raise ValueError(f"no action can be called {name!r} in this format")
    return require_name(name, "the action name", forbidden=" ") or UNNAMED

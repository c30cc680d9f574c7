"""Models written as PRISM's explicit files: see `dp.formats.prism`."""

from pathlib import Path

import numpy as np

from dp.formats.model import Model, as_model, choice_names, reward_rows, telling
from dp.formats.text import Source, require_name, written
from dp.mdp import MDP
from dp.table import Table, tabulate
from dp.validation import rounding_slack


def write_prism(stem: Source, model: Model | MDP) -> dict[str, Path | list[Path]]:
    """Write `stem.tra`, `stem.lab` and, for names and rewards, `stem.sta` and `stem.trew` (or `stem1.trew`, ...).

    Returns the paths under the names that `read_prism` gives them: `read_prism(**write_prism(stem, model))` finds the
    same floats and names. Rewards become rewards of transitions, the same for all successors. Not written: gamma, and
    forbidden actions.

    Raises ValueError for missing mass, which PRISM does not know (`write_drn` and `write_npz` do), and for names that
    the files cannot hold.
    """
    model = as_model(model)
    table, rewards = tabulate(model.mdp), reward_rows(model)
    _require_whole(table)
    texts = {"tra": _transitions(model, table), "lab": _labels(model)}
    if model.states is not None:
        names = [require_name(name, "the state name", forbidden="") for name in model.states]
        texts["sta"] = "(state)\n" + "".join(f"{s}:({name})\n" for s, name in enumerate(names))
    files: dict[str, Path | list[Path]] = {kind: Path(f"{stem}.{kind}") for kind in texts}
    trew = [Path(f"{stem}{n if len(rewards) > 1 else ''}.trew") for n in range(1, len(rewards) + 1)]
    kinds = [_rewards(name, r, table) for name, r in rewards.items()]
    for kind, text in texts.items():
        Path(f"{stem}.{kind}").write_text(text, encoding="utf-8", newline="\n")
    for path, text in zip(trew, kinds, strict=True):
        path.write_text(text, encoding="utf-8", newline="\n")
    return files | ({"trew": trew} if trew else {})


def _require_whole(table: Table) -> None:
    total = table.mass
    wrong = np.abs(total - 1) > rounding_slack(table.data.dtype)
    if wrong.any():
        c = int(np.argmax(wrong))
        s = int(np.searchsorted(table.choices, c, side="right")) - 1
        raise ValueError(
            f"state {s}, action {table.actions[c]}: the probabilities sum to {total[c]:.10g}; PRISM's rows sum to one. "
            "write_drn and write_npz write missing mass"
        )


def _entries(table: Table) -> list[tuple[int, int, int, int, float]]:
    """Return state, number of the choice, choice, successor and probability of all entries."""
    C = len(table.rewards)
    row, owner = table.row, table.owner
    number = np.arange(C) - table.choices[:-1][owner]
    columns = owner[row], number[row], row, table.indices, table.data
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _transitions(model: Model, table: Table) -> str:
    names = telling(choice_names(model, table), table.choices) or [""] * len(table.rewards)
    words = [f" {require_name(name, 'the action name', forbidden=' ')}".rstrip() for name in names]
    head = f"{len(table.choices) - 1} {len(table.rewards)} {len(table.data)}\n"
    return head + "".join(f"{s} {a} {t} {written(p)}{words[c]}\n" for s, a, c, t, p in _entries(table))


def _labels(model: Model) -> str:
    if "init" in model.labels:
        raise ValueError('the label "init" says where an episode may start: put it into `initial`')
    labels = {"init": model.initial, **model.labels}
    head = " ".join(f'{n}="{require_name(name, "the label", forbidden=chr(34))}"' for n, name in enumerate(labels))
    members = np.stack(list(labels.values()), axis=1)
    lines = [f"{s}: {' '.join(map(str, np.flatnonzero(members[s])))}\n" for s in np.flatnonzero(members.any(1))]
    return head + "\n" + "".join(lines)


def _rewards(name: str, r: np.ndarray, table: Table) -> str:
    lines = [f"{s} {a} {t} {written(float(r[c]))}\n" for s, a, c, t, _ in _entries(table) if r[c]]
    head = f"{len(table.choices) - 1} {len(table.rewards)} {len(lines)}\n"
    title = f'# Reward structure "{require_name(name, "the reward name", forbidden="")}"\n# Transition rewards\n'
    return (title if name else "") + head + "".join(lines)

"""Storm's explicit format, DRN, as Storm 1.9 to 1.12 and stormpy 2.0 write it: MDPs and Markov chains.

    @type: MDP                      or DTMC: a Markov chain, one choice in every state
    @value_type: rational           or double; may be missing
    @parameters
                                    parametric models are refused
    @reward_models
    time energy                     a name for every column of rewards; one may be empty
    @nr_states
    2
    @nr_choices
    3                               may be missing
    @model
    state 0 [0, 1/2] init           state rewards, labels; a label with blanks is in quotation marks
    //[x=0 & y=1]                   what Storm says of a state: its name
        action go [1, 0]            a choice, its name (or number, or __NOLABEL__), its rewards: both kinds add up
            0 : 1/3                 successor and probability
            1 : 2/3

Source: Hensel, Junges, Katoen, Quatmann and Volk (2022), "The probabilistic model checker Storm", and files it wrote.
"""

from array import array
from typing import NamedTuple

import numpy as np
from jaxtyping import DTypeLike

from dp.formats.drn_header import Header, Lines, read_header
from dp.formats.explicit import Rows, bound, build, checked
from dp.formats.model import Model, telling
from dp.formats.text import Number, Source, as_numpy, count, fail, index, lines, numbers, shown

UNNAMED = "__NOLABEL__"


class Growing(NamedTuple):
    """The `Rows` of what was read up to a line."""

    data: array
    indices: array
    lines: array
    indptr: array
    choices: array
    places: array


class Body(NamedTuple):
    """What comes after @model, as far as it was read; arrays of rewards have one column for every name."""

    rows: Growing
    of_states: list[array]
    of_choices: list[array]
    labels: dict[str, array]
    states: dict[int, str]
    actions: list[str]


def read_drn(
    path: Source,
    *,
    rewards: str | None = None,
    gamma: float = 1.0,
    dtype: DTypeLike | None = None,
    substochastic: bool = False,
) -> Model:
    """Read an MDP or a Markov chain from a DRN file.

    rewards: name of the rewards that become R; None takes the only ones, and where there are several (or none) R is 0:
        `Model.with_rewards` chooses. gamma: discount rate, which the format does not know.
    dtype: of the model; None is JAX's default float. In float32, rows may be off by float32's rounding.
    substochastic: accept rows that sum to less than one, choices without successors and states without choices: missing
        mass ends the episode. A file that was cut off inside its last state is then not always found out.

    The states are ragged: R is [C], a policy counts the choices of its state. A bounded multiple of the file's size is
    held in memory. Raises ValueError, as "file:line: reason", for a file that is not exactly as above, probabilities
    that do not sum to one to within max(1e-8, 100 eps), and models of other kinds (continuous time, partial
    observation, intervals, parameters, several players).
    """
    found = lines(path)
    header = read_header(path, found)
    body = _body(path, found, header, ends=substochastic)
    rows, names = Rows(*map(as_numpy, body.rows)), body.actions
    choices = np.append(rows.choices, len(rows.indptr))
    earned: dict[str, np.ndarray] = {}
    for name, of_choice, of_state in zip(header.rewards, body.of_choices, body.of_states, strict=True):
        r, more = as_numpy(of_choice), np.repeat(as_numpy(of_state), np.diff(choices))
        with np.errstate(over="ignore"):  # what overflows is refused with the other numbers
            earned[name] = r + more if more.any() else r  # adding 0 would change -0
    return build(
        path,
        checked(path, rows, dtype=dtype, substochastic=substochastic),
        earned,
        body.labels,
        states=tuple(body.states.get(s, "") for s in range(len(rows.choices))) if body.states else None,
        actions=telling(["" if name == UNNAMED else name for name in names], choices),
        chosen=rewards,
        gamma=gamma,
    )


def _body(path: Source, found: Lines, header: Header, *, ends: bool) -> Body:
    number, width = numbers(path), range(len(header.rewards))
    body = Body(Growing(*map(array, "dqqqqq")), [array("d") for _ in width], [array("d") for _ in width], {}, {}, [])
    rows, names = body.rows, {}
    n, state, seen = header.line, header.line, 0  # lines: this one, the last state's; choices seen
    # States may leave out their rewards; then the file is smaller than the table.
    bound(path, header.line, 8 * len(header.rewards) * header.states, "rewards")
    for n, line in found:
        text = line.strip()
        if not text:
            continue
        if "0" <= text[0] <= "9":
            if not rows.indptr or state > rows.places[-1]:
                fail(path, n, f"a successor outside of an action: {shown(text)}")
            successor, _, probability = text.partition(":")
            rows.indices.append(index(path, successor.rstrip(), n, header.states, "successor"))
            rows.lines.append(n)
            p = number(probability.strip(), n)
            if p < 0:
                fail(path, n, f"{p} is a negative probability")
            rows.data.append(p)
        elif text.startswith("action "):
            if not rows.choices:
                fail(path, n, "an action before the first state")
            if header.type == "DTMC" and state < (rows.places[-1] if rows.places else 0):
                fail(path, n, f"state {len(rows.choices) - 1} of a Markov chain has a second action")
            name, rest = _word(text[7:])
            if not name or name.startswith("["):
                fail(path, n, f"an action needs a name or a number: {shown(text)}")
            if header.rewards and not rest:
                fail(path, n, f"the action has no rewards, but @reward_models names {len(header.rewards)}")
            rest = _rewards(path, rest, n, number, header.rewards, body.of_choices)
            if rest:
                fail(path, n, f"{shown(rest)} after an action is not understood")
            body.actions.append(names.setdefault(name, name))
            rows.indptr.append(len(rows.data))
            rows.places.append(n)
            seen += 1
        elif text.startswith("state "):
            _close(path, body, state, ends=ends)
            name, rest = _word(text[6:])
            s = count(path, name, n, "state")
            if s != len(rows.choices) or s >= header.states:
                fail(path, n, f"state {s} where state {len(rows.choices)} of {header.states} should be")
            rows.choices.append(len(rows.indptr))
            rest = _rewards(path, rest, n, number, header.rewards, body.of_states)
            for label in _labels(path, rest, n):
                body.labels.setdefault(label, array("q")).append(s)
            state = n
        elif text.startswith("//"):
            if text.startswith("//[") and text.endswith("]") and n == state + 1 and rows.choices:
                body.states[len(rows.choices) - 1] = text[3:-1].replace("\t", " ")
        else:
            fail(path, n, f"expected a state, an action or a successor, got {shown(text)}")
    _close(path, body, state, ends=ends)
    if len(rows.choices) != header.states:
        fail(path, n, f"the file ends after {len(rows.choices)} states, but @nr_states says {header.states}")
    if header.choices not in (None, seen):
        fail(path, n, f"the file has {seen} actions, but @nr_choices says {header.choices}")
    return body


def _close(path: Source, body: Body, line: int, *, ends: bool) -> None:
    """Check that the last state has a choice, or give it one that ends the episode."""
    rows = body.rows
    if rows.choices and rows.choices[-1] == len(rows.indptr):
        if not ends:
            reason = f"state {len(rows.choices) - 1} has no action; substochastic= makes it terminal"
            fail(path, line, reason)
        body.actions.append("0")
        rows.indptr.append(len(rows.data))
        rows.places.append(line)
        for column in body.of_choices:
            column.append(0.0)


def _word(text: str) -> tuple[str, str]:
    """Return the first word and the rest."""
    parts = text.split(None, 1)
    return (parts[0], parts[1]) if len(parts) == 2 else (text.strip(), "")


def _rewards(path: Source, text: str, line: int, number: Number, names: tuple[str, ...], columns: list[array]) -> str:
    """Append the rewards that the text begins with, or zeros, to the columns; return what follows them."""
    if not text.startswith("["):
        values, rest = [0.0] * len(names), text
    else:
        inside, end, rest = text[1:].partition("]")
        if not end:
            fail(path, line, f"rewards without an end: {shown(text)}")
        values = [number(x.strip(), line) for x in inside.split(",")]
        rest = rest.lstrip()
    if len(values) != len(names):
        fail(path, line, f"{len(values)} rewards, but @reward_models names {len(names)}")
    for column, value in zip(columns, values, strict=True):
        column.append(value)
    return rest


def _labels(path: Source, text: str, line: int) -> list[str]:
    found = text.split()
    if '"' in text:
        pieces = text.split('"')  # outside and inside of quotation marks, in turn
        outside = pieces[::2]
        closed = all(piece[-1:].isspace() for piece in outside[:-1] if piece or piece is not outside[0])
        opened = all(piece[:1].isspace() for piece in outside[1:] if piece or piece is not outside[-1])
        if len(pieces) % 2 == 0 or not (closed and opened):
            fail(path, line, f"quotation marks go around a whole label: {shown(text)}")
        found = [x for n, piece in enumerate(pieces) for x in ([piece] if n % 2 else piece.split())]
    if found and '"' not in text[:1] and found[0][0] in "!{":
        fail(path, line, f"{shown(found[0])}: exit rates and observations belong to models that are not read")
    if len(set(found)) < len(found):
        fail(path, line, f"a label comes twice: {shown(text)}")
    return found

"""A small model and its solution as plain text, to be read."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dp.checks import require_at_least
from dp.gain import Average
from dp.mdp import MDP, at_states, require_mdp
from dp.solution import Solution
from dp.table import Table, tabulate

MOST_SUCCESSORS = 4
WORDS = ("state", "action", "leads to")

Cell = str | float


def show(
    mdp: MDP,
    solution: Solution | Average | None = None,
    *,
    states: Sequence[str] | None = None,
    actions: Sequence[str] | None = None,
    digits: int = 4,
    most: int = 50,
) -> str:
    """Return a table of an MDP, and of a solution of it if there is one: a line for every choice of every state.

        state       v      ±  action  policy         q    reward  leads to
        F      3.5000  3e-14  C                 2.7500    1.0000  F
                              E            *    3.5000    2.0000  F 0.5, L 0.5

    v is known to within ±, which is rounded up; after an average-reward solver there is the bias, and the gain below.
    policy: `*` marks what a deterministic policy does; of any other the probabilities. "end p" says that the episode
    ends with probability p. Of a terminal state there is only its name.
    states: names [S]; None means numbers. actions: names of the actions, as many as a state has at most, or one for
        every choice that is not forbidden, as in `dp.formats`. digits: decimals. most: lines; what they have no room
        for is counted in one more.
    Raises ValueError for names that are too few or too many, and for most < 1 or digits < 0.
    """
    require_mdp(mdp)
    require_at_least(1, most, "most")
    require_at_least(0, digits, "digits")
    if states is not None and len(states) != mdp.size:
        raise ValueError(f"states must hold {mdp.size} names, got {len(states)}")
    shapes = (np.shape(mdp.R[..., 0] if mdp.choices is None else mdp.choices.first), np.shape(mdp.R))
    if solution is not None:
        value = solution.bias if isinstance(solution, Average) else solution.v
        if (np.shape(value), np.shape(solution.q)) != shapes:
            raise ValueError(
                f"the solution has v {list(np.shape(value))} and q {list(np.shape(solution.q))}, the MDP needs "
                f"{list(shapes[0])} and {list(shapes[1])}: it is of another model, or of several stages"
            )
    # Every state takes a line at least, and what is not shown need not be tabulated.
    table = tabulate(mdp if mdp.size <= most else at_states(mdp, jnp.arange(most)))
    over = np.add.reduceat((np.diff(table.indptr) > 0) | (table.rewards != 0), table.choices[:-1]) == 0
    needed = np.cumsum(np.where(over, 1, np.diff(table.choices)))
    shown = max(1, int(np.searchsorted(needed, most, side="right")))
    name = [str(s) for s in (range(mdp.size) if states is None else states)]
    label = _labels(mdp, table, actions)

    lines: list[list[Cell]] = []
    for s in range(shown):
        beside: list[Cell] = [name[s], *_value(solution, s)]
        if over[s]:
            lines.append([*beside, "", "", "", "", "terminal"])
            continue
        for c in range(table.choices[s], table.choices[s + 1]):
            entries = slice(table.indptr[c], table.indptr[c + 1])
            leads = _successors(table.indices[entries], table.data[entries], name, digits)
            chosen = _choice(mdp, solution, s, int(table.actions[c]), digits)
            lines.append([*beside, label[c], *chosen, float(table.rewards[c]), leads])
            beside = ["", "", ""]
    average = isinstance(solution, Average)
    titles = ["state", "bias" if average else "v", "±", "action", "policy", "q", "reward", "leads to"]
    columns = [_column(title, cells, digits) for title, cells in zip(titles, zip(*lines, strict=True), strict=True)]
    kept = [0, 3, 6, 7] if solution is None else [0, 1, 3, 4, 5, 6, 7] if average else range(8)
    text = ["  ".join(cells).rstrip() for cells in zip(*(columns[i] for i in kept), strict=True)]
    return "\n".join([*text, *_footer(mdp, solution, shown, digits)])


def _value(solution: Solution | Average | None, s: int) -> tuple[Cell, Cell]:
    """Return the value of a state and how far it may be off."""
    if solution is None:
        return "", ""
    if isinstance(solution, Average):
        return float(solution.bias[s]), ""
    return float(solution.v[s]), _upwards(_gap(solution, s) / 2)


def _gap(solution: Solution | Average, where: Any) -> float:
    """Return how far apart the bounds are at most; not at all where both are infinite, and the same."""
    lower, upper = np.asarray(solution.lower)[where], np.asarray(solution.upper)[where]
    with np.errstate(invalid="ignore"):
        return float(np.max(np.where(lower == upper, 0.0, upper - lower)))


def _choice(mdp: MDP, solution: Solution | Average | None, s: int, a: int, digits: int) -> tuple[Cell, Cell]:
    """Return what the policy says about an action, and the value of the action."""
    if solution is None:
        return "", ""
    place = (s, a) if mdp.choices is None else (int(mdp.choices.first[s]) + a,)
    if jnp.issubdtype(solution.policy.dtype, jnp.integer):
        return "*" * int(solution.policy[s] == a), float(solution.q[place])
    return f"{float(solution.policy[place]):.{digits}g}", float(solution.q[place])


def _successors(states: np.ndarray, p: np.ndarray, name: list[str], digits: int) -> str:
    """Write `F 0.5, L 0.5`, or `F` where it is certain; only the likeliest where there are many."""
    likeliest = np.argsort(-p, kind="stable")[:MOST_SUCCESSORS] if len(p) > MOST_SUCCESSORS else np.arange(len(p))
    missing = 1 - float(p.sum())
    if len(p) == 1 and abs(missing) < 1e-6:
        return name[states[0]]
    parts = [f"{name[states[k]]} {p[k]:.{digits}g}" for k in likeliest]
    if len(p) > MOST_SUCCESSORS:
        parts.append(f"{len(p) - MOST_SUCCESSORS} more")
    if missing > 1e-6:
        parts.append(f"end {missing:.{digits}g}" if len(p) else "end")
    return ", ".join(parts)


def _labels(mdp: MDP, table: Table, actions: Sequence[str] | None) -> list[str]:
    """Return a name for every choice of the table, which holds the first states."""
    if actions is None:
        return [str(a) for a in table.actions]
    if mdp.choices is None:
        A, choices = mdp.R.shape[1], mdp.R.size if mdp.mask is None else int(mdp.mask.sum())
    else:
        A, choices = int(np.bincount(np.asarray(mdp.choices.owner)).max()), mdp.R.shape[0]
    if len(actions) == A:
        return [str(actions[a]) for a in table.actions]
    if len(actions) == choices:
        return [str(a) for a in actions[: len(table.actions)]]
    raise ValueError(f"actions must hold {A} names, or {choices}, one for every choice; got {len(actions)}")


def _footer(mdp: MDP, solution: Solution | Average | None, shown: int, digits: int) -> Iterator[str]:
    left = mdp.size - shown
    if left:
        yield f"... {left} more state{'s' * (left != 1)}"
    if solution is None:
        return
    gap = _gap(solution, ...)
    if isinstance(solution, Average):
        yield f"gain {float(solution.gain):.{digits}f} ± {_upwards(gap / 2)} a step"
    verdict = "converged" if solution.converged else "NOT converged"
    yield f"{verdict}: max(upper - lower) <= {_upwards(gap)}, iterations: {int(solution.iterations)}"
    if not solution.converged and jnp.result_type(mdp.R) == jnp.float32:
        yield "float32 may not do: raise tol, or build the model after jax.config.update('jax_enable_x64', True)"


def _column(title: str, cells: Sequence[Cell], digits: int) -> list[str]:
    """Write a column and pad it: words to the left, numbers to the right with so many decimals.

    Where these would hide all numbers, or there would be too many digits before them, numbers have an exponent.
    """
    numbers = np.array([x for x in cells if isinstance(x, float) and math.isfinite(x)])
    largest = float(np.abs(numbers).max(initial=0))
    form = f".{digits}f" if largest == 0 or 10.0**-digits <= largest < 1e9 else f".{digits}e"
    # Adding 0 makes of -0 a 0.
    rounded = (round(x, digits) + 0.0 if form.endswith("f") else x for x in cells if isinstance(x, float))
    text = [format(next(rounded), form) if isinstance(x, float) else x for x in cells]
    lines = [title, *map(str, text)]
    width = max(map(len, lines))
    return [cell.ljust(width) if title in WORDS else cell.rjust(width) for cell in lines]


def _upwards(x: float) -> str:
    """Write a bound with one digit, never below it."""
    text = f"{x:.0e}"
    if x > 0 and math.isfinite(x) and float(text) < x:
        exponent = math.floor(math.log10(x))
        text = f"{math.ceil(x / 10.0**exponent)}e{exponent:+03d}"
        text = f"{float(text):.0e}"
    return text

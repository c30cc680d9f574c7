"""An MDP and what its file says about it: names, labels, several kinds of reward."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from dp.matrix_free import Steps
from dp.mdp import MDP
from dp.table import Table


class Model(NamedTuple):
    """An MDP with the names of its states, choices, labels and rewards. Arrays of names and labels are NumPy's.

    mdp: the MDP. Its R is one of `rewards`, or 0 where none was chosen.
    initial: [S], True where an episode may start.
    labels: sets of states by name, [S] each: goals, for one.
    rewards: expected rewards by name, in the shape of `mdp.R`.
    states: names, [S]; None where states only have numbers.
    actions: names of the choices, state by state, in the order of `dp.table.tabulate(mdp)`; "" for a choice that has
        none, and None where choices only have numbers.
    """

    mdp: MDP
    initial: Bool[np.ndarray, " S"]
    labels: dict[str, Bool[np.ndarray, " S"]]
    rewards: dict[str, Float[np.ndarray, "*rows"]]
    states: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None

    def with_rewards(self, name: str) -> MDP:
        """Return the MDP with the rewards of this name; ValueError where there are none."""
        if name not in self.rewards:
            names = ", ".join(map(repr, self.rewards)) or "none"
            raise ValueError(f"no rewards are called {name!r}; there are {names}")
        return self.mdp._replace(R=jnp.asarray(self.rewards[name]))


def as_model(model: Model | MDP) -> Model:
    """Return the model, or the bare MDP as a model: its rewards, unless they are all 0, are called ""."""
    mdp = model.mdp if isinstance(model, Model) else model
    if isinstance(mdp.P, Steps):
        raise ValueError("a matrix-free model has no numbers to write: dp.as_successors makes some")
    if np.ndim(mdp.gamma) != 0:
        raise ValueError(f"gamma has shape {list(np.shape(mdp.gamma))}: models are written one by one")
    if isinstance(model, Model):
        _require_fit(model)
        return model
    R = np.asarray(model.R)
    return Model(model, np.zeros(model.size, bool), {}, {"": R} if R.any() else {})


def _require_fit(model: Model) -> None:
    """Raise ValueError where names, labels or rewards do not fit the MDP."""
    S, rows = model.mdp.size, model.mdp.R.shape
    for name, states in [("initial", model.initial), *((f"labels[{k!r}]", v) for k, v in model.labels.items())]:
        states = np.asarray(states)
        if states.dtype != np.bool_ or states.shape != (S,):
            raise ValueError(f"{name} must be boolean with shape {[S]}, got {states.dtype} with {list(states.shape)}")
    for name, R in model.rewards.items():
        if np.shape(R) != rows:
            raise ValueError(f"rewards[{name!r}] must have shape {list(rows)}, got {list(np.shape(R))}")
    if model.states is not None and len(model.states) != S:
        raise ValueError(f"states must hold {S} names, got {len(model.states)}")
    choices = model.mdp.R.size if model.mdp.mask is None else int(np.sum(model.mdp.mask))
    if model.actions is not None and len(model.actions) != choices:
        raise ValueError(f"actions must hold {choices} names, one for every choice, got {len(model.actions)}")


def reward_rows(model: Model) -> dict[str, np.ndarray]:
    """Return all rewards of a model, [C] each: those it names, and its R as "" where that is neither one of them nor 0.

    C counts the choices of `dp.table.tabulate`.
    """
    mdp, R = model.mdp, np.asarray(model.mdp.R)
    rewards = dict(model.rewards)
    if R.any() and not any(np.array_equal(R, r) for r in rewards.values()):
        if "" in rewards:
            raise ValueError("the R of this model is none of its named rewards, and needs a name to be written")
        rewards[""] = R
    kept = ... if mdp.mask is None else np.asarray(mdp.mask)
    return {name: np.asarray(r)[kept].ravel() for name, r in rewards.items()}


def choice_names(model: Model, table: Table) -> tuple[str, ...]:
    """Return a name for every choice: its own, or its number as an action of the MDP."""
    if model.actions is None:
        return tuple(map(str, table.actions.tolist()))
    return model.actions


def telling(names: Sequence[str], choices: Int[np.ndarray, " S1"]) -> tuple[str, ...] | None:
    """Return the names of choices, or None where they say no more than the number of each within its state."""
    number = np.arange(choices[-1]) - np.repeat(choices[:-1], np.diff(choices))
    if not any(names) or all(name == str(n) for name, n in zip(names, number.tolist(), strict=True)):
        return None
    return tuple(names)

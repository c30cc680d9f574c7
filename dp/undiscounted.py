"""What problems without a discount share: the door, the last step from the quotient to a Solution, and the horizon."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike, Bool, Float, Int

from dp.attractors import Arena, arena, own
from dp.checks import require_at_least, require_model, tolerance
from dp.horizon import finite_horizon
from dp.mdp import MDP, Count, Scalar
from dp.solution import Solution
from dp.sparse import from_choices
from dp.table import Table, tabulate
from dp.validation import flags, rounding_slack

# No sum of rewards is taken for larger than 0 below this.
NOTHING = 1e-250


class Problem(NamedTuple):
    """A model on the host. graph: its arena. goal: [S + 1]. rows: the choices of states that are no goal.

    stored: its table. table: the same in double precision, rows that miss 1 by rounding divided by their sums.

    tol: of the gap; relative: in units of the value.
    """

    mdp: MDP
    stored: Table
    table: Table
    graph: Arena
    goal: Bool[np.ndarray, " S1"]
    rows: Bool[np.ndarray, " C"]
    tol: float
    relative: bool


class Answer(NamedTuple):
    """What is known of the value of every state, [S + 1], and a choice for each, -1 where any will do."""

    lower: Float[np.ndarray, " S1"]
    v: Float[np.ndarray, " S1"]
    upper: Float[np.ndarray, " S1"]
    choice: Int[np.ndarray, " S1"]
    iterations: int


def problem(
    mdp: MDP, goal: ArrayLike | None, tol: Scalar | None, relative: bool, max_iters: Count, solver: str
) -> Problem:
    """Check the arguments of a solver without a discount and put the model on the host."""
    require_model(mdp, solver, discounted=False)
    if any(isinstance(x, Tracer) for x in jax.tree.leaves((mdp, goal))):
        raise ValueError(
            f"{solver} works out the graph of the model on the host: it cannot be jitted, vmapped or differentiated"
        )
    gamma = float(np.asarray(mdp.gamma))
    if gamma != 1:
        raise ValueError(
            f"{solver} has no discount, got gamma = {gamma:.10g}: mdp._replace(gamma=...) with 1, or solve"
        )
    require_at_least(1, max_iters, "max_iters")
    if goal is not None and np.asarray(goal).dtype.kind in "iu":
        raise ValueError(f"goal must be boolean with shape {[mdp.size]}: np.isin(np.arange({mdp.size}), goal)")
    goal = flags(goal, (mdp.size,), "goal", default=False)
    tol = float(tolerance(tol, mdp.R.dtype))
    stored = tabulate(mdp)
    graph, goal = arena(stored), np.append(goal, False)
    return Problem(mdp, stored, _whole(stored), graph, goal, own(graph, ~goal), tol, relative)


def _whole(table: Table) -> Table:
    """Divide rows by their sums where these miss 1 by no more than rounding explains: there no episode ends."""
    mass = table.mass
    mass[np.abs(mass - 1) > rounding_slack(table.data.dtype)] = 1
    return table._replace(data=table.data / mass[table.row])


def conclude(problem: Problem, answer: Answer, rewards: Float[np.ndarray, " C"], *, maximise: bool) -> Solution:
    """Round the answer outwards to the dtype of the MDP, back it up once for q, and put the Solution together."""
    mdp, _, table, graph, goal, _, tol, _ = problem
    S, dtype = graph.end, np.asarray(mdp.R).dtype
    lower, v, upper = (x[:S] for x in answer[:3])
    lower, upper = _outwards(lower, dtype, -np.inf), _outwards(upper, dtype, np.inf)
    v = np.clip(v.astype(dtype), lower, upper) + 0.0  # never -0

    best = -np.inf if maximise else np.inf
    value = v.astype(np.float64)
    q = rewards + _weighted_sums(table, value, worst=best)
    q = np.where(goal[graph.owner], value[graph.owner], q)
    pick = np.maximum if maximise else np.minimum
    backup = pick.reduceat(q, table.choices[:-1])
    known = np.isfinite(lower) & np.isfinite(upper)
    residual = np.max(np.abs(backup[known] - value[known]), initial=0)
    # Infinite values that are known for sure have no gap.
    gap = np.where(lower == upper, 0, upper.astype(np.float64) - lower)
    # A value of 0 has a gap too, far below all that is not 0.
    allowed = tol * np.maximum(np.abs(v), NOTHING) if problem.relative else tol

    choice = np.where(answer.choice[:S] >= 0, answer.choice[:S], table.choices[:-1])
    if mdp.choices is None:
        full = np.full(mdp.R.shape, best)
        full[graph.owner, table.actions] = q
        q = full
    return Solution(
        v=jnp.asarray(v, dtype),
        q=jnp.asarray(q.astype(dtype)),
        policy=jnp.asarray(table.actions[choice].astype(int)),
        lower=jnp.asarray(lower),
        upper=jnp.asarray(upper),
        iterations=jnp.asarray(answer.iterations),
        residual=jnp.asarray(residual, dtype),
        converged=jnp.asarray(bool((gap <= allowed).all())),
    )


def within(
    problem: Problem,
    rewards: Float[np.ndarray, " C"],
    worth: float,
    horizon: int,
    *,
    maximise: bool,
) -> Solution:
    """Backward induction over `horizon` steps, where the goal ends the run and is worth so much."""
    mdp, table, _, graph, goal, rows, tol, _ = problem
    sign = np.asarray(1.0 if maximise else -1.0, table.data.dtype)
    # The goal earns in every stage what it is worth, and ends there: v_t(goal) = worth for every t.
    kept = rows[table.row]
    lengths = np.where(rows, np.diff(table.indptr), 0)
    dtype = table.data.dtype
    model = from_choices(
        table.data[kept],
        table.indices[kept],
        np.append(0, np.cumsum(lengths)),
        table.choices,
        sign * np.where(rows, rewards, worth).astype(dtype),
        substochastic=True,
    )
    start = sign * (worth * goal[:-1]).astype(dtype)
    found = finite_horizon(model, horizon, start, tol=tol)
    v, q, lower, upper = (sign * np.asarray(x) for x in (found.v, found.q, found.lower, found.upper))
    if mdp.choices is None:
        full = np.full((horizon, *mdp.R.shape), -sign * np.inf, dtype)
        full[:, graph.owner, table.actions] = q
        q = full
    lower, upper = (lower, upper) if maximise else (upper, lower)
    policy = table.actions[table.choices[:-1] + np.asarray(found.policy)].astype(int)
    return found._replace(
        v=jnp.asarray(v),
        q=jnp.asarray(q),
        policy=jnp.asarray(policy),
        lower=jnp.asarray(lower),
        upper=jnp.asarray(upper),
    )


def _weighted_sums(table: Table, v: Float[np.ndarray, " S"], *, worst: float) -> Float[np.ndarray, " C"]:
    """`Σ_s' p(s'|s, a) v(s')`; where both infinities can happen, the worst."""
    row = table.row
    finite = np.isfinite(v)
    products = table.data * np.where(finite, v, 0)[table.indices]
    # Of nothing at all, bincount returns integers.
    sums = np.bincount(row, products, minlength=len(table.rewards)).astype(np.float64)
    for infinity in (-worst, worst):
        sums[row[(v == infinity)[table.indices]]] = infinity
    return sums


def _outwards(x: Float[np.ndarray, " S"], dtype: np.dtype, towards: float) -> Float[np.ndarray, " S"]:
    """Round to the dtype without crossing x."""
    with np.errstate(over="ignore"):
        near = x.astype(dtype)
    crossed = near > x if towards < 0 else near < x
    return np.where(crossed, np.nextafter(near, dtype.type(towards)), near)

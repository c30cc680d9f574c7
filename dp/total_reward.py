"""Total reward without a discount: until a goal is reached, until the episode ends, or for ever.

    v_*(s) = max_π E_π[Σ_{t < τ} R_{t+1} | S_0 = s],        τ the first time in the goal, or the end of the episode
    v(s) = max_a [R(s, a) + Σ_s' p(s'|s, a) v(s')],         v = 0 in the goal;      or min_π, min_a

What a run counts that never comes to an end, is a convention, and the answer depends on it:

    inf         it counts as infinite. So the smallest expected cost is that of policies which reach the goal with
                probability one, and the largest is infinite where some policy may avoid the goal (PRISM, Storm).
    -inf        the same, with the sign turned.
    "earned"    it counts the sum of its rewards.

The equation alone does not say which, and has other solutions: value iteration from 0 finds the wrong one where a
choice costs nothing and leads nowhere. So the graph goes first, as in `dp.reachability`: what is infinite is found
without numbers, components in which one can move for nothing are collapsed, and `dp.transient` encloses the rest.
Source: de Alfaro (1997), chapter 3; Bertsekas and Tsitsiklis (1991); Baier, Klein, Leuschner, Parker and Wunderlich
(2017).
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from dp.attractors import (
    almost_sure,
    certain,
    end_components,
    first_choices,
    inner,
    own,
    possible,
)
from dp.collapse import collapse, proper, unfold
from dp.mdp import MDP, Count, Scalar
from dp.solution import Solution
from dp.transient import maximise as maximise_total
from dp.undiscounted import Answer, Problem, conclude, problem, within


def total_reward(
    mdp: MDP,
    goal: ArrayLike | None = None,
    *,
    maximise: bool = True,
    endless: float | Literal["earned"] | None = None,
    horizon: int | None = None,
    tol: Scalar | None = None,
    relative: bool = False,
    max_iters: Count = 1000,
) -> Solution:
    """Return the largest (or smallest) expected total reward `max_π E_π[R_1 + R_2 + ... | S_0 = s]`, until the goal.

    mdp: any form of MDP, with gamma = 1. Where probability mass is missing the episode ends, which counts 0.
        A row that misses 1 by no more than 1e-8, or 1.2e-5 in float32, counts as divided by its sum: it has no end.
    goal: bool [S], where the run ends and nothing more is earned; None for no goal but the end of the episode.
    maximise: the largest expectation, or the smallest: of costs, that of stochastic shortest paths.
    endless: what a run counts that never reaches the goal nor the end of the episode: math.inf, -math.inf, or "earned",
        the sum of its rewards. None: "earned" without a goal. With a goal, inf where no reward is negative, maximising
        and minimising alike, as PRISM and Storm have it; where some are negative, the goal must be reached with
        probability one (-inf when maximising, inf when minimising).
    horizon: count only so many steps, whatever comes then. The Solution then has the axis of stages of
        `dp.finite_horizon`: v[t] is what is earned when `horizon - t` steps are left. `endless` is not read.
    tol: absolute, in units of reward; `converged` says whether `max(upper - lower) <= tol` over all states. None means
        1e-6 in float64 and 1e-3 in float32.
    relative: tol is a fraction of each state's value, `upper - lower <= tol |v|`; a horizon does not read it.
    max_iters: policies evaluated at most. Whatever it is, the bounds hold.
    Returns a Solution, `lower <= v_* <= upper`; where the value is infinite all three are, elsewhere v is the value of
    its policy up to rounding. That policy, in the numbering of `mdp`, is worth at least lower (at most upper, when
    minimising), unless the supremum is infinite and no policy attains it: where it pays to put off the goal, but not to
    miss it. q is 0 at the goal.
    A component in which rewards of both signs can go round for ever may defeat the proof: then bounds are infinite,
    on one side or both, and converged is False.
    Runs on the host, in double precision. Raises ValueError for gamma < 1, inside jit, and for a goal that does not
    fit.
    """
    if endless not in (None, "earned", math.inf, -math.inf):
        raise ValueError(f'endless must be math.inf, -math.inf, "earned" or None, got {endless!r}')
    given = problem(mdp, goal, tol, relative, max_iters, "total_reward")
    rewards = given.table.rewards.astype(np.float64)
    if horizon is not None:
        return within(given, rewards, 0.0, horizon, maximise=maximise)
    if endless is None:
        negative = bool((rewards[given.rows] < 0).any())
        endless = "earned" if goal is None else -math.inf if maximise and negative else math.inf
    sign = 1.0 if maximise else -1.0
    with np.errstate(all="ignore"):
        if endless == "earned":
            answer = _earned(given, sign * rewards, int(max_iters))
        elif endless == sign * math.inf:
            answer = _welcome(given, sign * rewards, int(max_iters))
        else:
            answer = _forbidden(given, sign * rewards, int(max_iters))
        if not maximise:
            answer = Answer(-answer.upper, -answer.v, -answer.lower, answer.choice, answer.iterations)
        return conclude(given, answer, rewards, maximise=maximise)


def _ends(given: Problem) -> Bool[np.ndarray, " S1"]:
    """Return the goal and the end of the episode, which is as good."""
    ends = given.goal.copy()
    ends[-1] = True
    return ends


def _welcome(given: Problem, r: Float[np.ndarray, " C"], max_iters: int) -> Answer:
    """A run that never ends is worth +inf: so is a state where some policy may avoid the end."""
    graph, ends = given.graph, _ends(given)
    surely, avoided, how = certain(graph, ends, given.rows)
    stay = first_choices(graph, inner(graph, avoided))
    infinite = np.where(surely, 0.0, math.inf)
    # Every policy ends in what is left: it has no end component.
    nowhere, none = np.full(graph.end + 1, -1), np.zeros(len(r), bool)
    inside = surely & ~ends
    return _rest(given, r, inside, own(graph, inside), nowhere, none, infinite, np.where(avoided, stay, how), max_iters)


def _forbidden(given: Problem, r: Float[np.ndarray, " C"], max_iters: int) -> Answer:
    """A run that never ends is worth -inf: only policies that end with probability one count."""
    graph, ends = given.graph, _ends(given)
    surely, how, safe = almost_sure(graph, ends, given.rows)
    infinite = np.where(surely, 0.0, -math.inf)
    rich, gather = _riches(given, r, safe)
    # It pays to go round for as long as one likes, and only then to leave.
    endless, towards = possible(graph, rich, safe)
    infinite[endless] = math.inf
    how = np.where(rich, gather, towards)
    component, staying = end_components(graph, safe & (r == 0))
    inside = surely & ~ends & ~endless
    return _rest(given, r, inside, safe & own(graph, inside), component, staying, infinite, how, max_iters)


def _earned(given: Problem, r: Float[np.ndarray, " C"], max_iters: int) -> Answer:
    """A run that never ends is worth the sum of its rewards."""
    graph, ends, rows = given.graph, _ends(given), given.rows
    component, staying = end_components(graph, rows & (r == 0))
    rich, gather = _riches(given, r, rows)
    surely, _, safe = almost_sure(graph, ends | (component >= 0) | rich, rows)
    infinite = np.where(surely, 0.0, -math.inf)
    endless, towards = possible(graph, rich, safe)
    infinite[endless] = math.inf
    inside = surely & ~ends & ~endless
    how = np.where(rich, gather, towards)
    answer = _rest(
        given, r, inside, safe & own(graph, inside), component, staying, infinite, how, max_iters, stops=True
    )
    # Elsewhere every run that never ends loses for ever, unless gains and losses mix.
    mixed = _mixed(given, r) & ~surely
    if mixed.any():
        doubtful, _ = possible(graph, mixed, rows)
        answer.upper[doubtful] = math.inf
        answer.v[doubtful & ~surely] = 0.0
    return answer


def _riches(
    given: Problem, r: Float[np.ndarray, " C"], rows: Bool[np.ndarray, " C"]
) -> tuple[Bool[np.ndarray, " S1"], Int[np.ndarray, " S1"]]:
    """Return the end components, of the choices in `rows` that cost nothing, where something is earned; and how."""
    graph = given.graph
    component, stays = end_components(graph, rows & (r >= 0))
    gains = stays & (r > 0)
    rich = np.isin(component, np.unique(component[graph.owner[gains]])) & (component >= 0)
    gather = first_choices(graph, gains)
    _, towards = possible(graph, gather >= 0, stays)
    return rich, np.where(gather >= 0, gather, towards)


def _mixed(given: Problem, r: Float[np.ndarray, " C"]) -> Bool[np.ndarray, " S1"]:
    """Return the maximal end components with rewards of both signs."""
    graph = given.graph
    component, stays = end_components(graph, given.rows)
    gains, losses = (np.unique(component[graph.owner[stays & some]]) for some in (r > 0, r < 0))
    return np.isin(component, np.intersect1d(gains, losses)) & (component >= 0)


def _rest(
    given: Problem,
    r: Float[np.ndarray, " C"],
    inside: Bool[np.ndarray, " S1"],
    rows: Bool[np.ndarray, " C"],
    component: Int[np.ndarray, " S1"],
    staying: Bool[np.ndarray, " C"],
    known: Float[np.ndarray, " S1"],
    choice: Int[np.ndarray, " S1"],
    max_iters: int,
    *,
    stops: bool = False,
) -> Answer:
    """Enclose the value of the states inside; `known` and `choice` are the answer elsewhere."""
    quotient = collapse(given.table, r, inside, rows & ~staying, component, stops=stops)
    found = maximise_total(quotient, proper(given.graph, quotient), max_iters)
    taken = unfold(given.graph, quotient, found.policy, staying)

    def spread(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " S1"]:
        return np.where(inside, np.append(x, 0.0)[quotient.block], known)

    return Answer(
        spread(found.lower), spread(found.v), spread(found.upper), np.where(inside, taken, choice), found.iterations
    )

"""The probability of reaching a goal, the largest and the smallest.

    P_max(s) = max_π P_π(the goal is reached | s)           P(s) = 1 in the goal,
    P_min(s) = min_π P_π(the goal is reached | s)           P(s) = max_a Σ_s' p(s'|s, a) P(s') elsewhere, or min_a

These equations have other solutions as well: where a policy can stay away from the goal for ever, in an end component,
any constant solves them there, and iteration from above stops at a wrong one. So the graph goes first. States of
probability 0 and 1 are found without numbers (`dp.attractors`), end components among the rest are collapsed
(`dp.collapse`), and what remains ends under every policy and has one solution, enclosed by `dp.transient`.
Source: de Alfaro (1997); Haddad and Monmege (2014); Baier and Katoen (2008), section 10.6.1.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from dp.attractors import almost_sure, certain, end_components, first_choices, inner, own, possible
from dp.collapse import collapse, unfold
from dp.mdp import MDP, Count, Scalar
from dp.solution import Solution
from dp.transient import maximise as maximise_total
from dp.transient import swept
from dp.undiscounted import Answer, Problem, conclude, problem, within


def reachability(
    mdp: MDP,
    goal: ArrayLike,
    *,
    maximise: bool = True,
    horizon: int | None = None,
    tol: Scalar | None = None,
    relative: bool = False,
    max_iters: Count = 1000,
) -> Solution:
    """Return the largest (or smallest) probability of reaching the goal, `max_π P_π(S_t in goal for some t | S_0 = s)`.

    mdp: any form of MDP, with gamma = 1; rewards are not read. An episode that ends elsewhere has missed the goal.
        A row that misses 1 by no more than 1e-8, or 1.2e-5 in float32, counts as divided by its sum: it has no end.
    goal: bool [S]. maximise: the largest probability, or the smallest.
    horizon: count only visits within so many steps. The Solution then has the axis of stages of `dp.finite_horizon`:
        v[t] is the probability when `horizon - t` steps are left.
    tol: `converged` says whether `max(upper - lower) <= tol`; None means 1e-6 in float64 and 1e-3 in float32.
    relative: tol is a fraction of each state's value, `upper - lower <= tol |v|`; a horizon does not read it.
    max_iters: policies evaluated at most. Whatever it is, the bounds hold.
    Returns a Solution, `lower <= v <= upper` in [0, 1], exact where the graph decides. The value of its policy, in
    the numbering of `mdp`, is at least lower (at most upper, when minimising). q is 1 at the goal.
    Runs on the host, in double precision. Raises ValueError for gamma < 1, inside jit, and for a goal that does not
    fit.
    """
    if goal is None:
        raise ValueError("reachability needs a goal, boolean [S]")
    given = problem(mdp, goal, tol, relative, max_iters, "reachability")
    if horizon is not None:
        found = within(given, np.zeros(len(given.rows)), 1.0, horizon, maximise=maximise)
        return found._replace(lower=jnp.maximum(found.lower, 0), upper=jnp.minimum(found.upper, 1))
    with np.errstate(all="ignore"):
        answer = _largest(given, int(max_iters)) if maximise else _smallest(given, int(max_iters))
        return conclude(given, answer, np.zeros(len(given.rows)), maximise=maximise)


def _largest(given: Problem, max_iters: int) -> Answer:
    table, graph, goal, rows = given.table, given.graph, given.goal, given.rows
    sometimes, _ = possible(graph, goal, rows)
    surely, how, _ = almost_sure(graph, goal, rows)
    between = sometimes & ~surely
    component, staying = end_components(graph, inner(graph, between))
    leaving = own(graph, between) & ~staying
    quotient = collapse(table, np.zeros(len(rows)), between, leaving, component, worth=surely.astype(float))
    found = maximise_total(quotient, swept(quotient), max_iters)
    choice = np.where(between, unfold(graph, quotient, found.policy, staying), how)

    def spread(x, otherwise):
        return np.where(between, np.append(x, 0.0)[quotient.block], otherwise).clip(0, 1)

    one = surely.astype(float)
    return Answer(spread(found.lower, one), spread(found.v, one), spread(found.upper, one), choice, found.iterations)


def _smallest(given: Problem, max_iters: int) -> Answer:
    table, graph, goal, rows = given.table, given.graph, given.goal, given.rows
    surely, avoided, _ = certain(graph, goal, rows)
    between = ~surely & ~avoided
    # No end component is left: a policy could stay there, away from the goal, for ever.
    nowhere = np.full(graph.end + 1, -1)
    worth = -surely.astype(float)
    quotient = collapse(table, np.zeros(len(rows)), between, own(graph, between), nowhere, worth=worth)
    found = maximise_total(quotient, swept(quotient), max_iters)
    none = np.zeros(len(rows), bool)
    choice = np.where(between, unfold(graph, quotient, found.policy, none), first_choices(graph, inner(graph, avoided)))

    def spread(x):
        return np.where(between, -np.append(x, 0.0)[quotient.block], -worth).clip(0, 1)

    return Answer(spread(found.upper), spread(found.v), spread(found.lower), choice, found.iterations)

"""Undiscounted problems by brute force: every deterministic policy of tiny models, in exact fractions."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from dp.reachability import reachability
from dp.sparse import from_choices
from dp.total_reward import total_reward

INF = math.inf


def random_model(rng, S=4, A=3, rewards=(0, 0, 0, 1, 2), missing=0.15, dead=0.1):
    """Return [(successors: {state: Fraction}, reward)] for every choice of every state, and a goal; small integers."""
    model = []
    for _ in range(S):
        choices = []
        for _ in range(rng.integers(1, A + 1)):
            if rng.random() < dead:
                choices.append(({}, int(rng.choice(rewards))))
                continue
            support = rng.choice(S, size=rng.integers(1, min(S, 3) + 1), replace=False)
            weights = rng.integers(1, 6, size=len(support))
            total = int(weights.sum()) + (int(rng.integers(1, 4)) if rng.random() < missing else 0)
            row = {int(s): Fraction(int(w), total) for s, w in zip(support, weights, strict=True)}
            choices.append((row, int(rng.choice(rewards))))
        model.append(choices)
    return model, rng.random(S) < 0.25


def arrays(model, dtype=np.float64):
    """Return (data, indices, indptr, choices, rewards), as `dp.from_choices` takes them."""
    rows = [choice for choices in model for choice in choices]
    data = np.array([float(p) for row, _ in rows for p in row.values()], dtype)
    indices = np.array([s for row, _ in rows for s in row], np.int64)
    indptr = np.append(0, np.cumsum([len(row) for row, _ in rows]))
    choices = np.append(0, np.cumsum([len(choices) for choices in model]))
    return data, indices, indptr, choices, np.array([r for _, r in rows], dtype)


def solve(A, b):
    """Solve A x = b in fractions."""
    n = len(b)
    M = [[*row, x] for row, x in zip(A, b, strict=True)]
    for k in range(n):
        pivot = next(i for i in range(k, n) if M[i][k] != 0)
        M[k], M[pivot] = M[pivot], M[k]
        M[k] = [x / M[k][k] for x in M[k]]
        for i in range(n):
            if i != k and M[i][k] != 0:
                M[i] = [x - M[i][k] * y for x, y in zip(M[i], M[k], strict=True)]
    return [row[-1] for row in M]


def closure(chain):
    """Return reach[s][t]: t can be reached from s in 0 or more steps."""
    S = len(chain)
    reach = [[s == t or t in chain[s][0] for t in range(S)] for s in range(S)]
    for k, s, t in itertools.product(range(S), repeat=3):
        reach[s][t] = reach[s][t] or (reach[s][k] and reach[k][t])
    return reach


def recurrent_classes(chain):
    """Return the classes in which a chain [(row, reward)] can stay for ever."""
    S = len(chain)
    reach = closure(chain)
    classes = {frozenset(t for t in range(S) if reach[s][t]) for s in range(S)}
    return [
        c for c in classes if all(reach[t][s] for s in c for t in c) and all(sum(chain[s][0].values()) == 1 for s in c)
    ]


def gain(chain, members):
    """Return the average reward of a recurrent class."""
    members = sorted(members)
    n = len(members)
    A = [[Fraction(i == j) - chain[members[j]][0].get(members[i], 0) for j in range(n)] for i in range(n)]
    A[-1] = [Fraction(1)] * n
    stationary = solve(A, [Fraction(0)] * (n - 1) + [Fraction(1)])
    return sum(x * chain[s][1] for x, s in zip(stationary, members, strict=True))


def policies(model, goal):
    """Yield every deterministic policy, and the chain that it makes: a goal ends."""
    for policy in itertools.product(*(range(1 if g else len(c)) for c, g in zip(model, goal, strict=True))):
        yield policy, [({}, 0) if goal[s] else model[s][a] for s, a in enumerate(policy)]


def worth(chain, endless):
    """Return the total reward of a chain; None where a class goes round for nothing, with rewards of both signs.

    endless: what a run counts that never ends, inf, -inf or "earned". Both infinities together count -inf.
    """
    S = len(chain)
    reach = closure(chain)
    stuck, bottom = {}, set()
    for c in recurrent_classes(chain):
        bottom |= c
        rate = gain(chain, c)
        zero = all(chain[s][1] == 0 for s in c)
        if endless != "earned":
            w = endless
        elif zero:
            w = 0
        elif rate == 0:
            return None
        else:
            w = INF if rate > 0 else -INF
        stuck.update(dict.fromkeys(c, w))
    value = []
    for s in range(S):
        ends = {stuck[t] for t in stuck if reach[s][t]}
        value.append(-INF if -INF in ends else INF if INF in ends else None)
    finite = [s for s in range(S) if value[s] is None]
    free = [s for s in finite if s not in bottom]
    A = [[Fraction(s == t) - chain[s][0].get(t, 0) for t in free] for s in free]
    for s, x in zip(free, solve(A, [Fraction(chain[s][1]) for s in free]), strict=True):
        value[s] = x
    return [0 if x is None else x for x in value]


def best_total(model, goal, endless, maximise=True):
    """Return the best total over deterministic policies, and of each state whether more may be had than that.

    More: by going round, for longer and longer, where something is gained, before coming to an end; and None where a
    policy makes no sense (see `worth`).
    """
    S, sign = len(model), 1 if maximise else -1
    turned = [[(row, sign * r) for row, r in choices] for choices in model]
    endless = endless if endless == "earned" else sign * endless
    best, unclear = [-INF] * S, False
    for _, chain in policies(turned, goal):
        value = worth(chain, endless)
        if value is None:
            unclear = True
            continue
        best = [max(x, y) for x, y in zip(best, value, strict=True)]
    if endless == -INF:
        best = _with_detours(turned, goal, best)
    return [sign * x for x in best], unclear


def _with_detours(model, goal, best):
    """Raise to inf what can gain for ever without giving up the goal: only policies that end count, but any of them."""
    S = len(model)
    alive = [x > -INF for x in best]
    kept = [
        [(row, r) for row, r in choices if all(alive[t] for t in row)] if a else choices
        for choices, a in zip(model, alive, strict=True)
    ]
    found = list(best)
    for _, chain in policies([k or [({}, 0)] for k in kept], goal):
        reach = closure(chain)
        for c in recurrent_classes(chain):
            if all(alive[s] for s in c) and gain(chain, c) > 0:
                for s in range(S):
                    if alive[s] and reach[s][min(c)]:
                        found[s] = INF
    return found


def reach_probability(chain, goal):
    """Return the probability of reaching the goal in a chain whose goals are absorbing."""
    S = len(chain)
    reach = closure(chain)
    can = [any(reach[s][t] and goal[t] for t in range(S)) for s in range(S)]
    free = [s for s in range(S) if can[s] and not goal[s]]
    A = [[Fraction(s == t) - chain[s][0].get(t, 0) for t in free] for s in free]
    b = [sum((p for t, p in chain[s][0].items() if goal[t]), Fraction(0)) for s in free]
    value = [Fraction(int(g)) for g in goal]
    for s, x in zip(free, solve(A, b), strict=True):
        value[s] = x
    return value


def best_reachability(model, goal, maximise=True):
    """Return the largest or smallest probability of reaching the goal."""
    pick = max if maximise else min
    values = [reach_probability(chain, goal) for _, chain in policies(model, goal)]
    return [pick(x) for x in zip(*values, strict=True)]


def encloses(solution, truth):
    """Bounds hold for the fractions, not only for floats near them; where they are finite the gap is rounding."""
    for lower, upper, x in zip(np.asarray(solution.lower), np.asarray(solution.upper), truth, strict=True):
        assert (lower == -INF or lower <= x) and (upper == INF or x <= upper)


def chain_of(model, goal, policy, sign=1):
    return [({}, 0) if goal[s] else (model[s][a][0], sign * model[s][a][1]) for s, a in enumerate(np.asarray(policy))]


@pytest.mark.parametrize("seed", range(40))
def test_reachability_is_the_best_of_all_policies(seed):
    rng = np.random.default_rng(seed)
    model, goal = random_model(rng, missing=(0, 0.3)[seed % 2])
    mdp = from_choices(*arrays(model), substochastic=True)
    for maximise in (True, False):
        solution = reachability(mdp, goal, maximise=maximise, tol=1e-12)
        assert solution.converged
        encloses(solution, best_reachability(model, goal, maximise))
        attained = np.array(reach_probability(chain_of(model, goal, solution.policy), goal), float)
        np.testing.assert_allclose(attained, solution.v, rtol=0, atol=1e-12)


def certified(model, goal, endless, maximise, *, given=None, mixed=False):
    """Check one convention; return whether it was certified."""
    mdp = from_choices(*arrays(model), substochastic=True)
    solution = total_reward(mdp, given, maximise=maximise, endless=endless, tol=1e-9)
    truth, unclear = best_total(model, goal, endless, maximise)
    if not unclear:
        encloses(solution, truth)
    assert solution.converged or mixed
    sign = 1 if maximise else -1
    attained = worth(chain_of(model, goal, solution.policy, sign), endless if endless == "earned" else sign * endless)
    least = sign * np.asarray(solution.lower if maximise else solution.upper)
    for x, bound in zip(attained or [], least, strict=False):
        # No policy attains what is infinite because one may go round for ever before the goal, but not miss it.
        if not (bound == INF and sign * INF != endless != "earned"):
            assert x == bound if np.isinf(bound) and bound > 0 else x >= bound - 1e-9
    return bool(solution.converged)


REWARDS = {"gains": (0, 0, 0, 1, 2), "losses": (0, 0, -1, -2), "costs": (1, 2, 3)}


@pytest.mark.parametrize("endless", [INF, -INF, "earned"])
@pytest.mark.parametrize("rewards", REWARDS)
def test_total_reward_is_the_best_of_all_policies(rewards, endless):
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        model, goal = random_model(rng, rewards=REWARDS[rewards], missing=(0, 0.3)[seed % 2])
        for maximise in (True, False):
            certified(model, goal, endless, maximise, given=goal)


@pytest.mark.slow
@pytest.mark.parametrize("endless", [INF, -INF, "earned"])
def test_rewards_of_both_signs_are_certified_or_not_but_never_wrong(endless):
    found = []
    for seed in range(25):
        model, goal = random_model(np.random.default_rng(200 + seed), rewards=(0, 0, 1, -1, 2, -2, -3))
        found += [certified(model, goal, endless, maximise, given=goal, mixed=True) for maximise in (True, False)]
    assert np.mean(found) > 0.7


def test_without_a_goal_a_run_earns_the_sum_of_its_rewards():
    for seed in range(15):
        rng = np.random.default_rng(300 + seed)
        model, _ = random_model(rng, rewards=REWARDS["gains" if seed % 2 else "losses"])
        for maximise in (True, False):
            certified(model, np.zeros(len(model), bool), "earned", maximise)


def test_the_default_is_that_of_prism_where_no_reward_is_negative():
    for seed in range(15):
        model, goal = random_model(np.random.default_rng(400 + seed))
        mdp = from_choices(*arrays(model), substochastic=True)
        for maximise in (True, False):
            one, other = (total_reward(mdp, goal, maximise=maximise, endless=e) for e in (None, INF))
            np.testing.assert_array_equal(one.v, other.v)

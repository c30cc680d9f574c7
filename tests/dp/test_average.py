"""Average reward against exact rationals: every policy of every small MDP, solved in fractions of the stored floats."""

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.average import (
    Average,
    average_policy_iteration,
    evaluate_average,
    relative_value_iteration,
)
from dp.bounds import modulus
from dp.communication import graph, separate_classes
from dp.fixed_point import PATIENCE
from dp.gain import enclose_gain
from dp.problems.taxicab import taxicab
from dp.problems.toymaker import toymaker
from dp.problems.two_state import two_state

SOLVERS = [relative_value_iteration, average_policy_iteration]
Row = tuple[list[Fraction], Fraction]


def eliminate(A: list[list[Fraction]], b: list[Fraction]) -> list[Fraction]:
    M = [[*row, x] for row, x in zip(A, b, strict=True)]
    for i in range(len(M)):
        p = next(j for j in range(i, len(M)) if M[j][i])
        M[i], M[p] = M[p], M[i]
        M[i] = [x / M[i][i] for x in M[i]]
        for j in range(len(M)):
            if j != i:
                M[j] = [x - M[j][i] * y for x, y in zip(M[j], M[i], strict=True)]
    return [row[-1] for row in M]


def rows_of(mdp: dp.MDP) -> list[dict[int, Row]]:
    """Every allowed row in fractions: the stored probabilities divided by their exact sum, and the stored reward."""
    P, R = np.asarray(mdp.P), np.asarray(mdp.R)
    allowed = np.ones(R.shape, bool) if mdp.mask is None else np.asarray(mdp.mask)

    def row(s: int, a: int) -> Row:
        p = [Fraction(float(x)) for x in P[s, a]]
        return [x / sum(p) for x in p], Fraction(float(R[s, a]))

    return [{int(a): row(s, a) for a in np.flatnonzero(allowed[s])} for s in range(R.shape[0])]


def gains(chain: list[Row]) -> list[Fraction]:
    """The gain of a chain from each of its states: stationary in a recurrent class, and what they mix to before."""
    P, r = [p for p, _ in chain], [r for _, r in chain]
    n = len(P)
    edges = np.array([[p > 0 for p in row] for row in P]) | np.eye(n, dtype=bool)
    reach = np.linalg.matrix_power(edges.astype(float), n) > 0
    g: list[Fraction | None] = [None] * n
    for s in range(n):
        inside = np.flatnonzero(reach[s])
        if g[s] is None and reach[inside, s].all():
            balance = [[(i == j) - P[i][j] for i in inside] for j in inside]
            balance[0] = [Fraction(1)] * len(inside)
            mu = eliminate(balance, [Fraction(1)] + [Fraction(0)] * (len(inside) - 1))
            for i in inside:
                g[i] = sum((m * r[j] for m, j in zip(mu, inside, strict=True)), Fraction(0))
    before = [s for s in range(n) if g[s] is None]
    if before:
        A = [[(i == j) - P[i][j] for j in before] for i in before]
        b = [sum((P[i][j] * x for j, x in enumerate(g) if x is not None), Fraction(0)) for i in before]
        for s, x in zip(before, eliminate(A, b), strict=True):
            g[s] = x
    return [x for x in g if x is not None]


def all_gains(mdp: dp.MDP) -> dict[tuple[int, ...], list[Fraction]]:
    rows = rows_of(mdp)
    return {pi: gains([rows[s][a] for s, a in enumerate(pi)]) for pi in product(*rows)}


def best(of_policies: dict[tuple[int, ...], list[Fraction]]) -> list[Fraction]:
    return [max(g) for g in zip(*of_policies.values(), strict=True)]


def gain_and_bias(mdp: dp.MDP, pi: tuple[int, ...], home: int = 0) -> tuple[Fraction, list[Fraction]]:
    """Solve `g + h = r + P h`, h(home) = 0."""
    rows = [rows_of(mdp)[s][a] for s, a in enumerate(pi)]
    n = len(rows)
    A = [[Fraction(1) if j == home else (i == j) - rows[i][0][j] for j in range(n)] for i in range(n)]
    x = eliminate(A, [r for _, r in rows])
    return x[home], [x[j] if j != home else Fraction(0) for j in range(n)]


def discounted(mdp: dp.MDP, pi: tuple[int, ...], gamma: Fraction) -> list[Fraction]:
    rows = [rows_of(mdp)[s][a] for s, a in enumerate(pi)]
    A = [[(i == j) - gamma * p for j, p in enumerate(row)] for i, (row, _) in enumerate(rows)]
    return eliminate(A, [r for _, r in rows])


def encloses(found: Average, exact: Fraction) -> bool:
    return Fraction(float(found.lower)) <= exact <= Fraction(float(found.upper))


def cast(mdp: dp.MDP, dtype: type) -> dp.MDP:
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype != bool else x, mdp)


# What the literature says.


def test_taxicab_is_howards():
    mdp, stands = taxicab(), (1, 1, 1)
    assert mdp.gamma == 0.9
    # Sixteenths: the floats are exact.
    of_policies = all_gains(mdp)
    assert len(of_policies) == 18
    assert best(of_policies) == [Fraction(1588, 119)] * 3
    assert of_policies[stands] == [Fraction(1588, 119)] * 3
    assert of_policies[0, 0, 0] == [Fraction(46, 5)] * 3
    assert gain_and_bias(mdp, stands, home=2) == (
        Fraction(1588, 119),
        [Fraction(-20, 17), Fraction(1506, 119), Fraction(0)],
    )
    v = discounted(mdp, stands, Fraction(9, 10))
    assert v == [Fraction(n, 11999) for n in (1459720, 1623540, 1473920)]
    assert [round(float(x), 2) for x in v] == [121.65, 135.31, 122.84]
    assert v == best({pi: discounted(mdp, pi, Fraction(9, 10)) for pi in of_policies})


def test_toymaker_is_howards():
    mdp = toymaker()
    assert mdp.gamma == 0.9
    P = [[[5, 5], [8, 2]], [[4, 6], [7, 3]]]
    R = [[6, 4], [-3, -5]]
    assert_allclose(mdp.P, np.array(P) / 10, rtol=1e-15)
    assert_allclose(mdp.R, R, rtol=1e-14)
    tenths = {
        pi: [([Fraction(n, 10) for n in P[s][a]], Fraction(R[s][a])) for s, a in enumerate(pi)]
        for pi in product(range(2), repeat=2)
    }
    assert {pi: gains(chain)[0] for pi, chain in tenths.items()} == {
        (0, 0): 1,
        (0, 1): Fraction(17, 12),
        (1, 0): Fraction(5, 3),
        (1, 1): 2,
    }
    v = [Fraction(2020, 91), Fraction(160, 13)]
    for s, (p, r) in enumerate(tenths[1, 1]):
        # The relative values 10 and 0, and the discounted values.
        assert 2 + [10, 0][s] == r + p[0] * 10
        assert v[s] == r + Fraction(9, 10) * (p[0] * v[0] + p[1] * v[1])
        assert v[s] >= R[s][0] + Fraction(9, 100) * sum(n * x for n, x in zip(P[s][0], v, strict=True))


def test_two_state_is_putermans():
    mdp = two_state()
    assert mdp.gamma == 0.95
    assert discounted(mdp, (0, 0), Fraction(19, 20)) == [Fraction(-60, 7), Fraction(-20)]
    assert discounted(mdp, (1, 0), Fraction(19, 20)) == [Fraction(-9), Fraction(-20)]
    assert all_gains(mdp) == {(0, 0): [-1, -1], (1, 0): [-1, -1]}
    # At γ = 10/11 it is all the same.
    assert discounted(mdp, (0, 0), Fraction(10, 11)) == discounted(mdp, (1, 0), Fraction(10, 11)) == [0, -11]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solve", SOLVERS)
def test_known_gains_are_found(solve, dtype):
    loose = 1e-3 if dtype == np.float32 else 1e-6
    found = solve(cast(taxicab(), dtype))
    assert found.converged and found.upper - found.lower <= loose
    assert encloses(found, Fraction(1588, 119))
    assert_array_equal(found.policy, [1, 1, 1])
    assert found.bias[0] == 0
    assert_allclose(found.bias, np.array([0, 1506 / 119 + 20 / 17, 20 / 17]), atol=10 * loose)
    assert_allclose(found.q.max(1), found.bias, atol=2 * loose)
    assert found.q[1, 2] == -np.inf
    assert found.residual <= loose
    assert {x.dtype for x in (found.gain, found.bias, found.q, found.lower, found.upper)} == {np.dtype(dtype)}


@pytest.mark.parametrize("solve", SOLVERS)
def test_gain_bias_and_action_values_by_hand(solve):
    found = solve(toymaker())
    assert_allclose(found.gain, 2, atol=1e-6)
    assert_allclose(found.bias, [0, -10], atol=1e-5)
    assert_array_equal(found.policy, [1, 1])
    # R - g + P h, with g = 2 and h = (0, -10).
    assert_allclose(found.q, [[6 - 2 - 5, 4 - 2 - 2], [-3 - 2 - 6, -5 - 2 - 3]], atol=1e-5)


def test_gamma_is_ignored():
    one, other = (relative_value_iteration(taxicab(gamma=gamma)) for gamma in (0.0, 1.0))
    jax.tree.map(assert_array_equal, one, other)


# Random MDPs, 3 states and 2 actions, all at once.

N = 40


def random_models(dtype: type, scale: float, seed: int = 0) -> list[dp.MDP]:
    """Few successors or many; among them are multichain ones, and ones that communicate through a needle's eye."""
    rng = np.random.default_rng(seed)

    def one(density: float) -> dp.MDP:
        P = rng.exponential(size=(3, 2, 3)) * (rng.random((3, 2, 3)) < density)
        empty = P.sum(-1) == 0
        P[empty] = np.eye(3)[rng.integers(3, size=empty.sum())]
        P /= P.sum(-1, keepdims=True)
        return dp.make_mdp(P.astype(dtype), (scale * rng.normal(size=(3, 2))).astype(dtype), 0.9)

    return [one([0.25, 0.4, 0.7][i % 3]) for i in range(N)]


def stack(trees: list) -> dp.MDP:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def lane(found: Average, i: int) -> Average:
    return jax.tree.map(lambda x: x[i], found)


in_batch: dict[Callable, Callable] = {
    solve: jax.jit(jax.vmap(lambda mdp, tol, solve=solve: solve(mdp, tol=tol, max_iters=5000), in_axes=(0, None)))
    for solve in SOLVERS
}


@pytest.fixture(scope="module")
def truth() -> dict[tuple[type, float], list]:
    return {
        (dtype, scale): [(mdp, all_gains(mdp)) for mdp in random_models(dtype, scale)]
        for dtype in (np.float32, np.float64)
        for scale in (1e-6, 1.0, 1e6)
    }


@pytest.mark.parametrize("scale", [1e-6, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1.0, 1e6))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solve", SOLVERS)
def test_bounds_enclose_the_best_of_all_policies(truth, solve, dtype, scale):
    tol = scale * (1e-4 if dtype == np.float32 else 1e-9)
    found = in_batch[solve](stack([mdp for mdp, _ in truth[dtype, scale]]), tol)
    kinds = set()
    for i, (mdp, of_policies) in enumerate(truth[dtype, scale]):
        answer, best_gain = lane(found, i), best(of_policies)
        # The optimal gain from every state, and that of the policy found, which may have several classes.
        assert all(encloses(answer, g) for g in best_gain)
        assert min(of_policies[tuple(answer.policy.tolist())]) >= Fraction(float(answer.lower))
        assert answer.lower <= answer.gain <= answer.upper
        assert answer.converged == (answer.upper - answer.lower <= tol)
        weakly_communicating = separate_classes(graph(mdp)) is None
        # What the graph says must hold whatever the rewards.
        assert not weakly_communicating or len(set(best_gain)) == 1
        assert answer.converged or not weakly_communicating
        assert not answer.converged or max(best_gain) - min(best_gain) <= Fraction(tol)
        multichain_policies = any(len(set(g)) > 1 for g in of_policies.values())
        kinds.add((weakly_communicating, multichain_policies, bool(answer.converged)))
    assert kinds >= {(True, False, True), (True, True, True), (False, True, False)}


def test_lanes_of_a_batch_are_what_they_are_alone(truth):
    models = truth[np.float64, 1.0]
    some = [i for i, (mdp, _) in enumerate(models) if separate_classes(graph(mdp)) is None][:5]
    for solve in SOLVERS:
        found = in_batch[solve](stack([mdp for mdp, _ in models]), 1e-9)
        for i in some:
            mdp, of_policies = models[i]
            alone = solve(mdp, tol=1e-9)
            assert encloses(alone, best(of_policies)[0])
            assert_array_equal(alone.policy, found.policy[i])
            assert_allclose(alone.bias, found.bias[i], atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_hold_at_any_values(dtype):
    # Far from any solution, and where h is so large that little but rounding is left.
    mdp, rng = cast(taxicab(), dtype), np.random.default_rng(0)
    for size in (0.0, 1.0, 1e3, 1e6):
        for _ in range(5):
            found = relative_value_iteration(mdp, size * rng.normal(size=3), max_iters=1)
            assert found.iterations == 1
            assert encloses(found, Fraction(1588, 119))
            assert found.upper - found.lower <= 10 * (1 + size)


@pytest.mark.parametrize("short", ["P", "policy"])
def test_rows_that_do_not_sum_to_one_count_as_divided_by_their_sum(evaluate_in_batch, short):
    # float32 may miss so much; with relative values of 250 the mean of T h - h is off by 1e-3.
    P, less = np.zeros((3, 2, 3), np.float32), np.float32(1 - 8e-6)
    P[0, :, :2], P[1, :, :2], P[2, :, 1] = [0.999, 0.001], [0.001, 0.999], 1
    mdp = dp.make_mdp(P * less if short == "P" else P, np.array([1, 0, 0], np.float32), 0.9)
    policy = np.zeros((3,), int) if short == "P" else np.full((3, 2), less / 2)
    found = lane(evaluate_in_batch(stack([mdp] * N), jnp.asarray(np.stack([policy] * N)), 1e-3), 0)
    assert not found.converged
    # Both actions are the same.
    exact, h = best(all_gains(mdp))[0], np.asarray(found.bias, np.float64)
    assert encloses(found, exact)
    assert 4e-3 < found.upper - found.lower < 2e-2
    backup = np.asarray(mdp.R)[:, 0] + np.asarray(mdp.P, np.float64)[:, 0] @ h
    if short == "policy":
        backup *= less
    assert np.abs(backup - h - float(exact)).max() > 1e-3


def test_a_policy_that_is_rounded_earns_no_less(evaluate_in_batch):
    # 100 in every step, whatever it does; its probabilities sum to 1 - 8e-6.
    mdp = random_models(np.float32, 1.0)[2]
    mdp = mdp._replace(R=jnp.full_like(mdp.R, 100))
    policy = jnp.full((N, 3, 2), np.float32(0.5 - 4e-6))
    assert encloses(lane(evaluate_in_batch(stack([mdp] * N), policy, 1e-3), 0), Fraction(100))


def test_a_constant_added_to_the_start_does_no_harm():
    mdp = taxicab()
    far, near = (relative_value_iteration(mdp, x + np.array([0.0, 13.8, 1.2]), tol=1e-9) for x in (1e5, 0.0))
    assert far.converged
    assert_allclose(far.bias, near.bias, atol=1e-8)


# Chains that are hard to average over.


def cycles() -> list[dp.MDP]:
    """Deterministic cycles of length 2 to 7 among seven states; the others lead into state 0."""

    def cycle(n: int) -> dp.MDP:
        P = np.zeros((7, 2, 7))
        s = np.arange(7)
        P[s, :, np.where(s < n, (s + 1) % n, 0)] = 1
        return dp.make_mdp(P, np.arange(1.0, 8.0) ** 2, 0.9)

    return [cycle(n) for n in range(2, 8)]


def test_periodic_chains_converge():
    for n, mdp in enumerate(cycles(), start=2):
        mean = Fraction(sum(s * s for s in range(1, n + 1)), n)
        for found in (relative_value_iteration(mdp), average_policy_iteration(mdp)):
            assert found.converged
            assert encloses(found, mean)
        assert_allclose(found.bias, np.array(gain_and_bias(mdp, (0,) * 7)[1], float), atol=1e-12)
        # Without damping the values go round and round, and the bounds say so.
        undamped = relative_value_iteration(mdp, damping=1.0, max_iters=1000)
        assert not undamped.converged
        assert undamped.iterations == 1000
        assert undamped.upper - undamped.lower > 1
        assert encloses(undamped, mean)


def test_policies_with_several_classes_on_the_way():
    # In every state stay or go; what is earned is known only to who stays, and the way is long and costs.
    S, rng = 7, np.random.default_rng(3)
    P, s = np.zeros((S, 2, S)), np.arange(S)
    P[s, 0, s] = 1
    P[s, 1, (s + 1) % S] = 0.01
    P[s, 1, s] += 0.99
    R = np.stack([rng.permutation(S), np.full(S, -1)], 1).astype(float)
    mdp = dp.make_mdp(P, R, 0.9)
    greedy = (0,) * S
    assert len(set(gains([rows_of(mdp)[s][a] for s, a in enumerate(greedy)]))) == S
    found = average_policy_iteration(mdp)
    assert found.converged
    assert encloses(found, Fraction(S - 1))
    # Sweeps alone would have to earn the cost of the whole way first.
    assert found.iterations < 30
    assert relative_value_iteration(mdp).iterations > 1000


def test_the_gap_may_stand_still_for_as_long_as_news_travels():
    # A reward at the end of a row: at its other end nothing is seen of it for more than a thousand sweeps.
    S = 700
    P = np.zeros((S, 1, S))
    P[np.arange(S), 0, np.minimum(np.arange(S) + 1, S - 1)] = 1
    R = np.zeros((S, 1))
    R[-1] = 1
    mdp = dp.make_mdp(P, R, 0.9)
    halfway = relative_value_iteration(mdp, max_iters=PATIENCE)
    assert halfway.upper - halfway.lower > 0.999
    found = relative_value_iteration(mdp)
    assert found.converged and found.iterations > PATIENCE
    assert encloses(found, Fraction(1))


@pytest.mark.parametrize("solve", SOLVERS)
def test_it_ends_at_the_floor_of_rounding(solve):
    found = solve(cast(taxicab(), np.float32), tol=1e-12)
    assert not found.converged
    assert PATIENCE < found.iterations < 2 * PATIENCE
    assert encloses(found, Fraction(1588, 119))
    assert found.upper - found.lower < 1e-4


def test_an_answer_can_start_the_next():
    mdp = taxicab()
    for solve in SOLVERS:
        found = solve(mdp, tol=1e-9)
        again = solve(mdp, found, tol=1e-9)
        assert again.converged
        assert again.iterations <= 2
    better = average_policy_iteration(mdp, np.array([1, 1, 0], np.int8))
    assert_array_equal(better.policy, [1, 1, 1])


# A policy that is given.


@pytest.fixture(scope="module")
def evaluate_in_batch() -> Callable:
    return jax.jit(
        jax.vmap(lambda mdp, policy, tol: evaluate_average(mdp, policy, tol=tol, max_iters=5000), (0, 0, None))
    )


@pytest.mark.parametrize(("dtype", "stochastic"), [(np.float32, False), (np.float32, True), (np.float64, True)])
def test_bounds_enclose_the_gain_of_a_policy(evaluate_in_batch, dtype, stochastic):
    models, rng = random_models(dtype, 1.0, seed=1), np.random.default_rng(2)
    policies = rng.integers(2, size=(N, 3))
    if stochastic:
        pi = rng.random((N, 3))
        # Some rows choose, others mix; in float32 they do not sum to exactly one.
        pi = np.where(rng.random((N, 3)) < 0.3, np.round(pi), pi)
        policies = np.stack([pi, 1 - pi], 2).astype(dtype)
    tol = 1e-3 if dtype == np.float32 else 1e-9
    found = evaluate_in_batch(stack(models), jnp.asarray(policies), tol)
    unichain = 0
    for i, mdp in enumerate(models):
        rows, chain = rows_of(mdp), []
        for s in range(3):
            weights = [Fraction(float(w)) for w in (policies[i, s] if stochastic else np.eye(2)[policies[i, s]])]
            mixed = [sum(w * rows[s][a][0][t] for a, w in enumerate(weights)) / sum(weights) for t in range(3)]
            chain.append((mixed, sum(w * rows[s][a][1] for a, w in enumerate(weights)) / sum(weights)))
        answer, exact = lane(found, i), gains(chain)
        assert all(encloses(answer, g) for g in exact)
        assert_array_equal(answer.policy, policies[i])
        if len(set(exact)) == 1:
            unichain += 1
            assert answer.converged
            assert answer.bias[0] == 0
            g, h = float(exact[0]), np.asarray(answer.bias, float)
            P, r = (np.array(x, float) for x in zip(*chain, strict=True))
            assert_allclose(g + h, r + P @ h, atol=tol)
        else:
            assert not answer.converged
    assert 20 < unichain < N


def test_what_a_policy_is_worth_state_by_state(truth):
    is_unichain = [all(len(set(g)) == 1 for g in of_policies.values()) for _, of_policies in truth[np.float64, 1.0]]
    mdp, of_policies = truth[np.float64, 1.0][is_unichain.index(True)]
    settled = 0
    for pi in of_policies:
        found = evaluate_average(mdp, np.array(pi, np.int8))
        gain, bias = gain_and_bias(mdp, pi)
        assert encloses(found, gain)
        assert_allclose(found.bias, np.array(bias, float), atol=1e-12)
        assert_allclose(found.q[np.arange(3), pi], found.bias, atol=1e-12)
        if (found.q.max(1) <= found.bias + 1e-9).all():
            # Howard: what cannot be improved is optimal.
            settled += 1
            assert gain == best(of_policies)[0]
    assert settled > 0


def test_recurrent_classes_not_the_start_decide():
    # State 0 is left for good: h(0) = 0 is a normalisation only.
    P = np.zeros((3, 2, 3))
    P[0, :, 1] = P[1, :, 2] = P[2, :, 2] = 1
    found = evaluate_average(dp.make_mdp(P, np.array([7.0, 5.0, 2.0]), 0.9), np.zeros(3, int))
    assert encloses(found, Fraction(2))
    assert_allclose(found.bias, [0, -5, -8], atol=1e-13)


# What is refused, and what is said where nothing can be refused.


def two_rooms() -> dp.MDP:
    """From the hall 0 into room 1, which pays 1, or room 2, which pays 3; no door leads out."""
    P = np.zeros((3, 2, 3))
    P[0, 0, 1] = P[0, 1, 2] = P[1, :, 1] = P[2, :, 2] = 1
    return dp.make_mdp(P, np.array([0.0, 1.0, 3.0]), 0.9)


@pytest.mark.parametrize("solve", SOLVERS)
def test_multichain_models_are_refused_by_name(solve):
    message = (
        "no policy goes back and forth for sure between states [1] and states [2], so that the best average reward"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        solve(two_rooms())


def test_multichain_models_say_so_where_they_cannot_be_refused():
    for solve in SOLVERS:
        found = lane(in_batch[solve](stack([two_rooms()] * N), 1e-9), 0)
        assert not found.converged
        assert found.iterations == 5000
        assert found.lower <= 1 and found.upper >= 3


def test_multichain_policies_are_refused_by_name():
    rooms = two_rooms()
    with pytest.raises(ValueError, match=re.escape("it never leaves states [1], nor states [2]")):
        evaluate_average(rooms, np.array([1, 0, 0]))
    # With a door back from room 1 the model communicates weakly, and some policies still are multichain.
    open_door = rooms._replace(P=rooms.P.at[1, 1].set(jnp.array([1.0, 0.0, 0.0])))
    with pytest.raises(ValueError, match=re.escape("it never leaves states [1], nor states [2]")):
        evaluate_average(open_door, np.array([1, 0, 0]))
    assert encloses(evaluate_average(open_door, np.array([1, 1, 0])), Fraction(3))


def test_episodes_that_end_are_refused():
    mdp = dp.problems.space_exploration()
    for solve in SOLVERS:
        with pytest.raises(
            ValueError, match="state 2 ends the episode: the average reward is about chains that never end"
        ):
            solve(mdp)
    with pytest.raises(ValueError, match="state 2 ends the episode"):
        evaluate_average(mdp, np.zeros(3, int))
    leaky = dp.make_mdp(np.array([[[0.9]]]), np.zeros(1), 0.9, substochastic=True)
    with pytest.raises(ValueError, match=re.escape("P[0, 0] sums to 0.9, the rest ends the episode")):
        relative_value_iteration(leaky)


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("tol must be positive and finite, got 0.0", {"tol": 0.0}),
        ("tol must be positive and finite, got nan", {"tol": np.nan}),
        ("max_iters must be at least 1, got 0", {"max_iters": 0}),
    ],
)
def test_settings_that_make_no_sense(message, settings):
    for call in (*SOLVERS, lambda mdp, **settings: evaluate_average(mdp, np.ones(3, int), **settings)):
        with pytest.raises(ValueError, match=message):
            call(taxicab(), **settings)


@pytest.mark.parametrize("damping", [0.0, -0.5, 1.5, np.nan])
def test_damping_lies_between_0_and_1(damping):
    with pytest.raises(ValueError, match=re.escape(f"damping must lie in (0, 1], got {damping}")):
        relative_value_iteration(taxicab(), damping=damping)


@pytest.mark.usefixtures("unchecked")
def test_starts_and_policies_that_make_no_sense():
    with pytest.raises(ValueError, match=re.escape("start must have shape [3], got [2]")):
        relative_value_iteration(taxicab(), np.zeros(2))
    with pytest.raises(ValueError, match=re.escape("policy must be deterministic, of shape [3], got [3, 3]")):
        average_policy_iteration(taxicab(), np.full((3, 3), [0.5, 0.5, 0.0]))
    for call in (evaluate_average, average_policy_iteration):
        with pytest.raises(ValueError, match="policy takes action 2 in state 1, which the mask forbids"):
            call(taxicab(), np.array([0, 2, 0]))


def says_nothing(found: Average) -> None:
    assert not found.converged
    assert found.iterations == 1
    assert (found.lower, found.upper) == (-np.inf, np.inf)


@pytest.mark.parametrize(
    "change",
    [{"R": np.nan}, {"R": np.inf}, {"R": 1e308}, {"P": np.nan}, {"P": 0.0}, {"P": 0.4}, {"P": 0.6}],
    ids=str,
)
def test_numbers_that_make_no_sense_end_it_at_once(evaluate_in_batch, change):
    (name, x), *_ = change.items()
    mdp = stack(random_models(np.float64, 1.0))
    leaf = getattr(mdp, name)
    # All of P: 3 times 0.4 or 0.6 or 0 is no probability. One reward that is not finite is enough.
    mdp = mdp._replace(**{name: jnp.full_like(leaf, x) if name == "P" or x == 1e308 else leaf.at[:, 1].set(x)})
    for solve in SOLVERS:
        says_nothing(lane(in_batch[solve](mdp, 1e-9), 0))
    says_nothing(lane(evaluate_in_batch(mdp, jnp.full((N, 3, 2), 0.5), 1e-9), 0))


def test_a_sum_that_overflows_on_the_way_has_no_bounds():
    found = relative_value_iteration(taxicab(), np.array([1.7e308, -1.7e308, 0.0]))
    says_nothing(found)


def test_dtype_follows_the_model():
    mdp, pi = cast(taxicab(), np.float32), np.eye(3)[[1, 1, 1]]
    for call in (*SOLVERS, lambda mdp: evaluate_average(mdp, pi)):
        shapes = jax.eval_shape(call, mdp)
        assert {x.dtype for x in shapes} == {np.dtype(np.float32), np.dtype(int), np.dtype(bool)}


def test_certificate_by_hand():
    # One state, reward 1/4, P = 1: T h - h = 1/4 exactly, and the bounds are as far from it as rounding may be.
    of_loop = modulus(jnp.ones((1, 1, 1)), jnp.full((1, 1), 0.25), jnp.asarray(1.0))
    found = enclose_gain(jnp.zeros(1), jnp.full(1, 0.25), of_loop, jnp.asarray(0.0))
    assert found.lower < 0.25 < found.upper
    assert found.gap < 1e-14
    # γ_{n+4} (max|h| + max|R|) on either side, with n = 1 and u = 2^-53.
    rounded = enclose_gain(jnp.array([3.0]), jnp.array([3.25]), of_loop, jnp.asarray(0.0))
    assert_allclose(rounded.gap, 2 * 5 * 2.0**-53 * 3.25 + 4 * 2.0**-52 * 0.25, rtol=0.1)
    # Rows off by δ = 1e-9, values up to 3: wider by 2 * 3e-9.
    wider = enclose_gain(jnp.array([3.0]), jnp.array([3.25]), of_loop, jnp.asarray(1e-9))
    assert_allclose(wider.gap, 6e-9, rtol=1e-5)
    assert_allclose(wider.floor, wider.gap, rtol=1e-5)

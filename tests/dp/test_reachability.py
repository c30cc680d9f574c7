import jax
import numpy as np
import pytest

import dp
from dp.reachability import reachability
from dp.sparse import from_choices, from_successors


def gambler(n=100, p=0.4):
    """Stake a at capital s: s + a with probability p, s - a otherwise. The goal is n. Staking nothing is allowed."""
    P, mask = np.zeros((n + 1, n // 2 + 1, n + 1)), np.zeros((n + 1, n // 2 + 1), bool)
    for s in range(n + 1):
        for a in range(min(s, n - s) + 1):
            mask[s, a] = True
            P[s, a, s + a] += p
            P[s, a, s - a] += 1 - p
    return P, mask


def test_the_gambler_plays_boldly():
    P, mask = gambler()
    # In an unfair game bold play is best: v(50) = p, v(25) = p^2, v(75) = p + (1 - p) p. Staking nothing is worth as
    # much in every state, for ever, and wins nothing.
    solution = reachability(dp.make_mdp(P, np.zeros(mask.shape), 1.0, mask=mask), np.arange(101) == 100)
    assert solution.converged
    np.testing.assert_allclose(solution.v[np.array([0, 25, 50, 75, 100])], [0, 0.16, 0.4, 0.64, 1], rtol=0, atol=1e-14)
    assert int(solution.policy[50]) == 50 and (np.asarray(solution.policy)[1:100] > 0).all()


def test_who_may_stake_nothing_never_has_to_win():
    P, mask = gambler(20)
    mdp = dp.make_mdp(P, np.zeros(mask.shape), 1.0, mask=mask)
    solution = reachability(mdp, np.arange(21) == 20, maximise=False)
    np.testing.assert_array_equal(solution.v, np.arange(21) == 20)
    np.testing.assert_array_equal(solution.upper, solution.lower)
    assert (np.asarray(solution.policy) == 0).all()
    # Forbidden actions are worse than all others.
    assert (np.asarray(solution.q)[~mask] == np.inf).all()


def test_an_end_component_hides_its_exit_from_iteration_above():
    # States 0 and 1 lead to each other for sure; state 1 may also leave, and then wins with probability 1/3.
    P = np.zeros((4, 2, 4))
    P[0, :, 1] = P[1, 0, 0] = 1
    P[1, 1, [2, 3]] = 1 / 3, 2 / 3
    P[2, :, 2] = P[3, :, 3] = 1
    mdp, goal = dp.make_mdp(P, np.zeros((4, 2)), 1.0), np.arange(4) == 2
    # Any constant above 1/3 solves v = max_a P v in the component.
    wrong = np.array([0.9, 0.9, 1, 0])
    np.testing.assert_array_equal((P @ wrong).max(1), wrong)
    solution = reachability(mdp, goal)
    assert solution.converged
    np.testing.assert_allclose(solution.v, [1 / 3, 1 / 3, 1, 0], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(solution.policy[:2], [0, 1])


def test_probability_one_takes_a_choice_that_leads_on():
    # In state 0 the first action stays; the second reaches the goal in the end, however often it fails.
    P = np.zeros((2, 2, 2))
    P[0, 0, 0], P[0, 1], P[1, :, 1] = 1, [0.999, 0.001], 1
    solution = reachability(dp.make_mdp(P, np.zeros((2, 2)), 1.0), np.array([False, True]))
    np.testing.assert_array_equal(solution.lower, [1, 1])
    assert int(solution.policy[0]) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_form_of_model_has_the_same_answer(dtype):
    rng = np.random.default_rng(3)
    S, A, K = 12, 2, 3
    state = rng.integers(0, S, (S, A, K))
    prob = rng.dirichlet(np.ones(K), (S, A)).astype(dtype)
    P = np.zeros((S, A, S), dtype)
    np.add.at(P, (np.arange(S)[:, None, None], np.arange(A)[None, :, None], state), prob)
    R, goal = np.zeros((S, A), dtype), np.arange(S) == 7
    P[2] = prob[2] = 0
    terminal = np.arange(S) == 2
    row, column = np.nonzero(P.reshape(S * A, S))
    models = [
        dp.make_mdp(P, R, 1.0, terminal=terminal),
        from_successors(state, prob, R, 1.0, terminal=terminal),
        from_choices(
            P.reshape(S * A, S)[row, column],
            column,
            np.append(0, np.cumsum(np.bincount(row, minlength=S * A))),
            A * np.arange(S + 1),
            R.ravel(),
        ),
    ]
    for maximise in (True, False):
        solutions = [reachability(mdp, goal, maximise=maximise) for mdp in models]
        for mdp, solution in zip(models, solutions, strict=True):
            assert solution.converged and solution.v.dtype == dtype and solution.q.shape == mdp.R.shape
            np.testing.assert_allclose(solution.v, solutions[0].v, rtol=0, atol=2 * np.finfo(dtype).eps)
            np.testing.assert_array_equal(solution.policy, solutions[0].policy)
            assert (np.asarray(solution.lower) <= np.asarray(solution.upper)).all()


def test_within_a_horizon_few_steps_count():
    # A fair coin until heads: within h tosses 1 - 2^-h.
    P = np.array([[[0.5, 0.5]], [[0, 1]]])
    solution = reachability(dp.make_mdp(P, np.zeros((2, 1)), 1.0), np.array([False, True]), horizon=5)
    assert solution.v.shape == (6, 2) and solution.policy.shape == (5, 2) and solution.q.shape == (5, 2, 1)
    np.testing.assert_array_equal(solution.v[:, 0], 1 - 0.5 ** np.arange(5, -1, -1))
    np.testing.assert_array_equal(solution.v[:, 1], 1)


def test_with_more_steps_left_another_choice_is_best():
    # Ragged, actions in its own numbers: state 0 wins 1/2 or loses; or wins 3/8, loses 1/8, and tries again.
    mdp = from_choices(
        np.array([0.5, 0.5, 0.5, 0.375, 0.125, 1, 1]),
        np.array([1, 2, 0, 1, 2, 1, 2]),
        np.array([0, 2, 5, 6, 7]),
        np.array([0, 2, 3, 4]),
        np.zeros(4),
    )
    goal = np.array([False, True, False])
    most = reachability(mdp, goal, horizon=3)
    assert most.q.shape == (3, 4)
    np.testing.assert_array_equal(most.v[:, 0], [0.6875, 0.625, 0.5, 0])
    np.testing.assert_array_equal(most.policy[:, 0], [1, 1, 0])
    least = reachability(mdp, goal, maximise=False, horizon=3)
    np.testing.assert_array_equal(least.v[:, 0], [0.5, 0.5, 0.375, 0])
    np.testing.assert_array_equal(least.policy[:, 0], [0, 0, 1])
    assert (np.asarray(least.lower) <= np.asarray(least.v)).all() and least.converged


def test_rewards_are_not_read():
    P = np.array([[[0.5, 0.25, 0.25]] * 2, [[0, 1, 0]] * 2, [[0, 0, 1]] * 2])
    mdp = dp.make_mdp(P, np.arange(6.0).reshape(3, 2), 1.0)
    found = reachability(mdp, np.array([False, True, False]))
    np.testing.assert_allclose(found.v, [0.5, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found.q, [[0.5, 0.5], [1, 1], [0, 0]], atol=1e-12)
    assert found.residual < 1e-12


def test_the_door_names_what_is_wrong(unchecked):
    mdp = dp.make_mdp(np.ones((1, 1, 1)), np.zeros((1, 1)), 1.0)
    with pytest.raises(ValueError, match=r"reachability has no discount, got gamma = 0.9"):
        reachability(dp.make_mdp(np.ones((1, 1, 1)), np.zeros((1, 1)), 0.9), np.array([True]))
    with pytest.raises(ValueError, match=r"goal must be boolean with shape \[1\], got bool with \[2\]"):
        reachability(mdp, np.array([True, False]))
    with pytest.raises(ValueError, match=r"goal must be boolean with shape \[1\]: np.isin\(np.arange\(1\), goal\)"):
        reachability(mdp, np.array([0]))
    with pytest.raises(ValueError, match="cannot be jitted"):
        jax.jit(lambda mdp: reachability(mdp, np.array([True])).v)(mdp)
    with pytest.raises(ValueError, match="tol must be positive"):
        reachability(mdp, np.array([True]), tol=0)
    with pytest.raises(ValueError, match="horizon must be an integer >= 1"):
        reachability(mdp, np.array([True]), horizon=0)

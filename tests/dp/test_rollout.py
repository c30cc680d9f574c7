"""Episodes: they follow the model, end where it ends, and earn on average what the policy is worth."""

import operator
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.problems import gambler, garnet, space_exploration
from dp.rollout import Episode, discounted_return, returns, rollout, time_to_absorption

F, L, D = range(3)
C, E = range(2)
GARNET, AT_RANDOM = (
    garnet(6, 2, 3, gamma=0.9, seed=0),
    jnp.array([[0.2, 0.8], [1.0, 0.0], *[[0.5, 0.5]] * 3, [0.9, 0.1]]),
)
ANYTHING, LONG = jnp.full((3, 2), 0.5), 5000


@partial(jax.jit, static_argnames=("episodes", "num_steps"))
def many(key, mdp, policy, start, *, episodes=4000, num_steps=80):
    return jax.vmap(lambda k: returns(k, mdp, policy, start, num_steps=num_steps))(jax.random.split(key, episodes))


def assert_agrees(found, v, mdp, num_steps, errors=4):
    """The mean return is v_π within so many standard errors, and what the steps not made could have added."""
    mean, error = np.mean(found.value), np.std(found.value) / np.sqrt(len(found.value))
    missing = float(mdp.gamma) ** num_steps / (1 - float(mdp.gamma)) * float(np.abs(mdp.R).max())
    assert abs(mean - v) <= errors * error + missing, (mean, v, error)


def sparse(mdp: dp.MDP) -> dp.MDP:
    S, A, _ = mdp.P.shape
    state = np.broadcast_to(np.arange(S), (S, A, S))
    return dp.from_successors(state, np.asarray(mdp.P), np.asarray(mdp.R), mdp.gamma, substochastic=True)


def ragged(mdp: dp.MDP) -> dp.MDP:
    S, A, _ = mdp.P.shape
    indptr, choices = np.arange(S * A + 1) * S, np.arange(S + 1) * A
    data, indices = np.asarray(mdp.P).ravel(), np.tile(np.arange(S), S * A)
    return dp.from_choices(data, indices, indptr, choices, np.asarray(mdp.R).ravel(), mdp.gamma, substochastic=True)


FORMS = {"dense": lambda mdp: mdp, "successors": sparse, "ragged": ragged}


def test_the_mean_return_is_the_value_of_the_policy():
    mdp = space_exploration(gamma=0.8)
    # v(F) = 3/2 + γ (3/4 v(F) + 1/4 v(L)) and v(L) = (1 - 10)/2 + γ/4 (v(F) + v(L)).
    v, _ = np.linalg.solve([[0.4, -0.2], [-0.2, 0.8]], [1.5, -4.5])
    assert_agrees(many(jax.random.key(0), mdp, ANYTHING, F), v, mdp, 80)


def test_an_episode_that_starts_at_the_end_is_over():
    found = many(jax.random.key(0), space_exploration(), ANYTHING, D)
    assert_array_equal(found.value, 0)
    assert_array_equal(found.steps, 0)
    assert found.ended.all()


def test_time_to_absorption_is_geometric():
    # In state 0 the second action earns 1, ends the episode with probability 0.7 and else stays.
    P, R = np.zeros((3, 2, 3)), np.zeros((3, 2))
    P[0, 1, 0], P[0, 0, 1], R[0, 1] = 0.3, 1.0, 1.0
    mdp = dp.make_mdp(P, R, 0.8, substochastic=True)
    found = many(jax.random.key(5), mdp, jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), 0)
    assert found.ended.all()
    times, n = np.asarray(found.steps), len(found.steps)
    assert abs(times.mean() - 1 / 0.7) <= 4 * np.sqrt(0.3) / 0.7 / np.sqrt(n)
    for t in (1, 2, 4):
        p = 0.3**t
        assert abs((times > t).mean() - p) <= 4 * np.sqrt(p * (1 - p) / n)
    assert_agrees(found, 1 / (1 - 0.8 * 0.3), mdp, 80)


def test_every_form_of_a_model_gives_the_same_episode():
    policy = jnp.array([0, 1, 0, 1, 1, 0])
    episodes = [rollout(jax.random.key(3), form(GARNET), policy, 2, num_steps=30) for form in FORMS.values()]
    for episode in episodes[1:]:
        jax.tree.map(assert_array_equal, episodes[0], episode)


def test_a_model_that_is_a_function_has_episodes_too():
    # A walk on five cells: to either side with probability 1/2, until it steps off, to cell -1 or 5.
    def step(s, a, e):
        return jnp.where(s + 2 * e - 1 > 4, -1, s + 2 * e - 1), 1.0

    mdp, lengths = dp.from_step(step, np.array([0.5, 0.5]), 5, 1, 0.9), []
    for key in range(20):
        episode = rollout(jax.random.key(key), mdp, jnp.zeros(5, int), 2, num_steps=200)
        n, done = map(int, time_to_absorption(episode))
        path = np.asarray(episode.states)[:n]
        assert done and float(episode.rewards.sum()) == n and path[-1] in (0, 4)
        assert_array_equal(np.abs(np.diff(path)), 1)
        lengths.append(n)
    assert min(lengths) == 3 and max(lengths) > 9


def test_an_episode_follows_the_model():
    policy = np.array([0, 1, 0, 1, 1, 0])
    states, actions, rewards, alive = map(np.asarray, rollout(jax.random.key(0), GARNET, policy, 4, num_steps=30))
    assert states[0] == 4 and alive.all()
    assert_array_equal(actions, policy[states[:-1]])
    assert_array_equal(rewards, np.asarray(GARNET.R)[states[:-1], actions])
    assert (np.asarray(GARNET.P)[states[:-1], actions, states[1:]] > 0).all()


def test_transitions_and_actions_have_their_frequencies():
    episode = rollout(jax.random.key(0), GARNET, AT_RANDOM, 2, num_steps=LONG)
    states, actions = np.asarray(episode.states), np.asarray(episode.actions)
    counts = np.zeros((6, 2, 6))
    np.add.at(counts, (states[:-1], actions, states[1:]), 1)
    for s in range(6):
        visits = counts[s].sum()
        p = np.asarray(AT_RANDOM[s])[:, None] * np.asarray(GARNET.P[s])
        assert (np.abs(counts[s] / visits - p) <= 4.5 * np.sqrt(p * (1 - p) / visits)).all()
    assert counts[1, 1].sum() == 0


def test_an_episode_ends_on_arrival_in_a_terminal_state():
    # Full, explore: to low at once or not; then explore again: depleted.
    policy = jnp.array([E, E, C])
    states, actions, rewards, alive = rollout(jax.random.key(1), space_exploration(), policy, F, num_steps=30)
    steps = int(np.sum(alive[:-1]))
    assert 2 <= steps < 30
    assert_array_equal(states, [F] * (steps - 1) + [L] + [D] * (31 - steps))
    assert_array_equal(rewards, [2.0] * (steps - 1) + [-10.0] + [0.0] * (30 - steps))
    assert_array_equal(actions, [E] * steps + [0] * (30 - steps))
    assert_array_equal(alive, np.arange(31) < steps)


def test_time_that_ran_out_is_not_the_end():
    alive = jnp.array([[True, True, True, True], [True, True, False, False], [False] * 4, [True, True, True, False]])
    nothing = jnp.zeros((4, 3))
    steps, done = time_to_absorption(Episode(jnp.zeros((4, 4), int), nothing.astype(int), nothing, alive))
    assert_array_equal(steps, [3, 2, 0, 3])
    assert_array_equal(done, [False, True, True, True])


@pytest.mark.slow
def test_a_gambler_wins_as_often_as_he_should():
    # Any stake is as likely as any other. An episode earns, with each stake that may reach the goal, 0.4.
    mdp, n = gambler(0.4, goal=8), np.array([1, 1, 2, 3, 4, 3, 2, 1, 1])
    chain = np.zeros((9, 9))
    for s in range(1, 8):
        for stake in range(1, n[s] + 1):
            chain[s, s - stake], chain[s, s + stake] = 0.6 / n[s], 0.4 / n[s]
    wins = np.linalg.solve(np.eye(9) - np.where(np.arange(9) < 8, chain, 0), chain[:, 8])
    found = many(jax.random.key(0), mdp, jnp.asarray(np.repeat(1 / n, n)), 2)
    assert found.ended.all() and found.steps.max() > 3
    values = np.asarray(found.value)
    assert abs(values.mean() - wins[2]) <= 4 * values.std() / np.sqrt(len(values))


def test_alone_or_in_a_batch_an_episode_is_the_same():
    keys = jax.random.split(jax.random.key(0), 2)
    for follow in (rollout, returns):
        together = jax.vmap(lambda key, f=follow: f(key, GARNET, AT_RANDOM, 2, num_steps=LONG))(keys)
        for i in range(2):
            alone = follow(keys[i], GARNET, AT_RANDOM, 2, num_steps=LONG)
            jax.tree.map(assert_array_equal, jax.tree.map(operator.itemgetter(i), together), alone)


@pytest.mark.slow
def test_an_episode_is_the_same_without_jit():
    with jax.disable_jit():
        plain = rollout(jax.random.key(0), GARNET, AT_RANDOM, 2, num_steps=2)
    assert_array_equal(plain.states, rollout(jax.random.key(0), GARNET, AT_RANDOM, 2, num_steps=LONG).states[:3])


def test_the_return_is_the_sum_of_the_discounted_rewards():
    episode = rollout(jax.random.key(0), GARNET, AT_RANDOM, 2, num_steps=LONG)
    found = returns(jax.random.key(0), GARNET, AT_RANDOM, 2, num_steps=LONG)
    by_hand = sum(0.9**t * r for t, r in enumerate(episode.rewards.tolist()))
    assert_allclose(discounted_return(episode.rewards, GARNET.gamma), by_hand, rtol=1e-13)
    assert_allclose(found.value, by_hand, rtol=1e-13)
    assert (found.steps, found.ended) == (LONG, False)
    assert_array_equal(discounted_return(jnp.array([[1.0, 2.0], [3.0, 4.0]]), 0.5), [2, 5])
    assert_array_equal(discounted_return(jnp.array([[1.0, 2.0], [3.0, 4.0]]), 0.0), [1, 3])


def test_rounding_ends_no_episode():
    # Many successors in float32, whose sum is not exactly 1.
    S = 300
    p = np.full(S, 1 / S, np.float32)
    P = np.zeros((S, 1, S), np.float32)
    P[:, 0] = p
    mdp = dp.make_mdp(P, np.ones((S, 1), np.float32), np.float32(0.5))
    states, _, rewards, alive = rollout(jax.random.key(0), mdp, jnp.zeros(S, int), 0, num_steps=1000)
    assert alive.all() and rewards.dtype == np.float32
    assert states.min() >= 0 and states.max() < S
    assert len(np.unique(states)) > 250


def test_what_is_no_episode():
    mdp = space_exploration()
    policy = jnp.array([E, E, C])
    for message, arguments in (
        ("start must be a state, 0 to 2, got 3", {"start": 3}),
        ("start must be a state, 0 to 2, got -1", {"start": -1}),
        ("num_steps must be at least 1, got 0", {"num_steps": 0}),
        ("policy[0] = 2 is not an action", {"policy": jnp.array([2, 0, 0])}),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            rollout(jax.random.key(0), mdp, **{"policy": policy, "start": 0, "num_steps": 5} | arguments)

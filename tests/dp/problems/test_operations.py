"""Problems of operations research: published numbers, stationary distributions in closed form, and oracles in NumPy."""

import itertools
import re

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import gamma as gamma_distribution

import dp
from dp.problems import admission_control, bus_engine, perishable_inventory, tandem_ring
from dp.problems.perishable_inventory import Costs, demand, perishable_step
from dp.problems.tandem_ring import ring_states

# Perishable inventory


@pytest.mark.parametrize(("lifo", "v"), [(True, -1603.5974), (False, -1510.4701)])
def test_two_empty_shelves(lifo, v):
    solution = dp.policy_iteration(perishable_inventory(lifo=lifo))
    assert solution.converged
    assert_allclose(solution.v[0], v, atol=5e-5)


def test_lifo_ignores_the_oldest_when_it_orders():
    policy = np.asarray(dp.policy_iteration(perishable_inventory()).policy).reshape(11, 11)
    assert_array_equal(policy, np.repeat([3, 3, 3, 2, 1, 0, 0, 0, 0, 0, 0], 11).reshape(11, 11))


def test_demand_is_a_rounded_gamma_distribution():
    p = demand(4.0, 0.5, 100)
    assert_allclose(p.sum(), 1, rtol=1e-15)
    edges = np.concatenate([[0], np.arange(0.5, 100)])
    assert_allclose(p[:100], np.diff(gamma_distribution.cdf(edges, 4)), atol=1e-15)
    assert abs(p @ np.arange(101) - 4) < 0.01
    assert_allclose(demand(4.0, 0.5, 3), [*p[:3], p[3:].sum()], rtol=1e-12)


def one_period(shelves, order, wanted, lifo, costs):
    """What the head of the file says, unit by unit."""
    *on_order, stock = shelves[0], list(shelves[1])
    short = 0
    for _ in range(wanted):
        ages = range(len(stock)) if lifo else reversed(range(len(stock)))
        taken = next((i for i in ages if stock[i]), None)
        if taken is None:
            short += 1
        else:
            stock[taken] -= 1
    cost = costs.order * order + costs.shortage * short + costs.wastage * stock[-1] + costs.holding * sum(stock[:-1])
    pipeline = (order, *on_order[0])
    return (*pipeline, *stock[:-1]), -cost


@pytest.mark.parametrize(("life", "lead_time", "lifo"), [(3, 1, True), (3, 1, False), (2, 2, True), (1, 1, False)])
def test_inventory_unit_by_unit(life, lead_time, lifo):
    base, digits, costs = 3, lead_time - 1 + life, Costs(0.5, 2.0, 3.0, 0.25)
    arguments = {"life": life, "lead_time": lead_time, "largest_order": 2, "lifo": lifo, "costs": costs}
    mdp = perishable_inventory(**arguments, mean=2.0, most_demand=7)
    p, S = demand(2.0, 0.5, 7), base**digits
    P, R = np.zeros((S, base, S)), np.zeros((S, base))
    step = perishable_step(**arguments)
    for s, shelf in enumerate(itertools.product(range(base), repeat=digits)):
        for order, (d, chance) in itertools.product(range(base), enumerate(p)):
            after, reward = one_period((shelf[: lead_time - 1], shelf[lead_time - 1 :]), order, d, lifo, costs)
            to = int("".join(map(str, after)), base)
            P[s, order, to] += chance
            R[s, order] += chance * reward
    assert_allclose(mdp.P, P, atol=1e-15)
    assert_allclose(mdp.R, R, rtol=1e-13)
    by_step = dp.from_step(step, p, S, base, 0.99)
    assert step is perishable_step(**arguments)
    v = np.linspace(-1, 1, S)
    assert_allclose(dp.action_values(by_step, jnp.asarray(v)), R + 0.99 * P @ v, atol=1e-12)


@pytest.mark.parametrize(
    "bad", [{"life": 0}, {"lead_time": 0}, {"largest_order": 0}, {"most_demand": 0}, {"mean": 0.0}]
)
def test_inventories_that_are_none(bad):
    with pytest.raises(ValueError, match=r"need .*>= 1"):
        perishable_inventory(**bad)


# Bus engines


def test_zurcher_replaces_as_rust_says():
    mdp = bus_engine()
    found = dp.soft_policy_iteration(mdp, temperature=1.0)
    assert found.converged
    # Rust's fixed point, by Newton's method: EV(x, a) is the value expected of the month after, [90, 2].
    x, beta, p = np.arange(90), 0.9999, np.array([0.3919, 0.5953, 0.0128])
    F = np.zeros((90, 90))
    for k in range(3):
        np.add.at(F, (x, np.minimum(x + k, 89)), p[k])
    v = np.zeros(90)
    for _ in range(100):
        q = np.stack([-0.001 * 2.293 * x + beta * F @ v, np.full(90, -10.075 + beta * F[0] @ v)], axis=1)
        top = q.max(1)
        keep = np.exp(q - top[:, None]) / np.exp(q - top[:, None]).sum(1, keepdims=True)
        residual = top + np.log(np.exp(q - top[:, None]).sum(1)) - v
        v += np.linalg.solve(np.eye(90) - beta * (keep[:, :1] * F + keep[:, 1:] * F[0]), residual)
        if np.abs(residual).max() < 1e-9:
            break
    assert_allclose(found.v, v, atol=1e-5)
    assert_allclose(found.policy, keep, atol=1e-8)
    assert_allclose(mdp.P.sum(-1), 1, rtol=1e-15)
    assert (np.diff(found.policy[:, 1]) > 0).all()


# Admission control


def gain(mdp: dp.MDP, policy: np.ndarray) -> float:
    """The reward per step of a policy with one recurrent class, by its stationary distribution."""
    s = np.arange(len(policy))
    P, r = np.asarray(mdp.P)[s, policy], np.asarray(mdp.R)[s, policy]
    system = np.vstack([(P - np.eye(len(s))).T, np.ones(len(s))])
    return float(np.linalg.lstsq(system, np.append(np.zeros(len(s)), 1.0), rcond=None)[0] @ r)


def earned(room: int, arrival: float, service: float, prize: float, waiting: float) -> float:
    """What the queue earns per unit of time that admits up to `room` customers: M/M/1/room."""
    n = np.arange(room + 1)
    weights = (arrival / service) ** n
    pi = weights / weights.sum()
    return arrival * prize * (1 - pi[-1]) - waiting * pi @ n


@pytest.mark.parametrize("numbers", [(0.9, 1.0, 5.0, 1.0), (2.0, 1.0, 8.0, 0.5), (0.3, 1.0, 20.0, 1.0)])
def test_admission_below_the_best_threshold(numbers):
    arrival, service, prize, waiting = numbers
    mdp = admission_control(12, arrival=arrival, service=service, prize=prize, waiting=waiting)
    found = dp.relative_value_iteration(mdp, tol=1e-9)
    by_threshold = [earned(n, *numbers) for n in range(13)]
    assert_allclose(found.gain * (arrival + service), max(by_threshold), atol=1e-8)
    assert found.policy.sum() == np.argmax(by_threshold)
    assert_array_equal(np.sort(found.policy)[::-1], found.policy)


def test_a_policy_of_the_queue_earns_what_its_chain_says():
    below_four = (np.arange(13) < 4).astype(int)
    assert_allclose(1.9 * gain(admission_control(12), below_four), earned(4, 0.9, 1.0, 5.0, 1.0), rtol=1e-11)
    with pytest.raises(ValueError, match=re.escape("need room >= 1 and arrival, service > 0, got 0, 0.9 and 1.0")):
        admission_control(0)


# The ring


def throughput(customers: int, rates: np.ndarray) -> float:
    """Gordon and Newell: G(N - 1) / G(N)."""

    def G(n: int) -> float:
        return sum(np.prod(rates**-state) for state in ring_states(n, rates.size).astype(float))

    return G(customers - 1) / G(customers)


def test_ring_states_are_all_there_in_order():
    expected = [n for n in itertools.product(range(5), repeat=3) if sum(n) == 4]
    assert_array_equal(ring_states(4, 3), expected)


def test_a_helper_who_stays_makes_a_product_form():
    mdp, rates = tandem_ring(4, (1.0, 1.5, 2.0), help=0.5), np.array([1.0, 1.5, 2.0])
    assert_allclose(mdp.P.sum(-1), 1, rtol=1e-14)
    for station in range(3):
        expected = throughput(4, rates + 0.5 * np.eye(3)[station])
        assert_allclose(5.0 * gain(mdp, np.full(15, station)), expected, rtol=1e-11)


def test_the_best_helper_moves_about():
    rates, total = np.array([1.0, 1.5, 2.0]), 5.0
    mdp = tandem_ring(4, rates, help=0.5)
    # Relative value iteration, state by state.
    states = [tuple(n) for n in ring_states(4, 3)]
    h = dict.fromkeys(states, 0.0)
    for _ in range(2000):
        new = {}
        for n in states:
            q = []
            for where in range(3):
                m, value = rates + 0.5 * np.eye(3)[where], 0.0
                for i in range(3):
                    to = tuple(n[j] - (j == i) + (j == (i + 1) % 3) for j in range(3)) if n[i] else n
                    value += m[i] / total * (h[to] + (i == 2 and n[i] > 0))
                q.append(value + (1 - m.sum() / total) * h[n])
            new[n] = max(q)
        gain = [new[n] - h[n] for n in states]
        h = {n: new[n] - new[states[0]] for n in states}
        if max(gain) - min(gain) < 1e-9:
            break
    found = dp.relative_value_iteration(mdp, tol=1e-9)
    assert min(gain) - 1e-12 <= found.upper and found.lower <= max(gain) + 1e-12
    assert max(gain) - min(gain) < 1e-9
    assert found.gain * total > max(throughput(4, rates + 0.5 * np.eye(3)[i]) for i in range(3)) + 0.01


@pytest.mark.parametrize("bad", [{"customers": 0}, {"rates": (1.0,)}, {"rates": (1.0, 0.0)}, {"help": -1.0}])
def test_rings_that_are_none(bad):
    with pytest.raises(ValueError, match="need customers >= 1, two or more rates > 0 and help >= 0"):
        tandem_ring(**bad)

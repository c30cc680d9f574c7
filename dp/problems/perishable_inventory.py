"""Perishable inventory: how much to order of what goes bad (De Moor, Gijsbrechts and Boute, 2022).

What is ordered today arrives after `lead_time` periods, keeps for `life` periods and is then thrown away. In a period

    1. an order a is placed, 0 to `largest_order`;
    2. demand D takes from the stock: the youngest first (LIFO, as customers do) or the oldest first (FIFO); what the
       stock cannot meet is lost;
    3. costs are paid: for every unit ordered, every unit asked for in vain, every unit left that is too old for another
       period, and every other unit left;
    4. the stock grows older, and the order of `lead_time - 1` periods ago (with lead time 1: of this one) arrives.

Demand is gamma distributed, with a mean and a coefficient of variation, and rounded to integers: D = d has the
probability of (d - 1/2, d + 1/2], and D = most_demand all that is above.

The state lists what is on order and in stock, youngest first: `lead_time - 1` orders and `life` ages. Its index is the
number that has these as digits in base `largest_order + 1`: state 0 is nothing on order and empty shelves. With life 2
and the other numbers as they are, v_*(0) = -1603.5974 under LIFO and -1510.4701 under FIFO.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, ArrayLike, Float, Int

from dp.mdp import MDP
from dp.problems.assemble import assemble


class Costs(NamedTuple):
    """What a unit costs: ordered, asked for in vain, thrown away, kept for another period."""

    order: float = 3.0
    shortage: float = 5.0
    wastage: float = 7.0
    holding: float = 1.0


def perishable_inventory(
    life: int = 2,
    *,
    gamma: ArrayLike = 0.99,
    lifo: bool = True,
    lead_time: int = 1,
    largest_order: int = 10,
    mean: float = 4.0,
    variation: float = 0.5,
    most_demand: int = 100,
    costs: Costs = Costs(),  # noqa: B008 - it cannot be changed
) -> MDP:
    """Return the MDP of De Moor et al.: `(largest_order + 1)^(lead_time - 1 + life)` states, rewards are minus costs.

    What is left of the oldest units is thrown away, so the next state depends on how many of the younger ones were
    taken: it is one of at most `(life - 1) largest_order + 1`. P is an array for at most 1,024 states.
    Raises ValueError unless life, lead_time, largest_order, most_demand >= 1 and mean, variation > 0.
    """
    _require(life, lead_time, largest_order)
    p = demand(mean, variation, most_demand)
    base, digits = largest_order + 1, lead_time - 1 + life
    shelves = np.indices((base,) * digits).reshape(digits, -1).T  # [S, digits], youngest first
    on_order, young, oldest = np.split(shelves, [lead_time - 1, digits - 1], axis=1)
    stock, most = young.sum(1, keepdims=True), (life - 1) * largest_order

    # Of D units, how many are taken from the oldest, and how many, j, from the younger ones?
    d, j = np.arange(p.size), np.arange(most + 1)
    of_oldest = np.clip(d - (stock if lifo else 0), 0, oldest)
    of_young = np.clip(d - (0 if lifo else oldest), 0, stock)
    slot = np.arange(len(shelves))[:, None] * (most + 1) + of_young
    prob = np.bincount(slot.ravel(), np.broadcast_to(p, slot.shape).ravel(), len(shelves) * (most + 1))
    prob = prob.reshape(len(shelves), 1, most + 1)

    # Those who come first take first.
    ahead = np.cumsum(young, axis=1) - young if lifo else stock - np.cumsum(young, axis=1)
    left = young[:, None] - np.clip(np.minimum(j, stock)[:, :, None] - ahead[:, None], 0, young[:, None])
    weights = base ** np.arange(digits - 1)[::-1]
    later = on_order @ weights[: lead_time - 1], left @ weights[lead_time - 1 :]
    order = np.arange(base)[:, None]
    state = order * base ** (digits - 1) + (later[0][:, None] + later[1])[:, None]

    costs_of = costs.shortage * np.maximum(d - stock - oldest, 0) + costs.wastage * (oldest - of_oldest)
    expected = (costs_of + costs.holding * (stock - of_young)) @ p
    return assemble(state, np.broadcast_to(prob, state.shape), -expected[:, None] - costs.order * order[:, 0], gamma)


def demand(mean: float = 4.0, variation: float = 0.5, most: int = 100) -> Float[np.ndarray, " D"]:
    """Return the probabilities of a demand of 0, ..., most: a gamma distribution, rounded. [most + 1].

    variation: standard deviation divided by mean. Raises ValueError unless most >= 1 and mean, variation > 0.
    """
    if not (most >= 1 and mean > 0 and variation > 0):
        raise ValueError(f"need most demand >= 1 and mean, variation > 0, got {most}, {mean} and {variation}")
    above = scipy.special.gammaincc(variation**-2, (np.arange(most) + 0.5) / (mean * variation**2))
    return -np.diff(np.concatenate([[1.0], above, [0.0]]))


@functools.cache
def perishable_step(
    life: int = 2,
    *,
    lifo: bool = True,
    lead_time: int = 1,
    largest_order: int = 10,
    costs: Costs = Costs(),  # noqa: B008 - it cannot be changed
) -> Callable[[Int[Array, ""], Int[Array, ""], Int[Array, ""]], tuple[Int[Array, ""], Float[Array, ""]]]:
    """Return the same model as a function (state, order, demand) -> (next state, reward), for `dp.from_step`.

        from dp.problems.perishable_inventory import demand, perishable_step
        dp.from_step(perishable_step(5), demand(), 11**5, 11, 0.99)

    The same arguments give the same function, so that solvers compile once. Raises ValueError as the model does.
    """
    _require(life, lead_time, largest_order)
    base, digits = largest_order + 1, lead_time - 1 + life

    def step(state, order, demanded):
        weights = (base ** np.arange(digits)[::-1]).astype(state.dtype)
        shelves = state // weights % base
        on_order, stock = shelves[: lead_time - 1], shelves[lead_time - 1 :]
        until = jnp.cumsum(stock)
        ahead = until - stock if lifo else until[-1] - until
        left = stock - jnp.clip(demanded - ahead, 0, stock)
        after = jnp.concatenate([order[None], on_order, left[:-1]])
        units = jnp.stack([order, jnp.maximum(demanded - until[-1], 0), left[-1], jnp.sum(left[:-1], dtype=left.dtype)])
        return jnp.sum(after * weights, dtype=state.dtype), -jnp.dot(units.astype(float), jnp.asarray(costs))

    return step


def _require(life: int, lead_time: int, largest_order: int) -> None:
    if min(life, lead_time, largest_order) < 1:
        raise ValueError(f"need life, lead_time, largest_order >= 1, got {life}, {lead_time} and {largest_order}")

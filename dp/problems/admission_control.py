"""Admission control of a queue: who is let in earns something, and who waits costs something (Naor, 1969).

Customers arrive at rate λ, one server serves at rate μ, and there is room for `room` customers. The state is the number
of customers; actions reject (0) and admit (1) say what happens to the next who comes. Uniformised: a step lasts on
average 1 / (λ + μ), and is an arrival with probability λ / (λ + μ), else a service (of nobody, where nobody is there).

    reward of a step    (λ prize [admit] - waiting n) / (λ + μ)

so that the gain per step, times λ + μ, is the gain per unit of time. It is best to admit below a threshold. With
ρ = λ / μ, the policy that admits below n has π_k proportional to ρ^k, k <= n, and earns per unit of time

    λ prize (1 - π_n) - waiting Σ_k k π_k.
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.mdp import MDP
from dp.problems.assemble import assemble

REJECT, ADMIT = 0, 1


def admission_control(
    room: int = 20,
    *,
    gamma: ArrayLike = 1.0,
    arrival: float = 0.9,
    service: float = 1.0,
    prize: float = 5.0,
    waiting: float = 1.0,
) -> MDP:
    """Return the MDP of the queue: room + 1 states; in a full one nobody can be admitted.

    gamma: the discount of a step; 1, the default, is for the average reward. prize: what a customer pays who is let in.
    waiting: the cost of a customer per unit of time. Raises ValueError unless room >= 1 and arrival, service > 0.
    """
    if not (room >= 1 and arrival > 0 and service > 0):
        raise ValueError(f"need room >= 1 and arrival, service > 0, got {room}, {arrival} and {service}")
    n, rate = np.arange(room + 1), arrival + service
    arrives = np.stack([n, np.minimum(n + 1, room)], axis=1)
    served = np.maximum(n - 1, 0)[:, None].repeat(2, axis=1)
    state = np.stack([arrives, served], axis=-1)
    prob = np.broadcast_to(np.array([arrival, service]) / rate, state.shape)
    R = (arrival * prize * np.array([0.0, 1.0]) - waiting * n[:, None]) / rate
    mask = np.stack([n >= 0, n < room], axis=1)
    return assemble(state, prob, R, gamma, mask=mask)

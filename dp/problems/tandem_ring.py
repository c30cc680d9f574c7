"""A ring of queues with one helper: where should he work? (After Gordon and Newell, 1967, whose network this is.)

N customers go round M stations, each with one server: who is served at station i joins the queue of station i + 1, and
of station 0 after the last. Station i serves at rate μ_i, and at rate μ_i + help while the helper is there; the action
is where he is. Uniformised: a step lasts on average 1 / Λ, Λ = Σ μ_i + help; station i completes a service with
probability (its rate) / Λ if anybody is there, and else nothing happens. A round completed at the last station earns 1,
so that the gain per step, times Λ, is the throughput of the ring.

While the helper stays, the rates m_i are constant, the stationary distribution is a product, and the throughput is

    G(N - 1) / G(N),      G(N) = Σ over states n of Π_i m_i^(-n_i).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Int

from dp.mdp import MDP
from dp.problems.assemble import assemble


def tandem_ring(
    customers: int = 6,
    rates: Sequence[float] | np.ndarray = (1.0, 1.5, 2.0),
    *,
    help: float = 1.0,
    gamma: ArrayLike = 1.0,
) -> MDP:
    """Return the MDP of the ring: states are the rows of `ring_states(customers, M)`, of this module,
    actions the M stations.

    gamma: the discount of a step; 1, the default, is for the average reward. There are C(N + M - 1, M - 1) states.
    Raises ValueError unless customers >= 1, there are two or more stations, all rates > 0 and help >= 0.
    """
    rates = np.asarray(rates, float)
    if not (customers >= 1 and rates.ndim == 1 and rates.size >= 2 and (rates > 0).all() and help >= 0):
        raise ValueError(f"need customers >= 1, two or more rates > 0 and help >= 0, got {customers}, {rates}, {help}")
    M, total = rates.size, rates.sum() + help
    n = ring_states(customers, M)
    # The number that has n as digits is larger the later the state: that finds its row again.
    weights = (customers + 1) ** np.arange(M)[::-1]
    code = n @ weights
    moved = weights[(np.arange(M) + 1) % M] - weights
    busy = n > 0
    here = np.arange(len(n))
    after = np.where(busy, np.searchsorted(code, np.where(busy, code[:, None] + moved, code[:, None])), here[:, None])

    served = rates + help * np.eye(M)  # [action, station]
    prob = served * busy[:, None] / total  # [S, action, station]
    state = np.broadcast_to(np.append(after, here[:, None], axis=1)[:, None], (len(n), M, M + 1))
    return assemble(state, np.append(prob, 1 - prob.sum(-1, keepdims=True), axis=-1), prob[:, :, -1], gamma)


def ring_states(customers: int, stations: int) -> Int[np.ndarray, "S M"]:
    """Return all ways to queue up: the rows of numbers >= 0 that sum to `customers`, in lexicographic order."""
    n = np.zeros((1, 0), int)
    left = np.array([customers])
    for _ in range(stations - 1):
        row = np.repeat(np.arange(len(n)), left + 1)
        here = np.arange(row.size) - np.append(0, np.cumsum(left + 1))[row]
        n, left = np.column_stack([n[row], here]), left[row] - here
    return np.column_stack([n, left])

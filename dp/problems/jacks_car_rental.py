"""Jack's car rental: cars are moved overnight between two lots, so that few customers go away (Sutton and Barto, 2018,
example 4.2).

The state is the number of cars in each lot at the end of the day, at most 20: `n1 * 21 + n2`. Action a moves a - 5 cars
from the first lot to the second for 2 each. The next day X customers come, Poisson with mean 3 (first lot) and 4
(second), each of whom rents a car for 10 if there is one; then Y cars come back, Poisson with mean 3 and 2, and can be
rented from the day after. Cars beyond 20 in a lot are gone.

Nothing is truncated: `min(X, n)` and `min(n + Y, 20)` take the tails of the distributions into their last value.
"""

import numpy as np
import scipy
from jaxtyping import ArrayLike

from dp.dense import make_mdp
from dp.mdp import MDP

MOVES = np.arange(-5, 6)  # cars from the first lot to the second
MOST = 20


def jacks_car_rental(
    gamma: ArrayLike = 0.9,
    *,
    rent: float = 10.0,
    move_cost: float = 2.0,
    free_moves: int = 0,
    parking: int = 10,
    parking_cost: float = 0.0,
) -> MDP:
    """Return the MDP of Jack's car rental: 441 states, 11 actions; more cars than there are cannot be moved.

    free_moves: so many cars go from the first lot to the second for nothing. parking_cost: for each lot where more than
    `parking` cars stay overnight. Exercise 4.7 has free_moves=1 and parking_cost=4.
    Raises ValueError unless free_moves >= 0.
    """
    if free_moves < 0:
        raise ValueError(f"need free_moves >= 0, got {free_moves}")
    (P1, rented1), (P2, rented2) = lot(3.0, 3.0), lot(4.0, 2.0)
    n1, n2 = (n.ravel()[:, None] for n in np.indices((MOST + 1, MOST + 1)))
    allowed = (n1 >= MOVES) & (n2 >= -MOVES)
    m1, m2 = (np.clip(n, 0, MOST) for n in (n1 - MOVES, n2 + MOVES))  # [S, A], in the morning
    paid = np.where(MOVES > 0, np.maximum(MOVES - free_moves, 0), -MOVES)
    costs = move_cost * paid + parking_cost * ((m1 > parking).astype(int) + (m2 > parking))
    P = (P1[m1][:, :, :, None] * P2[m2][:, :, None, :]).reshape(n1.size, MOVES.size, -1)
    # Each row of two products sums to 1 within rounding only.
    return make_mdp(P / P.sum(-1, keepdims=True), rent * (rented1[m1] + rented2[m2]) - costs, gamma, mask=allowed)


def lot(requests: float, returns: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how a lot goes from morning to evening, `P[n, n']`, and how many cars it rents, `E[min(X, n)]`."""
    n = np.arange(MOST + 1)
    # rented[n, k] = P(min(X, n) = k), and back[m, n'] = P(min(m + Y, 20) = n').
    rented = np.where(n < n[:, None], exactly(n, requests), np.where(n == n[:, None], at_least(n, requests), 0))
    came = n - n[:, None]
    back = np.where(n < MOST, exactly(came, returns), at_least(came, returns))
    left = n[:, None] - n
    P = np.einsum("nk,nkm->nm", rented, back[np.maximum(left, 0)])
    return P, rented @ n


def at_least(n: np.ndarray, mean: float) -> np.ndarray:
    """Return the probability that a Poisson number is n or more."""
    return np.where(n <= 0, 1.0, scipy.special.pdtrc(np.maximum(n - 1, 0), mean))


def exactly(n: np.ndarray, mean: float) -> np.ndarray:
    """Return the probability that a Poisson number is n."""
    k = np.maximum(n, 0)
    return np.where(n < 0, 0.0, np.exp(scipy.special.xlogy(k, mean) - scipy.special.gammaln(k + 1) - mean))

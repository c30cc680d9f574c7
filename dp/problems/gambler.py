"""The gambler's problem: how much to stake on a coin until there is enough, or nothing (Sutton and Barto, 2018, 4.3).

The state is the capital 0, ..., goal; a stake is 1, ..., min(s, goal - s). Heads, with probability p, wins the stake,
tails loses it. 0 and the goal are terminal, and reaching the goal earns 1: without a discount, v_*(s) is the largest
probability of reaching it. Boldness is best for p <= 1/2 (Dubins and Savage, 1965): with p = 0.4, v_*(25) = 4/25,
v_*(50) = 2/5 and v_*(75) = 16/25; with p = 1/2 every policy is worth s / goal. For p > 1/2 it is best to be timid,
v_*(s) = (1 - x^s) / (1 - x^goal) with x = (1 - p) / p.
"""

import numpy as np
from jaxtyping import ArrayLike

from dp.mdp import MDP
from dp.sparse import from_choices


def gambler(p: float = 0.4, *, goal: int = 100, gamma: ArrayLike = 1.0) -> MDP:
    """Return the ragged MDP of the gambler: goal + 1 states, choice i of a state stakes i + 1.

    A stake of nothing, which the book allows, is left out: it changes no v_*, but a policy could wait for ever.
    Raises ValueError unless 0 <= p <= 1 and goal >= 2.
    """
    if not 0 <= p <= 1 or goal < 2:
        raise ValueError(f"need 0 <= p <= 1 and goal >= 2, got {p} and {goal}")
    capital = np.arange(goal + 1)
    stakes = np.minimum(capital, goal - capital)
    choices = np.concatenate([[0], np.cumsum(stakes)])
    s = np.repeat(capital, stakes)
    stake = np.arange(s.size) - choices[s] + 1
    return from_choices(
        data=np.tile([1 - p, p], s.size),
        indices=np.stack([s - stake, s + stake], axis=1).ravel(),
        indptr=2 * np.arange(s.size + 1),
        choices=choices,
        rewards=np.where(s + stake == goal, p, 0.0),
        gamma=gamma,
    )

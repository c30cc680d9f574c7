"""Bus engine replacement: Harold Zurcher keeps an engine, or replaces it (Rust, 1987).

The state is the mileage since the last replacement, in bins of 5,000 miles; actions keep (0) and replace (1). Every
month the mileage grows by 0, 1, 2, ... bins with the given probabilities; the last bin takes all that is beyond.

    keep      from bin x      reward -0.001 cost x
    replace   from bin 0      reward -replacement_cost

Each month Zurcher also sees a shock to the reward of each action, i.i.d. with the standard Gumbel distribution, that we
do not see. The expectation of the maximum is the soft one: the model is solved by

    dp.soft_policy_iteration(bus_engine(), temperature=1.0)

whose `policy[x, 1]` is the probability that he replaces at mileage x, and whose v is Rust's value function less Euler's
constant / (1 - γ), the mean of all the shocks (as if they had mean 0).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike

from dp.mdp import MDP
from dp.problems.assemble import assemble

KEEP, REPLACE = 0, 1


def bus_engine(
    bins: int = 90,
    *,
    gamma: ArrayLike = 0.9999,
    replacement_cost: float = 10.0750,
    cost: float = 2.2930,
    increments: Sequence[float] | np.ndarray = (0.3919, 0.5953, 0.0128),
) -> MDP:
    """Return the MDP of a bus engine, with Rust's estimates for bus group 4 and 90 bins (his table IX).

    cost: θ_11, increments: θ_3, the probabilities of 0, 1, 2, ... bins a month. Raises ValueError unless bins >= 1.
    """
    if bins < 1:
        raise ValueError(f"need bins >= 1, got {bins}")
    x, increments = np.arange(bins), np.asarray(increments, float)
    begin = np.stack([x, np.zeros_like(x)], axis=1)
    state = np.minimum(begin[:, :, None] + np.arange(increments.size), bins - 1)
    R = np.stack([-0.001 * cost * x, np.full(bins, -replacement_cost)], axis=1)
    return assemble(state, np.broadcast_to(increments, state.shape), R, gamma)

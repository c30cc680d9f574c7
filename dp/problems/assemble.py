"""One rule for all problems: few states make a dense model, many a sparse one."""

import numpy as np
from jaxtyping import ArrayLike

from dp import memory
from dp.dense import make_mdp
from dp.mdp import MDP
from dp.sparse import from_successors

DENSE = 1024  # states; with four actions P then takes 32 MB in float64, and solvers may factorise


def assemble(
    state: np.ndarray,
    prob: np.ndarray,
    R: np.ndarray,
    gamma: ArrayLike,
    *,
    mask: np.ndarray | None = None,
    terminal: np.ndarray | None = None,
    dense: bool | None = None,
) -> MDP:
    """Return the MDP that leads from (s, a) to `state[s, a, k]` with probability `prob[s, a, k]`; duplicates add up.

    dense: whether P is an array [S, A, S'] or `Successors`; None makes it an array for at most 1,024 states.
    The other arguments and the errors are those of `dp.from_successors`.
    """
    S, A, _ = state.shape
    if not (S <= DENSE if dense is None else dense):
        return from_successors(state, prob, R, gamma, mask=mask, terminal=terminal)
    memory.require(memory.dense(S * A * S, 8) + 8 * S * A * S, f"P of shape {[S, A, S]}", "dense=False is sparse")
    cell = np.arange(S * A).reshape(S, A, 1) * S + state
    P = np.bincount(cell.ravel(), np.broadcast_to(prob, state.shape).ravel(), S * A * S).reshape(S, A, S)
    return make_mdp(P, R, gamma, mask=mask, terminal=terminal)

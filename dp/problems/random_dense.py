"""Random dense MDPs: every state leads everywhere, at once or, in nearly closed blocks, after a long time."""

import numpy as np
from jaxtyping import ArrayLike

from dp import memory
from dp.dense import make_mdp
from dp.mdp import MDP


def random_dense(states: int, actions: int, *, gamma: ArrayLike, seed: int, blocks: int = 1, leak: float = 1e-4) -> MDP:
    """Return a random MDP with full rows of P, uniform before they are normalised, and standard normal rewards.

    blocks: with more than one, state s belongs to block s mod blocks, and the weight of every move to another block is
        multiplied by `leak` and by a uniform number of its action: the chains are nearly decomposable (Simon and Ando,
        1961) and mix slowly, so that value iteration needs about 1 / leak sweeps or 1 / (1 - γ).
    Raises ValueError unless states, actions, blocks >= 1 and 0 <= leak <= 1.
    """
    if not (states >= 1 and actions >= 1 and blocks >= 1 and 0 <= leak <= 1):
        raise ValueError(
            f"need states, actions, blocks >= 1, got {states}, {actions}, {blocks}; 0 <= leak <= 1: {leak}"
        )
    shape = states, actions, states
    numbers = states * actions * states
    memory.require(memory.dense(numbers, 8) + 8 * numbers, f"P of shape {list(shape)}", "dp.problems.garnet is sparse")
    rng = np.random.default_rng(seed)
    P = rng.random(shape)
    if blocks > 1:
        block = np.arange(states) % blocks
        away = block[:, None] != block[None, :]
        P *= np.where(away[:, None, :], leak * rng.random((states, actions, 1)), 1.0)
    return make_mdp(P / P.sum(-1, keepdims=True), rng.standard_normal((states, actions)), gamma)

"""MDPs built to break certificates.

Near-ties, rewards over twelve decades, discounts up to 0.9999, tiny probabilities, rows that sum to a little less or
more than one, terminal and forbidden states, starts that are far off, all-zero rewards, and fewer states or actions
than the arrays hold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

import dp

S, A = 6, 4


class Case(NamedTuple):
    """An MDP, any values v, a deterministic and a stochastic policy, a temperature; leaves of NumPy, ready to stack."""

    mdp: dp.MDP
    v: np.ndarray
    actions: np.ndarray
    pi: np.ndarray
    temperature: np.ndarray


def transitions(rng: np.random.Generator) -> np.ndarray:
    """Return transitions [S, A, S'], not normalised: dense, of few successors, cycles, or with tiny probabilities."""
    kind = rng.integers(5)
    P = rng.exponential(size=(S, A, S))
    if kind == 1:
        P *= rng.random((S, A, S)) < 0.35
    if kind == 2:
        P = np.eye(S)[rng.integers(S, size=(S, A))]
    if kind == 3:
        P = P**20
    if kind == 4:
        P = np.eye(S)[(np.arange(S)[:, None] + np.ones(A, int)) % S]
    empty = P.sum(-1) == 0
    P[empty] = np.eye(S)[rng.integers(S, size=empty.sum())]
    return P


def rewards(rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
    """Return rewards [S, A] between 1e-6 and 1e6, or 0."""
    scale = 10.0 ** rng.uniform(-6, 6)
    R = rng.normal(size=(S, A)) * scale
    kind = rng.integers(6)
    if kind == 1:
        R = rng.choice([-1, 1], size=(S, A)) * 10.0 ** rng.uniform(-6, 6, size=(S, A))
    if kind == 2:
        R = np.zeros((S, A))
    if kind == 3:
        R = np.full((S, A), scale)
    if kind == 4:  # an offset that swamps what differs
        R = np.full((S, A), 1e6) + rng.normal(size=(S, A))
    R = R.astype(dtype)
    if kind == 5:  # ties, but for units in the last place
        up_or_down = rng.choice([-1, 1], size=(S, A)).astype(dtype)
        R = np.nextafter(np.repeat(R[:, :1], A, axis=1), dtype.type(np.inf) * up_or_down)
    return R


def case(seed: int, dtype: str) -> Case:
    """Return the hostile MDP of this seed; float64 needs JAX's 64-bit mode."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng([seed, 8 * kind.itemsize])
    P, R = transitions(rng), rewards(rng, kind)
    if rng.random() < 0.3:  # the same action over and over, or nearly
        P = np.repeat(P[:, :1], A, axis=1) * (1 + 1e-7 * rng.random((S, A, S)) * rng.integers(2))
    mask = rng.random((S, A)) < (0.6 if rng.random() < 0.4 else 1.1)
    terminal = rng.random(S) < (0.3 if rng.random() < 0.4 else 0.0)
    if rng.random() < 0.2:  # fewer states; often one action
        terminal |= np.arange(S) >= rng.integers(1, S)
        mask &= np.arange(A) < rng.integers(1, A + 1)
    mask[np.arange(S), rng.integers(A, size=S)] = True
    # Probabilities of a narrower type sum to one only as well as that type can.
    P = (P / P.sum(-1, keepdims=True)).astype(np.float32 if rng.random() < 0.5 else kind)
    thin = rng.random() < 0.4
    if thin:
        kept = rng.choice([rng.random((S, A, 1)), 1 - 1e-6 * rng.random((S, A, 1)), np.full((S, A, 1), 0.5)])
        P = (P * kept).astype(P.dtype)
    gamma = rng.choice([0.0, 1e-3, 0.5, 0.9, 0.99, 0.999, 0.9999, rng.random()])
    mdp = dp.make_mdp(P, R, gamma, mask=mask, terminal=terminal, substochastic=thin)

    allowed = np.ones((S, A), bool) if mdp.mask is None else np.asarray(mdp.mask)
    v = rng.choice([0.0, 1.0]) * rng.normal(size=S) * 10.0 ** rng.uniform(-8, 12)
    weight = allowed * rng.choice([np.ones((S, A)), rng.random((S, A)), rng.random((S, A)) ** 30])
    return Case(
        mdp=jax.tree.map(np.asarray, mdp._replace(mask=allowed)),
        v=v.astype(kind),
        actions=np.array([rng.choice(np.flatnonzero(row)) for row in allowed]),
        pi=(weight / weight.sum(1, keepdims=True)).astype(kind),
        temperature=np.asarray((np.abs(R).max() or 1.0) * 10.0 ** rng.uniform(-6, 1), kind),
    )


def stack(cases: Sequence[Case]) -> Case:
    """Return the cases as one, with a leading axis on every array."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *cases)

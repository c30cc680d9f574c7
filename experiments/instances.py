"""The MDPs on which solvers are timed, as plain NumPy tables that any library can be given; and what proves an answer.

a    dense, random rows: mixes at once          a2   20 nearly closed blocks: mixes slowly
b    garnet, 100,000 states, 10 x 10            c    garnet, a million states, 4 x 4
d    300 x 300 grid with slip and a goal        d2   the same grid, starting again at the goal: nearly periodic
e    the forest of three ages
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import bicgstab, splu


class Tables(NamedTuple):
    """R [S, A], gamma, and either P [S, A, S] or lists of successors: state and prob [S, A, K]."""

    R: np.ndarray
    gamma: float
    P: np.ndarray | None = None
    state: np.ndarray | None = None
    prob: np.ndarray | None = None


class Instance(NamedTuple):
    """What it is, its tables at full and at small size, and whether elimination on its chains stays sparse."""

    title: str
    full: Callable[[], Tables]
    small: Callable[[], Tables]
    eliminate: bool = True


def dense(states: int, actions: int, gamma: float, seed: int, *, blocks: int = 1, leak: float = 1e-4) -> Tables:
    """Return uniform rows of P, normalised. With blocks, moves to another block weigh `leak` times a number an action.

    Not `dp.problems.random_dense`, which returns a model of ours: the peers shall not need JAX.
    """
    rng = np.random.default_rng(seed)
    P = rng.random((states, actions, states))
    if blocks > 1:
        block = np.arange(states) % blocks
        away = block[:, None] != block[None, :]
        P *= np.where(away[:, None, :], leak * rng.random((states, actions, 1)), 1.0)
    P /= P.sum(-1, keepdims=True)
    return Tables(rng.standard_normal((states, actions)), gamma, P=P)


def garnet(states: int, actions: int, successors: int, gamma: float, seed: int) -> Tables:
    """Return so many distinct successors for each (s, a); uniform cuts of [0, 1] make the probabilities."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, states, size=(states, actions, successors), dtype=np.int32)
    while True:
        order = np.sort(state, axis=-1)
        twice = (order[..., 1:] == order[..., :-1]).any(-1)
        if not twice.any():
            break
        state[twice] = rng.integers(0, states, size=(twice.sum(), successors), dtype=np.int32)
    state.sort(axis=-1)
    cuts = np.sort(rng.random((states, actions, successors - 1)), axis=-1)
    edge = np.zeros((states, actions, 1))
    prob = np.diff(np.concatenate([edge, cuts, edge + 1], axis=-1))
    return Tables(rng.standard_normal((states, actions)), gamma, state=state, prob=prob)


def grid(side: int, gamma: float, *, slip: float = 0.1, restart: bool = False) -> Tables:
    """Return a square grid: four moves that may slip to either side, walls that stop, reward 1 a step in the last cell.

    The last cell is left never, or, with restart, for the first one.
    """
    cells = side * side
    moves, sideways = [(-1, 0), (1, 0), (0, -1), (0, 1)], [(2, 3), (2, 3), (0, 1), (0, 1)]
    row, column = np.divmod(np.arange(cells), side)
    reached = np.stack(
        [np.clip(row + r, 0, side - 1) * side + np.clip(column + c, 0, side - 1) for r, c in moves], axis=1
    )
    state, prob = np.empty((cells, 4, 3), np.int32), np.empty((cells, 4, 3))
    for a, (left, right) in enumerate(sideways):
        state[:, a] = reached[:, [a, left, right]]
        prob[:, a] = [1 - slip, slip / 2, slip / 2]
    state[-1], prob[-1] = (0 if restart else cells - 1), [1.0, 0.0, 0.0]
    R = np.zeros((cells, 4))
    R[-1] = 1.0
    return Tables(R, gamma, state=state, prob=prob)


def forest(states: int, gamma: float) -> Tables:
    """Return the forest of `dp.problems.forest`: wait, or cut; a fire with probability 0.1 a year."""
    P, R, age = np.zeros((states, 2, states)), np.zeros((states, 2)), np.arange(states)
    P[age, 0, np.minimum(age + 1, states - 1)] = 0.9
    P[:, 0, 0] += 0.1
    P[:, 1, 0] = 1.0
    R[1:, 1] = 1.0
    R[-1] = 4.0, 2.0
    return Tables(R, gamma, P=P)


INSTANCES = {
    "a": Instance("dense", lambda: dense(1000, 10, 0.99, 0), lambda: dense(60, 4, 0.99, 0)),
    "a2": Instance(
        "nearly closed blocks",
        lambda: dense(1000, 10, 0.999, 3, blocks=20),
        lambda: dense(60, 4, 0.999, 3, blocks=5),
    ),
    "b": Instance(
        "garnet",
        lambda: garnet(100_000, 10, 10, 0.99, 1),
        lambda: garnet(300, 4, 5, 0.99, 1),
        eliminate=False,
    ),
    "c": Instance(
        "garnet",
        lambda: garnet(1_000_000, 4, 4, 0.95, 2),
        lambda: garnet(1000, 4, 4, 0.95, 2),
        eliminate=False,
    ),
    "d": Instance("grid with a goal", lambda: grid(300, 0.999), lambda: grid(8, 0.999)),
    "d2": Instance(
        "grid that restarts",
        lambda: grid(300, 0.999, restart=True),
        lambda: grid(8, 0.999, restart=True),
    ),
    "e": Instance("forest", lambda: forest(3, 0.9), lambda: forest(3, 0.9)),
}


def describe(name: str, tables: Tables) -> str:
    """Return its title, size and discount, in a few words."""
    S, A = tables.R.shape
    slots = "" if tables.prob is None else f", K {tables.prob.shape[-1]}"
    return f"{INSTANCES[name].title}, S {S:,}, A {A}{slots}, γ {tables.gamma:g}"


def save(tables: Tables, folder: Path) -> None:
    """Write one .npy file per table."""
    folder.mkdir(parents=True)
    for name, table in tables._asdict().items():
        if table is not None:
            np.save(folder / f"{name}.npy", table)


def load(folder: Path) -> Tables:
    """Read what `save` wrote."""
    tables = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    return Tables(tables["R"], float(tables["gamma"]), *(tables.get(name) for name in ("P", "state", "prob")))


def pairs(tables: Tables) -> sp.csr_array:
    """Return P as a sparse matrix [S A, S]: no zeros, nothing twice."""
    S, A = tables.R.shape
    if tables.P is not None:
        return sp.csr_array(tables.P.reshape(S * A, S))
    assert tables.state is not None and tables.prob is not None
    K = tables.prob.shape[-1]
    begin = np.arange(0, S * A * K + 1, K, dtype=np.int32)
    matrix = sp.csr_array((tables.prob.flatten(), tables.state.flatten(), begin), shape=(S * A, S))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def action_values(tables: Tables, matrix: sp.csr_array, v: np.ndarray) -> np.ndarray:
    """`q(s, a) = R(s, a) + γ Σ_s' p(s'|s, a) v(s')`, in scipy."""
    return tables.R + tables.gamma * (matrix @ v).reshape(tables.R.shape)


def residual(tables: Tables, matrix: sp.csr_array, v: np.ndarray) -> float:
    """`max |T v - v|`: the error of v is at most γ / (1 - γ) times it for T v, and 1 / (1 - γ) times it for v."""
    return float(np.abs(action_values(tables, matrix, v).max(1) - v).max())


def reference(tables: Tables, matrix: sp.csr_array, v: np.ndarray, *, eliminate: bool) -> tuple[np.ndarray, float]:
    """Improve and evaluate policies in scipy until nothing changes; return the values and a bound of their error.

    It may start from anybody's values: the bound is `max |T v - v| / (1 - γ)` of what it ends with.
    """
    S, A = tables.R.shape
    best = found = v
    bound, policy = residual(tables, matrix, v) / (1 - tables.gamma), action_values(tables, matrix, v).argmax(1)
    for _ in range(20):
        row = np.arange(S) * A + policy
        chain, r = matrix[row], tables.R.reshape(-1)[row]
        solve = (
            splu(sp.csc_array(sp.eye_array(S) - tables.gamma * chain)).solve if eliminate else _krylov(chain, tables)
        )
        # What rounding left of an answer is the right-hand side of the next.
        for _ in range(3):
            found = found + solve(r + tables.gamma * (chain @ found) - found)
        q = action_values(tables, matrix, found)
        error = float(np.abs(q.max(1) - found).max()) / (1 - tables.gamma)
        if error < bound:
            best, bound = found, error
        improved = np.where(q[np.arange(S), policy] < q.max(1), q.argmax(1), policy)
        if (improved == policy).all():
            break
        policy = improved
    return best, bound


def _krylov(chain: sp.csr_array, tables: Tables) -> Callable[[np.ndarray], np.ndarray]:
    system = sp.csr_array(sp.eye_array(len(tables.R)) - tables.gamma * chain)
    return lambda b: bicgstab(system, b, rtol=1e-8, atol=0.0, maxiter=300)[0]

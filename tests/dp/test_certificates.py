"""Every certificate against exact rational arithmetic on the stored floats: `lower <= v <= upper`, as fractions.

The MDPs are built to break them: near-ties, rewards over twelve decades, discounts up to 0.9999, tiny probabilities,
missing mass, terminal and forbidden states, all-zero rewards, and fewer states or actions than the arrays hold.
"""

from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np
import pytest

import dp

S, A = 5, 3
BATCH = 50
DTYPES = [np.float32, np.float64]


class Case(NamedTuple):
    """An MDP, any values v, a deterministic and a stochastic policy; leaves of NumPy, ready to stack."""

    mdp: dp.MDP
    v: np.ndarray
    actions: np.ndarray
    pi: np.ndarray


class Answers(NamedTuple):
    """All that has a certificate: on v_* (and on the policy greedy in v), on the actions, on the stochastic policy."""

    optimal: dict
    greedy: jax.Array
    of_actions: dict
    of_pi: dict


# Instances


def rows(rng: np.random.Generator) -> np.ndarray:
    """Unnormalised transitions [S, A, S]: dense, of few successors, cycles, or with tiny probabilities."""
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


def rewards(rng: np.random.Generator, dtype: type) -> np.ndarray:
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
        R = np.nextafter(np.repeat(R[:, :1], A, axis=1), dtype(np.inf) * rng.choice([-1, 1], size=(S, A)).astype(dtype))
    return R


def case(seed: int, dtype: type) -> Case:
    rng = np.random.default_rng([seed, np.finfo(dtype).bits])
    P, R = rows(rng), rewards(rng, dtype)
    if rng.random() < 0.3:  # the same action three times over, or nearly
        P = np.repeat(P[:, :1], A, axis=1) * (1 + 1e-7 * rng.random((S, A, S)) * rng.integers(2))
    mask = rng.random((S, A)) < (0.6 if rng.random() < 0.4 else 1.1)
    terminal = rng.random(S) < (0.3 if rng.random() < 0.4 else 0.0)
    if rng.random() < 0.2:  # one to four states; often one action
        terminal |= np.arange(S) >= rng.integers(1, S)
        mask &= np.arange(A) < rng.integers(1, A + 1)
    mask[np.arange(S), rng.integers(A, size=S)] = True
    P = (P / P.sum(-1, keepdims=True)).astype(dtype)
    thin = rng.random() < 0.4
    if thin:
        kept = rng.choice([rng.random((S, A, 1)), 1 - 1e-6 * rng.random((S, A, 1)), np.full((S, A, 1), 0.5)])
        P = (P * kept).astype(dtype)
    gamma = rng.choice([0.0, 1e-3, 0.5, 0.9, 0.99, 0.999, 0.9999, rng.random()])
    mdp = dp.make_mdp(P, R, gamma, mask=mask, terminal=terminal, substochastic=thin)

    allowed = np.ones((S, A), bool) if mdp.mask is None else np.asarray(mdp.mask)
    v = rng.choice([0.0, 1.0]) * rng.normal(size=S) * 10.0 ** rng.uniform(-8, 12)
    weight = allowed * rng.choice([np.ones((S, A)), rng.random((S, A)), rng.random((S, A)) ** 30])
    return Case(
        mdp=jax.tree.map(np.asarray, mdp._replace(mask=allowed)),
        v=v.astype(dtype),
        actions=np.array([rng.choice(np.flatnonzero(row)) for row in allowed]),
        pi=(weight / weight.sum(1, keepdims=True)).astype(dtype),
    )


@jax.jit
@jax.vmap
def answers(mdp: dp.MDP, v: jax.Array, actions: jax.Array, pi: jax.Array) -> Answers:
    return Answers(
        optimal={
            "value iteration": dp.value_iteration(mdp, v, max_iters=2000),
            "policy iteration": dp.policy_iteration(mdp, actions),
            "modified": dp.policy_iteration(mdp, actions, v, sweeps=4, max_iters=500),
            "unfinished": dp.value_iteration(mdp, v, max_iters=3),
            "bounds": dp.bounds(mdp, v),
        },
        greedy=dp.greedy(mdp, v),
        of_actions={
            "sweeps": dp.evaluate(mdp, actions, v, method="sweeps", max_iters=500),
            "bounds": dp.bounds(mdp, v, actions),
        },
        of_pi={
            "direct": dp.evaluate(mdp, pi),
            "sweeps": dp.evaluate(mdp, pi, v, method="sweeps", max_iters=500),
            "bounds": dp.bounds(mdp, v, pi),
        },
    )


def stack(trees: list) -> tuple:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def solve_all(cases: list[Case]) -> Answers:
    """In batches of one size: one compilation serves all of them."""
    batches = [answers(*stack(cases[n : n + BATCH])) for n in range(0, len(cases), BATCH)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)


# Exact arithmetic: NumPy over fractions


def fractions(x: np.ndarray) -> np.ndarray:
    """The exact values of floats; infinities stay floats, which compare with fractions as they should."""
    return np.vectorize(lambda f: Fraction(f) if np.isfinite(f) else f, otypes=[object])(np.asarray(x, np.float64))


def solve(M: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Gaussian elimination over the rationals."""
    M, b = M.copy(), b.copy()
    for k in range(len(b)):
        pivot = k + int(np.argmax(M[k:, k] != 0))
        M[[k, pivot]], b[[k, pivot]] = M[[pivot, k]], b[[pivot, k]]
        for i in range(len(b)):
            if i != k and M[i, k] != 0:
                factor = M[i, k] / M[k, k]
                M[i, k:] -= factor * M[k, k:]
                b[i] -= factor * b[k]
    return b / np.diag(M)


def value(mdp: dp.MDP, pi: np.ndarray) -> np.ndarray:
    """v_π of a policy: actions [S], or fractions [S, A]."""
    if pi.ndim == 1:
        pi = fractions(np.eye(A)[pi])
    P, r = (pi[:, :, None] * mdp.P).sum(1), (pi * mdp.R).sum(1)
    return solve(fractions(np.eye(S)) - mdp.gamma * P, r)


def optimal(mdp: dp.MDP, actions: np.ndarray) -> np.ndarray:
    """v_* by policy iteration from any policy; in exact arithmetic it ends, and at the optimum."""
    while True:
        v = value(mdp, actions)
        q = np.where(mdp.mask, mdp.R + mdp.gamma * (mdp.P @ v), -np.inf)
        better = q.max(1) > q[np.arange(S), actions]
        if not better.any():
            return v
        actions = np.where(better, q.argmax(1), actions)


# The claims


def policies(answers: Answers) -> dict[str, np.ndarray]:
    """The policies whose own value lies above `lower` too."""
    found = {name: answer.policy for name, answer in answers.optimal.items() if isinstance(answer, dp.Solution)}
    return found | {"bounds": answers.greedy}


def assert_encloses(answer: dp.Solution | dp.Bounds, v: np.ndarray, place: str) -> None:
    assert (fractions(answer.lower) <= v).all(), f"lower > v: {place}"
    assert (v <= fractions(answer.upper)).all(), f"v > upper: {place}"


def assert_keeps_its_word(solution: dp.Solution, v: np.ndarray, tol: float, place: str) -> None:
    """`converged` promises that the gap met tol, and that v is within half of it."""
    if solution.converged:
        gap = fractions(solution.upper) - fractions(solution.lower)
        assert gap.max() <= Fraction(tol), f"gap {float(gap.max())} > {tol}: {place}"
        assert abs(fractions(solution.v) - v).max() <= Fraction(tol) / 2, f"error above tol / 2: {place}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_enclose_the_exact_values(num, dtype):
    cases = [case(seed, dtype) for seed in range(num)]
    tol = 1e-6 if dtype == np.float64 else float(np.float32(1e-3))
    solved = solve_all(cases)
    converged = finite = solutions = 0
    for n, (mdp, _, actions, pi) in enumerate(cases):
        mdp = dp.MDP(fractions(mdp.P), fractions(mdp.R), Fraction(float(mdp.gamma)), mdp.mask)
        here = jax.tree.map(lambda x, n=n: x[n], solved)
        v_star = optimal(mdp, here.optimal["policy iteration"].policy)
        for truth, those in [
            (v_star, here.optimal),
            (value(mdp, actions), here.of_actions),
            (value(mdp, fractions(pi)), here.of_pi),
        ]:
            for name, answer in those.items():
                place = f"{name}, case {n}"
                assert_encloses(answer, truth, place)
                if isinstance(answer, dp.Solution):
                    assert answer.v.dtype == answer.lower.dtype == dtype
                    assert_keeps_its_word(answer, truth, tol, place)
                    converged += answer.converged
                    finite += np.isfinite(answer.lower).all()
                    solutions += 1
        values = {v_policy: value(mdp, np.array(v_policy)) for v_policy in {tuple(p) for p in policies(here).values()}}
        for name, policy in policies(here).items():
            lower = fractions(here.optimal[name].lower)
            assert (values[tuple(policy)] >= lower).all(), f"v_π < lower: {name}, case {n}"
    # The bounds would be right, and useless, if they were always infinite.
    assert finite == solutions
    assert converged > 0.4 * solutions

"""Exact values of policies and MDPs whose numbers are floats: rational arithmetic, and what certificates claim in it.

A float is an integer over a power of two. With integers K and R, `γ P = K / one` and `rewards = R / unit`, the value of
a policy with weights `π = w / whole` solves a system of integers, by elimination without fractions (Bareiss 1968):

    (whole one I - Σ_a w K) y = Σ_a w R,      v_π = y one / unit
"""

import math
from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np

import dp


class Model(NamedTuple):
    """An MDP in integers (arrays of Python's): `γ P = K / one`, [S, A, S']; rewards `R / unit`, [S, A]; mask [S, A]."""

    K: np.ndarray
    one: int
    R: np.ndarray
    unit: int
    mask: np.ndarray


def integers(floats: np.ndarray) -> tuple[np.ndarray, int]:
    """Return integers and the power of two to divide them by."""
    ratios = [x.as_integer_ratio() for x in floats.ravel().tolist()]
    scale = max(denominator for _, denominator in ratios)
    found = np.array([n * (scale // d) for n, d in ratios], object)
    return found.reshape(floats.shape), scale


def fractions(floats: np.ndarray | jax.Array) -> np.ndarray:
    """Return the same numbers as fractions; infinities and NaN stay floats, which compare as they should."""
    floats = np.asarray(floats)
    numbers = [Fraction(x) if np.isfinite(x) else x for x in floats.ravel().tolist()]
    return np.array(numbers, object).reshape(floats.shape)


def model(mdp: dp.MDP) -> Model:
    """Return the stored numbers of an MDP, not rounded again."""
    P, scale = integers(np.asarray(mdp.P))
    gamma, more = float(mdp.gamma).as_integer_ratio()
    mask = np.ones(mdp.R.shape, bool) if mdp.mask is None else np.asarray(mdp.mask)
    return Model(gamma * P, scale * more, *integers(np.asarray(mdp.R)), mask)


def solve(M: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, int] | None:
    """Return integers y and d with `M y = d b`, for `M = c (I - Q)`, Q >= 0; None unless `(I - Q)^{-1} = Σ_k Q^k`.

    The pivots are the leading principal minors of M: all are positive where it is an M-matrix, and only there.
    Source: Bareiss (1968); Berman and Plemmons (1994), theorem 6.2.3.
    """
    Mb, before = np.column_stack([M, b]), 1
    for k in range(len(b)):
        pivot = Mb[k, k]
        if pivot <= 0:
            return None
        others = np.arange(len(b)) != k
        Mb[others] = (pivot * Mb[others] - Mb[others, k, None] * Mb[k]) // before
        before = pivot
    return Mb[:, -1], before


def _evaluate(model: Model, pi: np.ndarray) -> tuple[np.ndarray, int] | None:
    """Return y and d with `v_π = y one / (d unit)`."""
    S, A = model.R.shape
    w, whole = integers(np.eye(A)[pi] if pi.ndim == 1 else pi)
    I = np.eye(S, dtype=int).astype(object)
    return solve(whole * model.one * I - (w[:, :, None] * model.K).sum(1), (w * model.R).sum(1))


def value(model: Model, pi: np.ndarray) -> np.ndarray | None:
    """Return v_π of a policy, actions [S] or floats [S, A], as fractions; None where Σ_k (γ P_π)^k diverges."""
    solution = _evaluate(model, pi)
    if solution is None:
        return None
    y, d = solution
    return np.array([Fraction(n * model.one, d * model.unit) for n in y], object)


def optimal(model: Model, actions: np.ndarray) -> np.ndarray | None:
    """Return v_* by policy iteration from any policy: in exact arithmetic it ends, and at the optimum."""
    states = np.arange(len(actions))
    while (solution := _evaluate(model, actions)) is not None:
        y, d = solution
        # q(s, a) d unit, in integers
        q = np.where(model.mask, d * model.R + model.K @ y, -np.inf)
        better = q.max(1) > q[states, actions]
        if not better.any():
            return value(model, actions)
        actions = np.where(better, q.argmax(1), actions)


def most_entropy(model: Model, temperature: Fraction) -> Fraction:
    """Return at least `τ log A / (1 - ρ)`, ρ = max γ Σ_s' p(s'|s,a): entropy adds no more to a discounted value."""
    rho = Fraction(max(model.K.sum(2)[model.mask]), model.one)
    return temperature * Fraction(math.nextafter(math.log(model.R.shape[1]), math.inf)) / (1 - rho)


class Answer(NamedTuple):
    """What a certificate speaks of: `lower <= value <= upper`, [S]; v is the middle. policy: [S], or None if given."""

    lower: np.ndarray | jax.Array
    v: np.ndarray | jax.Array
    upper: np.ndarray | jax.Array
    converged: np.ndarray | jax.Array
    policy: np.ndarray | jax.Array | None


class Truth(NamedTuple):
    """Fractions between which the value lies, [S]; equal where it is known."""

    least: np.ndarray
    most: np.ndarray


def broken_claims(answer: Answer, truth: Truth | None, of_policy: np.ndarray | None, tol: float) -> list[str]:
    """Return the claims of an answer that are false; truth is None where there is no finite value to enclose.

    of_policy: the value of the policy that comes with the answer: it must lie above `lower` too.
    """
    lower, v, upper = fractions(answer.lower), fractions(answer.v), fractions(answer.upper)
    if truth is None:
        infinite = (lower == -np.inf).all() and (upper == np.inf).all()
        return [] if infinite else ["infinite bounds where there is no value"]
    half = Fraction(tol) / 2
    with np.errstate(invalid="ignore"):  # what is compared with NaN is false
        claims = {
            "lower <= value": (lower <= truth.most).all(),
            "value <= upper": (truth.least <= upper).all(),
            "lower <= value of the policy": of_policy is None or (lower <= of_policy).all(),
            "upper - lower <= tol": not answer.converged or (upper - lower <= 2 * half).all(),
            "|v - value| <= tol / 2": not answer.converged
            or ((v - half <= truth.most) & (truth.least <= v + half)).all(),
        }
    return [claim for claim, holds in claims.items() if not holds]


def bounded(answer: Answer) -> bool:
    """Whether the bounds are finite."""
    return bool(np.isfinite(answer.lower).all() and np.isfinite(answer.upper).all())


def tightness(answer: Answer, truth: Truth) -> tuple[float, float]:
    """Return `max|v - value| / (gap / 2)` and `gap / the largest distance of a bound`; NaN where they say nothing."""
    if truth.least is not truth.most or not bounded(answer):
        return np.nan, np.nan
    lower, v, upper = fractions(answer.lower), fractions(answer.v), fractions(answer.upper)
    gap, error = (upper - lower).max(), abs(v - truth.least).max()
    distance = max((upper - truth.least).max(), (truth.least - lower).max())
    return (float(2 * error / gap), float(gap / distance)) if gap > 0 else (np.nan, np.nan)

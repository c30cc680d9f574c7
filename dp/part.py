"""The rows of some of the states, checked at the door; errors name states by their number in the whole model."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from dp.validation import array, cast, check_masses, flags, floats, host, rounding_slack


def checked_rows(given: Iterable[Any], first: int, n: int, S: int, *, thin: bool) -> tuple[np.ndarray, ...]:
    """Check the rows of n states, from `first` on, as `dp.from_successors` does: state, prob, R and mask."""
    if not 3 <= len(given := list(given)) <= 5:
        raise ValueError(f"rows must return (state, prob, R), mask and terminal after them, got {len(given)} things")
    state, prob, R, mask, terminal = [*given, None, None][:5]
    where = f"of states {first} to {first + n - 1}"
    prob, R = host(prob, "prob"), host(R, "R")
    slack = rounding_slack(prob.dtype)
    prob, R = floats(prob, R)
    if prob.ndim != 3 or len(prob) != n or not prob.size:
        raise ValueError(f"prob {where} must have shape [{n}, A, K], none of them 0, got {list(prob.shape)}")
    rows = prob.shape[:2]
    state = array(state, "state")
    if state.shape != prob.shape or state.dtype.kind not in "iu":
        raise ValueError(
            f"state {where} must be integers in the shape of prob, {list(prob.shape)}, got {state.dtype} with "
            f"{list(state.shape)}"
        )
    if R.shape not in (rows, (n,)):
        raise ValueError(f"R {where} must have shape {list(rows)} or {[n]} to fit prob, got {list(R.shape)}")
    ended = flags(terminal, (n,), f"terminal {where}", default=False)
    allowed = flags(mask, rows, f"mask {where}", default=True) | ended[:, None]
    read = allowed & ~ended[:, None]
    prob, state = np.where(read[:, :, None], prob, 0), np.where(read[:, :, None], state, 0)
    R = np.where(read, R if R.ndim == 2 else R[:, None], 0)

    _refuse(~np.isfinite(prob), prob, "prob", first, "is not finite")
    _refuse(prob < 0, prob, "prob", first, "is a negative probability")
    _refuse((state < 0) | (state >= S), state, "state", first, f"must lie between 0 and {S - 1}")
    _refuse(~np.isfinite(R), R, "R", first, "is not finite")
    if not allowed.any(1).all():
        raise ValueError(f"state {first + int(np.argmin(allowed.any(1)))} has no allowed action in mask")
    hint = "terminal and substochastic= allow missing mass"
    name = lambda at: f"P[{first + at[0]}, {at[1]}]"  # noqa: E731
    check_masses(prob.sum(-1), slack, read=read, thin=thin, hint=hint, name=name)
    dtype = jax.dtypes.canonicalize_dtype(prob.dtype)
    slots = (np.ascontiguousarray(np.moveaxis(x, -1, 0)) for x in (state.astype(np.int32), prob.astype(dtype)))
    return *slots, cast(R, dtype), allowed


def _refuse(wrong: Bool[np.ndarray, "..."], x: np.ndarray, name: str, first: int, what: str) -> None:
    """Raise ValueError for the first number that is wrong, under the number that its state has in the whole."""
    if wrong.any():
        at = np.argwhere(wrong)[0]
        number = x[tuple(at)]
        at[0] += first
        raise ValueError(f"{name}{at.tolist()} = {number:.10g} {what}")

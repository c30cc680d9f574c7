"""The numbers of a model are checked once, on the host, where they enter: what is wrong, where, and what it says."""

from collections.abc import Callable

import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike, Bool, Float


def host(x: ArrayLike, name: str) -> np.ndarray:
    """Return real numbers as a NumPy array; ValueError for anything else."""
    x = array(x, name)
    if x.dtype.kind not in "biuf" or x.dtype == np.float16:
        raise ValueError(f"{name} must be an array of integers, float32 or float64, got {x.dtype}")
    return x


def floats(*arrays: np.ndarray) -> list[np.ndarray]:
    """Bring arrays to their common float dtype; integers follow the floats, and alone become JAX's default float."""
    dtype = np.result_type(*([x.dtype for x in arrays if x.dtype.kind == "f"] or [np.float64]))
    return [x.astype(dtype, copy=False) for x in arrays]


def array(x: ArrayLike, name: str) -> np.ndarray:
    """Return anything that is no tracer as a NumPy array."""
    if isinstance(x, Tracer):
        raise ValueError(f"{name} is traced: values are checked on the host. Inside jit, build dp.MDP(P, R, gamma)")
    if hasattr(x, "tocsr"):
        raise ValueError(
            f"{name} is a sparse matrix of scipy: dp.from_choices takes its data, indices and indptr, and "
            "dp.formats.from_mdptoolbox a list of such matrices, one for each action"
        )
    try:
        return np.asarray(x)
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name} must be an array of real numbers or booleans: {error}") from None


def flags(x: ArrayLike | None, shape: tuple[int, ...], name: str, *, default: bool) -> np.ndarray:
    """Return booleans of that shape, all equal to the default where x is None."""
    if x is None:
        return np.full(shape, default)
    x = array(x, name)
    if x.shape != shape or x.dtype != np.bool_:
        raise ValueError(f"{name} must be boolean with shape {list(shape)}, got {x.dtype} with {list(x.shape)}")
    return x


def check_actions(
    mask: ArrayLike | None, terminal: ArrayLike | None, shape: tuple[int, int]
) -> tuple[Bool[np.ndarray, "S A"], Bool[np.ndarray, " S"]]:
    """Return which actions are allowed, all of them where the episode has ended, and where that is.

    ValueError, naming the state, where none is allowed.
    """
    ended = flags(terminal, shape[:1], "terminal", default=False)
    allowed = flags(mask, shape, "mask", default=True) | ended[:, None]
    if not allowed.any(1).all():
        raise ValueError(f"state {int(np.argmin(allowed.any(1)))} has no allowed action in mask")
    return allowed, ended


def check_indices(x: ArrayLike, name: str, below: int, hint: str = "") -> np.ndarray:
    """Return integers in [0, below) as int64; ValueError naming the first that is not."""
    x = array(x, name)
    if x.dtype.kind not in "iu":
        raise ValueError(f"{name} must be an array of integers, got {x.dtype}")
    if x.size and (x.min() < 0 or x.max() >= below):
        where = np.argwhere((x < 0) | (x >= below))[0].tolist()
        raise ValueError(f"{name}{where} = {x[tuple(where)]} must lie between 0 and {below - 1}{hint}")
    return x


def check_gamma(gamma: ArrayLike) -> np.ndarray:
    """Return a discount rate; ValueError unless it is one number in [0, 1]."""
    gamma = host(gamma, "gamma")
    if gamma.shape != ():
        raise ValueError(f"gamma must be a scalar, got shape {list(gamma.shape)}; for many discounts, vmap over it")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {float(gamma):.10g}")
    return gamma


def check_finite(x: np.ndarray, name: str) -> None:
    """Raise ValueError, naming the first number that is not finite."""
    if not np.isfinite(x).all():
        where = np.argwhere(~np.isfinite(x))[0].tolist()
        raise ValueError(f"{name}{where} = {x[tuple(where)]} is not finite")


def check_probabilities(p: np.ndarray, name: str) -> None:
    """Raise ValueError, naming the first number that is not finite or negative."""
    check_finite(p, name)
    if (p < 0).any():
        where = np.argwhere(p < 0)[0].tolist()
        raise ValueError(f"{name}{where} = {p[tuple(where)]:.10g} is a negative probability")


def cast(R: ArrayLike, dtype: np.dtype) -> np.ndarray:
    """Return rewards in the dtype of the model; ValueError, naming the first that it cannot hold."""
    with np.errstate(over="ignore"):
        rewards = np.asarray(R).astype(dtype, copy=False)
    check_finite(rewards, f"R, in {dtype},")
    return rewards


def rounding_slack(dtype: np.dtype) -> float:
    """Return by how much the sum of a row may miss 1: a float32 row sums to 1 within float32's rounding."""
    return max(1e-8, 100 * float(np.finfo(dtype).eps)) if dtype.kind == "f" else 1e-8


def check_masses(
    total: Float[np.ndarray, "*rows"],
    slack: float,
    *,
    read: Bool[np.ndarray, "*rows"] | bool,
    thin: bool,
    hint: str,
    name: Callable[[list[int]], str] = lambda row: f"P{row}",
) -> None:
    """Raise ValueError, naming the row, where probabilities that are read do not sum to 1; thin: or to less."""
    wrong = read & ((total > 1 + slack) if thin else (np.abs(total - 1) > slack))
    if wrong.any():
        row = np.argwhere(wrong)[0].tolist()
        found = total[tuple(row)]
        off = abs(found - 1)
        hint = "" if thin or found > 1 else f" ({hint})"
        if off < 1e-3:  # rounding, not a typo
            hint = f": off by {off:.2g}, {slack:.2g} is allowed; divide P by P.sum(-1, keepdims=True)"
        raise ValueError(f"{name(row)} sums to {found:.10g}, not to 1{hint}")

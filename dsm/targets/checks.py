"""What the constructors of targets ask of their arguments, once and on the host."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def floating_dtype(*arguments):
    """The dtype of the first argument that has a floating one, else JAX's default."""
    dtypes = (jax.dtypes.canonicalize_dtype(getattr(a, "dtype", int)) for a in arguments)
    return next((d for d in dtypes if jnp.issubdtype(d, jnp.floating)), jax.dtypes.canonicalize_dtype(float))


def positive(name: str, value, *, or_zero: bool = False) -> float:
    """`value` as a float. Raises ValueError unless it is one finite number > 0 (or >= 0)."""
    if np.ndim(value) != 0:
        raise ValueError(f"{name} has shape {np.shape(value)}, not ()")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{name} = {number}: it must be finite")
    if number < 0 or (number == 0 and not or_zero):
        raise ValueError(f"{name} = {number}: it must {'not be negative' if or_zero else 'be positive'}")
    return number


def finite_array(name: str, value, shape: tuple[int, ...], *, positive: bool = False) -> np.ndarray:
    """`value` spread to `shape`, in 64 bits. Raises ValueError naming the entry that is not finite (positive)."""
    a = np.asarray(value, np.float64)
    if a.shape not in ((), shape):
        raise ValueError(f"{name} has shape {a.shape}, not () or {shape}")
    require(np.isfinite(a), name, a, "must be finite")
    if positive:
        require(a > 0, name, a, "must be positive")
    return np.broadcast_to(a, shape)


def dimension(D, *, least: int) -> int:
    """D as an int. Raises ValueError unless it is a whole number >= least."""
    number = int(D)
    if number != D or number < least:
        raise ValueError(f"D = {D}: it must be a whole number of at least {least}")
    return number


def noise_scale(sigma) -> None:
    """Raises ValueError if sigma is known and negative or not finite."""
    if not isinstance(sigma, Tracer) and not 0 <= float(sigma) < np.inf:
        raise ValueError(f"sigma = {float(sigma)}: it must be finite and not negative")


def point(x, D: int) -> None:
    """Raises ValueError, at trace time, unless x has shape (D,)."""
    if x.shape != (D,):
        raise ValueError(f"x has shape {x.shape}, not ({D},): vmap over further axes")


def require(ok, name: str, a, wish: str) -> None:
    """Raises ValueError with the place and the value of the first entry of the array `a` that is not ok."""
    if not np.all(ok):
        index = np.unravel_index(np.argmin(ok), a.shape)
        place = f"[{', '.join(map(str, index))}]" if index else ""
        raise ValueError(f"{name}{place} = {a[index]}: it {wish}")

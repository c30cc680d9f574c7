"""Whether two models, or two arrays, are the same to the last bit, told by a few numbers that are cheap to make.

    digest(x) = Σ_i mix(bits of x_i, i)  mod 2^32,  twice, with two mixes

A sum of integers does not depend on the order: the digest of an array is that of its parts on any number of devices,
and all that devices exchange for it are two numbers. Source of the mix: Appleby's MurmurHash3, its finaliser.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped, UInt32

from dp.matrix_free import Steps
from dp.mdp import MDP
from dp.sharded import Sharded
from dp.successors import Successors

SEEDS = 0x9E3779B9, 0x85EBCA6B


def digest(arrays: Any) -> str:
    """Return 16 hexadecimal digits of all arrays of a tree: the same for the same bits, dtypes and shapes."""
    return _digits(_digest(arrays))


def fingerprint(mdp: MDP) -> dict[str, Any]:
    """Return what identifies a model, by name: sizes, dtype, gamma, and the digests of its arrays.

    The same for a model on one device and laid over several (`dp.sharding`). Of a matrix-free model it holds the name
    of its function, the parameters of a `Partial`, and the digest of R.
    """
    P = mdp.P
    form = type(P.rows if isinstance(P, Sharded) else P).__name__
    return {
        "number of states": mdp.size,
        "shape of R": list(mdp.R.shape),
        "dtype": str(mdp.R.dtype),
        "gamma": float(mdp.gamma),
        "form of P": "array" if form not in ("Successors", "Ragged", "Steps") else form,
        "P": _digits(_digest_transitions(P)) + _functions(P),
        "R": digest(mdp.R),
        "mask": digest(mdp.mask),
        "choices": digest(mdp.choices),
    }


def _digits(parts: tuple[UInt32[Array, ""], ...]) -> str:
    return "".join(f"{int(x):08x}" for x in parts)


@jax.jit
def _digest(arrays: Any) -> tuple[UInt32[Array, ""], ...]:
    leaves = jax.tree.leaves(arrays)
    return tuple(_total([_sum(x, seed + n) for n, x in enumerate(leaves)]) for seed in SEEDS)


@jax.jit
def _digest_transitions(P: Any) -> tuple[UInt32[Array, ""], ...]:
    """Digest P; pairs of probability 0 stand for nothing, and there may be more of them in one layout than another."""
    P = P.plain() if isinstance(P, Sharded) else P
    if not isinstance(P, Successors):
        return _digest(P)
    real = P.prob != 0
    return tuple(_sum(P.state, seed, real) + _sum(P.prob, seed + 1, real) for seed in SEEDS)


def _functions(P: Any) -> str:
    """Return the names of the functions of a matrix-free model, which have no bits to add up."""
    P = P.rows if isinstance(P, Sharded) else P
    if not isinstance(P, Steps):
        return ""
    given = (x.func for x in (P.step, P.probability) if isinstance(x, jax.tree_util.Partial))
    return "".join(f" {getattr(f, '__module__', '')}.{getattr(f, '__qualname__', type(f).__name__)}" for f in given)


def _sum(x: Shaped[Array, "..."], seed: int, counted: Bool[Array, "..."] | None = None) -> UInt32[Array, ""]:
    bits = x.astype(jnp.uint32) if x.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(x, jnp.uint32)
    place = jnp.full(bits.shape, seed % 2**32, jnp.uint32)
    for axis in range(bits.ndim):
        place = _mix(place ^ jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis))
    mixed = _mix(bits ^ place)
    if counted is not None:
        mixed = jnp.where(counted.reshape(*counted.shape, *[1] * (bits.ndim - x.ndim)), mixed, jnp.uint32(0))
    return jnp.sum(mixed, dtype=jnp.uint32)


def _mix(h: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> jnp.uint32(shift))) * jnp.uint32(factor)
    return h ^ (h >> jnp.uint32(16))


def _total(parts: list[UInt32[Array, ""]]) -> UInt32[Array, ""]:
    return sum(parts, start=jnp.uint32(0))

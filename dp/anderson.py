"""Value iteration with Anderson acceleration, safeguarded so that it converges whatever the acceleration does.

From the last m iterates v_i with residuals `f_i = T v_i - v_i`, the next is the mixture of their backups that would
have the smallest residual if T were linear:

    v_{k+1} = Σ_i α_i T v_i,      α = argmin |Σ_i α_i f_i|₂  subject to  Σ_i α_i = 1

T is linear only where the greedy policy does not change, and even there the residual may grow in the sup norm. So a
mixture stays only if its own residual is at most ρ⁺ times that of the iterate before, which a plain backup guarantees;
otherwise the plain backup `T v_k` takes its place. Of two consecutive backups at least one contracts.
Source: Anderson (1965); Walker and Ni (2011); the safeguard is in the spirit of Zhang, O'Donoghue and Boyd (2020).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from dp.bounds import modulus
from dp.checks import require_at_least, require_model, start_values, tolerance
from dp.fixed_point import until_certified
from dp.linear import eliminate
from dp.mdp import MDP, Count, Scalar
from dp.solution import Backup, Solution, back_up, certified


class Memory(NamedTuple):
    """The last accepted iterates.

    Tv, f: [m, S], their backups and residuals, a ring. filled: how many were written. residual: the newest max|f|.
    fallback: the values to try now are a plain backup, to be accepted as they are.
    """

    Tv: Float[Array, "m S"]
    f: Float[Array, "m S"]
    filled: Int[Array, ""]
    residual: Float[Array, ""]
    fallback: Bool[Array, ""]


def anderson_iteration(
    mdp: MDP,
    start: ArrayLike | Solution | None = None,
    *,
    memory: int = 5,
    tol: Scalar | None = None,
    max_iters: Count = 1_000_000,
) -> Solution:
    """Iterate the mixture of the last `memory` backups until the certificate says that `max(upper - lower) <= tol`.

    start: values [S] or a Solution (default 0). memory: how many backups are mixed; 1 is plain value iteration.
    tol: absolute, in units of reward; None means 1e-6 in float64 and 1e-3 in float32.
    max_iters: backups at most, the rejected mixtures included.
    Returns a Solution. Raises ValueError for gamma = 1, tol <= 0 or memory < 1.
    Source: the head of this file; stopping rule: `dp.bounds`.
    """
    require_model(mdp, "anderson_iteration")
    require_at_least(1, max_iters, "max_iters")
    require_at_least(1, memory, "memory")
    return _anderson(mdp, start_values(mdp, start), tolerance(tol, mdp.R.dtype), max_iters, memory=memory)


@functools.partial(jax.jit, static_argnames="memory")
def _anderson(mdp: MDP, v0, tol, max_iters, *, memory: int) -> Solution:
    fixed, v0 = jax.lax.stop_gradient((mdp, v0))
    contraction = modulus(*fixed)

    def advance(k, backup: Backup, memory: Memory) -> tuple[Float[Array, " S"], Memory]:
        return mix(memory, backup.v, backup.Tv, contraction.largest)

    end, iterations = until_certified(
        advance,
        lambda v, policy: back_up(fixed, contraction, v),
        back_up(fixed, contraction, v0),
        tol=tol,
        max_iters=max_iters,
        memory=empty(memory, v0),
    )
    return certified(mdp, end, contraction, iterations, tol)


def empty(size: int, v0: Float[Array, " S"]) -> Memory:
    """Return the memory of `size` iterates, before the first."""
    zeros = jnp.zeros((size, v0.shape[0]), v0.dtype)
    return Memory(zeros, zeros, jnp.asarray(0), jnp.asarray(jnp.inf, v0.dtype), jnp.asarray(True))


def mix(
    memory: Memory, v: Float[Array, " S"], Tv: Float[Array, " S"], contraction: Float[Array, ""]
) -> tuple[Float[Array, " S"], Memory]:
    """Return the next iterate after v, of any operator T that contracts by so much, and the memory that knows T v."""
    f = Tv - v
    residual = jnp.max(jnp.abs(f))
    accepted = memory.fallback | (residual <= contraction * memory.residual)
    here = memory.filled % memory.f.shape[0]
    grown = Memory(
        Tv=memory.Tv.at[here].set(Tv),
        f=memory.f.at[here].set(f),
        filled=memory.filled + 1,
        residual=residual,
        fallback=jnp.asarray(False),
    )
    mixture = jnp.matmul(_weights(grown.f, grown.filled), grown.Tv, precision="highest")
    plain = memory.Tv[(memory.filled - 1) % memory.f.shape[0]]
    kept = memory._replace(fallback=jnp.asarray(True))
    return jax.tree.map(lambda yes, no: jnp.where(accepted, yes, no), (mixture, grown), (plain, kept))


def _weights(f: Float[Array, "m S"], count: Int[Array, ""]) -> Float[Array, " m"]:
    """`argmin |Σ_i α_i f_i|₂ + a little |α|²` over Σ_i α_i = 1 of the filled rows, by the normal equations."""
    m = f.shape[0]
    filled = jnp.arange(m) < count
    f = f / jnp.maximum(jnp.max(jnp.abs(f)), jnp.finfo(f.dtype).tiny)
    gram = jnp.matmul(f, f.T, precision="highest")
    # Iterates that lie almost in a line have no best mixture to the last digit: prefer small weights.
    ridge = (100 * m * jnp.finfo(f.dtype).eps) * jnp.trace(gram)
    gram = gram + jnp.diag(jnp.where(filled, jnp.where(ridge > 0, ridge, 1), 1))
    weights = eliminate(gram, filled.astype(f.dtype))
    return weights / jnp.sum(weights)

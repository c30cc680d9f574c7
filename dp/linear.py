"""Linear solves with the matrix of a policy, `(I - γ P_π) x = b`: direct, or by Krylov methods on `P @ v` alone."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import bicgstab, gmres
from jaxtyping import Array, Float, Int

from dp import bellman, transitions
from dp.mdp import MRP, Scalar

Krylov = Literal["gmres", "bicgstab"]

# Systems of up to SMALL unknowns are eliminated here, the others by LAPACK; up to UNROLLED without a loop, which in
# batches is three times as fast.
SMALL, UNROLLED = 32, 4

# Elimination costs S³: beyond so many states a Krylov method finds derivatives sooner, and in less memory.
DIRECT = 5000


def solve(mrp: MRP) -> Float[Array, " S"]:
    """Return `(I - γ P)^{-1} r` to the accuracy of the dtype: by elimination, or by GMRES for more than 5000 states.

    Differentiable any number of times, forward and reverse.
    """
    return direct(mrp) if mrp.r.shape[0] <= DIRECT else _refined(mrp)


def exact(mrp: MRP) -> Float[Array, " S"]:
    """Evaluate a policy as exactly as its model allows: dense ones by elimination, sparse ones as `solve` does."""
    return direct(mrp) if transitions.is_dense(mrp.P) else solve(mrp)


def direct(mrp: MRP) -> Float[Array, " S"]:
    """Solve `(I - γ P) v = r` by elimination: O(S³) work, O(S²) memory; differentiable. Shape [S]."""
    A = matrix(mrp)
    return jax.lax.custom_linear_solve(
        functools.partial(product, mrp),
        mrp.r,
        solve=lambda _, b: _solve(A, b),
        transpose_solve=lambda _, b: _solve(A.T, b),
    )


def general(A: Float[Array, "S S"], b: Float[Array, " S"]) -> Float[Array, " S"]:
    """Solve A x = b for any A that is not singular; differentiable. Shape [S]."""
    return jax.lax.custom_linear_solve(
        lambda x: jnp.matmul(A, x, precision="highest"),
        b,
        solve=lambda _, b: pivoted(A, b),
        transpose_solve=lambda _, b: pivoted(A.T, b),
    )


def bordered(mrp: MRP) -> Float[Array, " S"]:
    """Solve `g + h = r + γ P h` with h(0) = 0; return h, but g in the place of h(0). Not differentiable.

    By elimination, or, where P is sparse and has more than 5000 states, by GMRES, as well as that goes.
    """
    # h(0) is 0 and needs no column: g takes its place. This matrix is not diagonally dominant, so it needs pivots.
    if transitions.is_dense(mrp.P) or mrp.r.shape[0] <= DIRECT:
        return pivoted(matrix(mrp).at[:, 0].set(1), mrp.r)

    def times(chain: MRP, x: Float[Array, " S"]) -> Float[Array, " S"]:
        return product(chain, x.at[0].set(0)) + x[0]

    return _gmres(1000, times, mrp, jnp.sqrt(jnp.finfo(mrp.r.dtype).eps))


def product(mrp: MRP, x: Float[Array, " S"]) -> Float[Array, " S"]:
    """`(I - γ P) x`, by `P @ x` alone. Shape [S]."""
    return x - mrp.gamma * transitions.apply(mrp.P, x)


def matrix(mrp: MRP) -> Float[Array, "S S"]:
    """`I - γ P`, stored."""
    S, dtype = mrp.r.shape[0], mrp.r.dtype
    # Of a small one the compiler knows every number.
    identity = np.eye if S <= SMALL else jnp.eye
    return jnp.subtract(identity(S, dtype=dtype), mrp.gamma * transitions.dense(mrp.P))


def krylov(
    mrp: MRP,
    v: Float[Array, " S"],
    *,
    method: Krylov,
    forcing: Scalar,
    max_iters: int = 1000,
) -> Float[Array, " S"]:
    """Improve v towards `(I - γ P)^{-1} r`: `v + d` with `|f - (I - γ P) d|₂ <= forcing |f|₂`, `f = T_π v - v`.

    At most about max_iters products `P @ v`. Safeguarded: where the method broke down, diverged or left a larger
    residual `max|T_π v - v|` than one sweep guarantees, γ max|f|, the answer is the sweep `T_π v`. Source: Saad (2003),
    sections 6.5 and 7.4.2.
    """
    Tv = bellman.sweep(mrp, v)
    v_new = v + _correction(mrp, Tv - v, forcing, method=method, max_iters=max_iters)
    left = jnp.max(jnp.abs(bellman.sweep(mrp, v_new) - v_new))
    better = left <= mrp.gamma * jnp.max(jnp.abs(Tv - v))  # false where the method returned NaN
    return jnp.where(better, v_new, Tv)


def _correction(mrp: MRP, f: Float[Array, " S"], forcing, *, method: Krylov, max_iters: int) -> Float[Array, " S"]:
    # The scale of f must not decide: squares of small residuals would underflow in float32.
    scale = jnp.max(jnp.abs(f))
    scale = jnp.where(scale > 0, scale, 1.0)
    chain, forcing = mrp._replace(r=f / scale), jnp.asarray(forcing, f.dtype)
    solution = _gmres(max_iters, product, chain, forcing) if method == "gmres" else _bicgstab(max_iters, chain, forcing)
    return scale * solution


def _bicgstab(max_iters: int, mrp: MRP, forcing) -> Float[Array, " S"]:
    # Two products an iteration.
    return bicgstab(functools.partial(product, mrp), mrp.r, tol=forcing, maxiter=max(max_iters // 2, 1))[0]


RESTART = 30  # vectors of length S that GMRES keeps


def _gmres(max_iters: int, times: Callable[[MRP, Array], Array], mrp: MRP, forcing) -> Float[Array, " S"]:
    """Solve `times(mrp, x) = r`."""

    # GMRES factors small matrices by LAPACK, which must not run in batches (see `_solve`): lanes go one by one.
    @jax.custom_batching.sequential_vmap
    def run(mrp: MRP, forcing):
        return gmres(
            functools.partial(times, mrp),
            mrp.r,
            tol=forcing,
            restart=min(RESTART, mrp.r.shape[0]),
            maxiter=-(-max_iters // RESTART),
            solve_method="incremental",
        )[0]

    return run(mrp, forcing)


def _refined(mrp: MRP) -> Float[Array, " S"]:
    """GMRES repeated on what is left until that no longer shrinks; NaN where it did not become small."""

    def repeat(P, b):
        chain = MRP(P, b, mrp.gamma)

        def left(v):
            return jnp.max(jnp.abs(bellman.sweep(chain, v) - v))

        def improving(state):
            _, old, new = state
            return new < old / 2

        def improve(state):
            v, _, old = state
            v = krylov(chain, v, method="gmres", forcing=1e-4)
            return v, old, left(v)

        start = jnp.zeros_like(b)
        scale = left(start)
        v, before, after = jax.lax.while_loop(improving, improve, (start, jnp.full_like(scale, jnp.inf), scale))
        small = jnp.minimum(before, after) <= 1e3 * jnp.finfo(b.dtype).eps * jnp.maximum(scale, jnp.max(jnp.abs(v)))
        return jnp.where(small, v, jnp.nan)

    return jax.lax.custom_linear_solve(
        functools.partial(product, mrp),
        mrp.r,
        solve=lambda _, b: repeat(mrp.P, b),
        transpose_solve=lambda _, b: repeat(transitions.transpose(mrp.P), b),
    )


def _solve(A: Float[Array, "S S"], b: Float[Array, " S"]) -> Float[Array, " S"]:
    """Solve A x = b for A = I - γ P or its transpose, alone or in batches by vmap."""
    # LAPACK's LU in batches, as vmap makes it, blocks the threads that it waits for: two at a time on two cores can
    # hang for ever. Small systems are eliminated here, large ones go to LAPACK one by one.
    return eliminate(A, b) if A.shape[0] <= SMALL else pivoted(A, b)


@jax.custom_batching.sequential_vmap
def pivoted(A: Float[Array, "S S"], b: Float[Array, " S"]) -> Float[Array, " S"]:
    """Solve A x = b for any A by LAPACK's LU factorisation; under vmap, one system after the other."""
    return jnp.linalg.solve(A, b)


def eliminate(A: Float[Array, "S S"], b: Float[Array, " S"]) -> Float[Array, " S"]:
    """Gauss-Jordan without pivots: stable where A is diagonally dominant or symmetric positive definite.

    Source: Higham (2002), theorem 9.9 and section 10.1.
    """
    S, Ab = A.shape[0], jnp.concatenate([A, b[:, None]], axis=1)
    if S <= UNROLLED:
        return _eliminate_by_hand(Ab)

    def step(k: Int[Array, ""], Ab: Float[Array, "S S1"]) -> Float[Array, "S S1"]:
        row = Ab[k] / Ab[k, k]
        return (Ab - Ab[:, k, None] * row[None, :]).at[k].set(row)

    return jax.lax.fori_loop(0, S, step, Ab)[:, -1]


def _eliminate_by_hand(Ab: Float[Array, "S S1"]) -> Float[Array, " S"]:
    """Eliminate number by number: in batches, XLA makes one loop of it all."""
    rows = [list(row) for row in Ab]
    for k, row in enumerate(rows):
        row[:] = [x / row[k] for x in row]
        for other in rows[:k] + rows[k + 1 :]:
            other[:] = [x - other[k] * y for x, y in zip(other, row, strict=True)]
    return jnp.stack([row[-1] for row in rows])

"""Evaluating a policy as far as it pays before the next improvement: by sweeps, and by Krylov steps where those crawl.

A sweep of a chain reads A times less than a backup of the model. On chains that mix, the changes `d = T_π v - v` are
soon nearly the same in every state. A constant changes no policy, and the bounds know it; what counts is the spread of
d. Where mass is missing constants do matter; the certificate says so, and more sweeps follow.
Source: Puterman (1994), sections 6.5 and 6.6.3.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dp import bellman
from dp.linear import Krylov, krylov
from dp.mdp import MRP, Count, Scalar

# A sweep that leaves more than this share of the spread crawls: a Krylov step does more for its two products. One that
# leaves less than EAGER costs so little for what it does that sweeps go on until the tolerance is met.
CRAWL, EAGER = 0.9, 0.2

# One call of a Krylov method is not asked for more.
SHARPEST = 1e-5


def while_they_pay(
    mrp: MRP,
    v: Float[Array, " S"],
    Tv: Float[Array, " S"],
    *,
    wanted: Scalar,
    enough: Scalar = jnp.inf,
    crawl: float = float("inf"),
    most: Count = 500,
) -> tuple[Float[Array, " S"], Float[Array, " S"], Bool[Array, ""]]:
    """Sweep from `Tv = T_π v` until the spread of `T_π v - v` is what is wanted.

    Sweeps go on, down to a spread of `enough`, while each leaves less than a fifth of it. They end earlier where one
    leaves more than the share `crawl`, and after `most` of them.
    Returns v, T_π v, and whether sweeps crawl before they have done what was asked.
    """
    first = spread_of(Tv - v)

    def asked(new: Float[Array, ""], old: Float[Array, ""]) -> Bool[Array, ""]:
        return (new > wanted) | ((new > enough) & (new < EAGER * old))

    def unfinished(state: tuple) -> Bool[Array, ""]:
        _, _, new, old, k = state
        return asked(new, old) & (new <= crawl * old) & (k < most)

    def step(state: tuple) -> tuple:
        _, v, old, _, k = state
        Tv = bellman.sweep(mrp, v)
        return v, Tv, spread_of(Tv - v), old, k + 1

    infinite = jnp.full_like(first, jnp.inf)
    v, Tv, new, old, _ = jax.lax.while_loop(unfinished, step, (v, Tv, first, infinite, jnp.asarray(1)))
    return v, Tv, asked(new, old) & (new > crawl * old)


def spread_of(d: Float[Array, " S"]) -> Float[Array, ""]:
    """`max d - min d`."""
    return jnp.max(d) - jnp.min(d)


def evaluated(
    mrp: MRP,
    v: Float[Array, " S"],
    Tv: Float[Array, " S"],
    *,
    method: Krylov,
    forcing: Scalar,
    tol: Scalar,
    most: Count,
    eager: Bool[Array, ""],
) -> Float[Array, " S"]:
    """Improve v towards v_π, from `Tv = T_π v`, until the spread of the changes is `forcing` times what it was.

    By at most so many sweeps while they shrink it fast; where they crawl, by a Krylov method from there on. Never
    further than to what certifies tol, and where eager all the way there while sweeps shrink it very fast.
    """
    enough = tol * (1 - mrp.gamma) / 2
    wanted = jnp.maximum(forcing * spread_of(Tv - v), enough)
    further = jnp.where(eager, enough, jnp.inf)
    v, Tv, crawling = while_they_pay(mrp, v, Tv, wanted=wanted, enough=further, crawl=CRAWL, most=most)

    def improved(v: Float[Array, " S"]) -> Float[Array, " S"]:
        left = spread_of(bellman.sweep(mrp, v) - v)
        return krylov(mrp, v, method=method, forcing=jnp.clip(wanted / left, SHARPEST, 0.5))

    return jax.lax.cond(crawling, improved, lambda v: v, Tv)

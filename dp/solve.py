"""The solver to call first: it picks one of the others by a rule that was measured."""

from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from dp.checks import tolerance
from dp.levels import levels
from dp.mdp import MDP, Count, Scalar
from dp.policy_iteration import FORCING, exact, inexact, require_start
from dp.solution import Solution
from dp.wavefront import travel_along

# Elimination costs S³ and little else: up to so many states nothing is faster by more than chance.
SMALL = 32

# Passes along the flow of value go on while they divide the gap by PROGRESS within so many.
TRIAL, PROGRESS = 12, 10


def solve(mdp: MDP, start: Any = None, *, tol: Scalar | None = None, max_iters: Count = 100_000) -> Solution:
    """Find `v_*` and an optimal policy, with a certificate, by the solver that suits the model.

    The rule:
    - up to 32 states, `policy_iteration`, which evaluates policies exactly and is fastest in batches
      (`jax.vmap(dp.solve)`);
    - sparse models whose states are many steps apart (mazes, queues, machines that wear), `wavefront_iteration`, as
      long as it gets on fast; inside jit the states cannot be looked at, and this step is left out;
    - all others, and what is left, `inexact_policy_iteration`: sweeps where chains mix, Krylov steps where they do not.
    `python -m experiments.bench_solvers` measures the rule against every solver, `python -m experiments.bench_dp`
    against other libraries.

    start: a policy (int [S]), values (float [S]), a pair (policy, values) or a Solution; default: greedy in 0.
    tol: absolute, in units of reward, `max(upper - lower) <= tol`; None means 1e-6 in float64 and 1e-3 in float32.
    max_iters: policies evaluated, or passes, at most. Returns a Solution; look at `converged`, `lower` and `upper`.
    Raises ValueError for gamma = 1, tol <= 0 and impossible policies.
    """
    policy, v = require_start(mdp, start, max_iters, "solve")
    tol = tolerance(tol, mdp.R.dtype)
    if mdp.size <= SMALL:
        return exact(mdp, policy, v, tol, max_iters)
    along = levels(mdp)
    found = None if along is None else travel_along(mdp, along, v, tol, max_iters, TRIAL, 1 / PROGRESS)
    # Where anything at all is traced nobody can look whether it converged.
    if found is None or isinstance(found.converged, Tracer):
        return inexact(mdp, policy, v, FORCING, tol, max_iters, method="bicgstab")
    left = max_iters - int(found.iterations)
    if bool(found.converged) or left <= 0 or not bool(jnp.isfinite(found.v).all()):
        return found
    further = inexact(mdp, found.policy, found.v, FORCING, tol, left, method="bicgstab")
    return further._replace(iterations=found.iterations + further.iterations)

"""The solver to call first: it picks one of the others by a rule that was measured."""

from typing import Any

from dp.checks import require_model
from dp.mdp import MDP, Count, Scalar
from dp.policy_iteration import inexact_policy_iteration, policy_iteration
from dp.solution import Solution

# Elimination costs S³ and little else: up to so many states nothing is faster by more than chance.
SMALL = 32


def solve(mdp: MDP, start: Any = None, *, tol: Scalar | None = None, max_iters: Count = 100_000) -> Solution:
    """Find `v_*` and an optimal policy, with a certificate, by the solver that suits the size of the model.

    The rule: up to 32 states `policy_iteration`, which evaluates policies exactly and is fastest in batches
    (`jax.vmap(dp.solve)`); above, `inexact_policy_iteration`, whose Krylov evaluation does not mind how slowly a chain
    mixes, reads the model only through `P @ v`, and knows when a policy is not worth more.
    `python -m experiments.bench_solvers` measures the rule against every solver, on models that mix fast, slowly and
    not at all: how much slower it is than the best of them is in BUILD_NOTES.md.

    start: a policy (int [S]), values (float [S]), a pair (policy, values) or a Solution; default: greedy in 0.
    tol: absolute, in units of reward, `max(upper - lower) <= tol`; None means 1e-6 in float64 and 1e-3 in float32.
    max_iters: policies evaluated at most. Returns a Solution; look at `converged`, `lower` and `upper`.
    Raises ValueError for gamma = 1, tol <= 0 and impossible policies.
    """
    require_model(mdp, "solve")
    solver = policy_iteration if mdp.size <= SMALL else inexact_policy_iteration
    return solver(mdp, start, tol=tol, max_iters=max_iters)

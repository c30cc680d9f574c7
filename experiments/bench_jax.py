"""How the libraries that are written in JAX are called: ours, jaxdp and mdpax. Each imports only what it needs."""

from importlib import import_module
from typing import Any

import numpy as np

from experiments.bench_call import EVER, Call, Prepare, Run, timed
from experiments.instances import Tables

COPIES = 10_000


def dp(tables: Tables, tol: float) -> Run:
    """Build with the public constructors, solve with `dp.solve`."""
    import dp

    return _solved(_model(dp, tables), tol)


def dp_sharded(tables: Tables, tol: float) -> Run:
    """Lay the model over all devices first."""
    import dp

    return _solved(dp.shard(_model(dp, tables)), tol)


def _solved(mdp: Any, tol: float) -> Run:
    import jax

    import dp

    jax.block_until_ready(mdp)

    def run() -> Call:
        seconds, found = timed(lambda: jax.block_until_ready(dp.solve(mdp, tol=tol)))
        gap = np.asarray(found.upper) - np.asarray(found.lower)
        claims = {"converged": bool(found.converged), "gap": float(gap.max())}
        return Call(seconds, np.asarray(found.v), int(found.iterations), claims)

    return run


def dp_batch(tables: Tables, tol: float) -> Run:
    """Solve 10,000 copies in one call, all but the first with other rewards; the seconds are those of one."""
    import jax
    import jax.numpy as jnp

    import dp

    mdp = _model(dp, tables)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(COPIES, *tables.R.shape))
    noise[0] = 0
    R = jax.block_until_ready(mdp.R + jnp.asarray(noise))
    solve = jax.jit(jax.vmap(lambda mdp, R: dp.solve(mdp._replace(R=R), tol=tol), in_axes=(None, 0)))

    def run() -> Call:
        seconds, found = timed(lambda: jax.block_until_ready(solve(mdp, R)))
        claims = {"converged": bool(found.converged.all()), "gap": float((found.upper - found.lower).max())}
        return Call(seconds / COPIES, np.asarray(found.v[0]), int(found.iterations.max()), claims)

    return run


def _model(dp: Any, tables: Tables) -> Any:
    if tables.P is not None:
        return dp.make_mdp(tables.P, tables.R, tables.gamma)
    return dp.from_successors(tables.state, tables.prob, tables.R, tables.gamma)


def jaxdp(planner: str) -> Prepare:
    """Return jaxdp's planner in the loop that its user has to write: one jitted while loop, checks off, no copies.

    Policy iteration ends when the values stand still, the others when the residual proves tol.
    """

    def prepare(tables: Tables, tol: float) -> Run:
        import chex
        import jax
        import jax.numpy as jnp

        library = import_module("jaxdp")
        if tables.P is None:
            raise NotImplementedError("dense only")
        chex.disable_asserts()
        S, A = tables.R.shape
        P = np.ascontiguousarray(tables.P.transpose(1, 2, 0))
        R = np.broadcast_to(tables.R.T[:, :, None], P.shape)
        mdp = library.MDP(
            transition=jnp.asarray(P), reward=jnp.asarray(R), initial=jnp.full(S, 1 / S), terminal=jnp.zeros(S)
        )
        solver = getattr(library, planner)(gamma=tables.gamma)
        target = tol * (1 - tables.gamma) / tables.gamma

        @jax.jit
        def solve(mdp: Any) -> tuple[Any, Any]:
            start = (mdp, jnp.full((A, S), 1 / A)) if planner == "PolicyIteration" else (mdp,)

            def step(carry: tuple) -> tuple:
                state, _, k = carry
                new = solver.update(mdp, state)
                change = new.v_val - state.v_val
                change = new.residual if hasattr(new, "residual") else change
                return new, jnp.abs(change).max(), k + 1

            begin = solver.init(mdp, *start[1:]), jnp.asarray(jnp.inf), jnp.asarray(0)
            state, _, k = jax.lax.while_loop(lambda c: (c[1] > target) & (c[2] < EVER), step, begin)
            return state.v_val, k

        def run() -> Call:
            seconds, (v, k) = timed(lambda: jax.block_until_ready(solve(mdp)))
            return Call(seconds, np.asarray(v), int(k), {})

        return run

    return prepare


def mdpax(tables: Tables, tol: float) -> Run:
    """Return mdpax's solver on a problem whose random event is the slot of a successor; it tests the largest change.

    Its default, the span, ends with values that are off by hundreds.
    """
    import jax.numpy as jnp

    Problem: Any = import_module("mdpax.core.problem").Problem
    S, A = tables.R.shape
    R = jnp.asarray(tables.R)
    if tables.P is not None:
        prob, state, K = jnp.asarray(tables.P), None, S
    else:
        assert tables.prob is not None
        prob, state, K = jnp.asarray(tables.prob), jnp.asarray(tables.state), tables.prob.shape[-1]

    class Given(Problem):
        name = "given"

        def _construct_state_space(self) -> Any:
            return jnp.arange(S, dtype=jnp.int32)[:, None]

        def _construct_action_space(self) -> Any:
            return jnp.arange(A, dtype=jnp.int32)[:, None]

        def _construct_random_event_space(self) -> Any:
            return jnp.arange(K, dtype=jnp.int32)[:, None]

        def state_to_index(self, s: Any) -> Any:
            return s[0]

        def random_event_probability(self, s: Any, a: Any, event: Any) -> Any:
            return prob[s[0], a[0], event[0]]

        def transition(self, s: Any, a: Any, event: Any) -> Any:
            to = event[0] if state is None else state[s[0], a[0], event[0]]
            return jnp.asarray([to], jnp.int32), R[s[0], a[0]]

    problem = Given()
    ValueIteration = import_module("mdpax.solvers.value_iteration").ValueIteration
    solver = ValueIteration(problem, gamma=tables.gamma, epsilon=tol, convergence_test="max_diff", verbose=0)
    first = solver.values

    def run() -> Call:
        solver.values, solver.iteration = first, 0
        seconds, found = timed(lambda: solver.solve(EVER))
        return Call(seconds, np.asarray(found.values), int(found.info.iteration), {})

    return run

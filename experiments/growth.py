"""Time of the solvers against |S| and |A|, and against enumerating all |A|^|S| policies: parts of question 3(c)."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import dp
from dp.linear import direct
from experiments import record

GAMMA = 0.95
TOL = 1e-6

SOLVERS: dict[str, Callable[[dp.MDP], dp.Solution]] = {
    "value iteration": lambda mdp: dp.value_iteration(mdp, tol=TOL),
    "policy iteration": lambda mdp: dp.policy_iteration(mdp, tol=TOL),
    "modified, 20 sweeps": lambda mdp: dp.modified_policy_iteration(mdp, sweeps=20, tol=TOL),
}


def measure(solve: Callable, mdp: dp.MDP, clock: record.Clock, repeats: int = 5) -> tuple[float, int, float]:
    """Return the median seconds of a compiled solve, its iterations and the certified gap."""
    run = clock.compile(solve, mdp)
    solution, times = run(mdp), []
    for _ in range(repeats):
        start = time.perf_counter()
        solution = run(mdp)
        times.append(time.perf_counter() - start)
    record.require(bool(solution.converged), "a solver did not meet its tolerance")
    return float(np.median(times)), int(solution.iterations), float((solution.upper - solution.lower).max())


def by_size(
    sizes: list[int], actions: list[int], clock: record.Clock, advance: Callable[[], None], *, seed: int
) -> tuple[dict, Figure]:
    """Time the solvers on dense garnets against |S| (8 actions) and |A| (S = 200), compiling not counted."""
    axes = {
        "|S|": [(S, (S, 8)) for S in sizes],
        "|A|": [(A, (200, A)) for A in actions],
    }
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    metrics: dict[str, Any] = {}
    for ax, (label, points) in zip(figure.subplots(1, 2), axes.items(), strict=True):
        rows = {name: [] for name in SOLVERS}
        for _, (S, A) in points:
            mdp = dp.problems.garnet(S, A, 5, gamma=GAMMA, seed=seed, dense=True)
            for name, solve in SOLVERS.items():
                rows[name].append(measure(solve, mdp, clock))
                advance()
        x = np.array([point for point, _ in points])
        metrics[label] = {}
        for name, measured in rows.items():
            seconds, iterations, gap = map(np.array, zip(*measured, strict=True))
            # The largest three: small problems measure the cost of a call, not of a backup.
            exponent = float(np.polyfit(np.log(x[-3:]), np.log(seconds[-3:]), 1)[0])
            metrics[label][name] = {
                "size": x,
                "seconds": seconds,
                "iterations": iterations,
                "certified_gap": gap.max(),
                "exponent": exponent,
            }
            ax.loglog(x, 1e3 * seconds, "o-", label=f"{name}: {iterations.min()}-{iterations.max()} iterations")
        ax.set_xticks(x, map(str, x))
        ax.minorticks_off()
        ax.set(xlabel=label, ylabel="milliseconds", title="S = 200" if label == "|A|" else "A = 8")
        ax.legend(fontsize=8)
    return metrics, figure


def enumerate_policies(mdp: dp.MDP) -> tuple[jax.Array, jax.Array]:
    """Evaluate all A^S deterministic policies exactly and return `v_*(s) = max_π v_π(s)` and their number."""
    S, A = mdp.R.shape
    # Policy i in base A. Batches of 4096 bound the memory.
    number = A**S
    value = jax.vmap(lambda i: direct(dp.induce(mdp, (i // A ** jnp.arange(S)) % A)))
    values = jax.lax.map(lambda i: value(i[None])[0], jnp.arange(number), batch_size=4096)
    return values.max(axis=0), jnp.asarray(number)


def against_enumeration(
    largest: int, clock: record.Clock, advance: Callable[[], None], *, seed: int
) -> tuple[dict, Figure]:
    """Time all |A|^|S| policies (A = 3) against the solvers, and compare the answers."""
    A, sizes = 3, list(range(2, largest + 1, 3))
    rows: dict[str, list[float]] = {"all |A|^|S| policies": []} | {name: [] for name in SOLVERS}
    worst = 0.0
    for S in sizes:
        mdp = dp.problems.garnet(S, A, 2, gamma=GAMMA, seed=seed, dense=True)
        run = clock.compile(enumerate_policies, mdp)
        run(mdp)
        start = time.perf_counter()
        best, _ = run(mdp)
        rows["all |A|^|S| policies"].append(time.perf_counter() - start)
        for name, solve in SOLVERS.items():
            rows[name].append(measure(solve, mdp, clock)[0])
            worst = max(worst, float(jnp.abs(solve(mdp).v - best).max()))
        advance()
    record.require(worst <= TOL, f"enumeration and a solver differ by {worst:.3g}")
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    ax = figure.subplots()
    for name, seconds in rows.items():
        ax.semilogy(sizes, 1e3 * np.array(seconds), "o-", label=name)
    ax.set(
        xlabel="|S|, with |A| = 3", ylabel="milliseconds", title="search over all policies against dynamic programming"
    )
    ax.legend(fontsize=8)
    metrics = {
        "states": sizes,
        "policies": [A**S for S in sizes],
        "seconds": rows,
        "largest_difference": worst,
    }
    return metrics, figure

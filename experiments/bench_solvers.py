"""How long each solver takes, on models that mix fast, slowly or not at all; and what `dp.solve` loses by its rule.

python -m experiments.bench_solvers
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

import dp
from experiments import record

TOL = 1e-6
Solver = Callable[[dp.MDP], dp.Solution]

SOLVERS: dict[str, Solver] = {
    "solve": functools.partial(dp.solve, tol=TOL),
    "value iteration": functools.partial(dp.value_iteration, tol=TOL, max_iters=3000),
    "Gauss-Seidel, blocks of 16": lambda mdp: dp.value_iteration(
        mdp, order=jnp.arange(mdp.R.shape[0]), block=16, tol=TOL, max_iters=2000
    ),
    "prioritised sweeping": functools.partial(dp.prioritised_sweeping, tol=TOL, max_iters=200),
    "Anderson": functools.partial(dp.anderson_iteration, tol=TOL, max_iters=3000),
    "policy iteration": functools.partial(dp.policy_iteration, tol=TOL),
    "modified, 20 sweeps": functools.partial(dp.modified_policy_iteration, sweeps=20, tol=TOL, max_iters=2000),
    "modified, adaptive": functools.partial(dp.modified_policy_iteration, tol=TOL, max_iters=2000),
    "inexact, GMRES": functools.partial(dp.inexact_policy_iteration, method="gmres", tol=TOL),
    "inexact, BiCGStab": functools.partial(dp.inexact_policy_iteration, tol=TOL),
}


def problems(states: int, gamma: float, seed: int) -> dict[str, dp.MDP]:
    """Return one MDP of each family with about so many states, all dense."""
    side = max(2, round(states**0.5))
    corner = (side - 1, side - 1)
    grid = functools.partial(dp.problems.gridworld, side, side, gamma=gamma, slip=0.1)
    blocks = max(2, states // 50)
    return {
        "random": dp.problems.random_dense(states, 8, gamma=gamma, seed=seed),
        "nearly closed blocks": dp.problems.random_dense(states, 8, gamma=gamma, seed=seed, blocks=blocks),
        "garnet": dp.problems.garnet(states, 5, min(3, states), gamma=gamma, seed=seed, dense=True),
        "forest": dp.problems.forest(states, gamma=gamma),
        "corridor": dp.problems.corridor(states, gamma=gamma),
        "grid with a goal": grid(step_reward=-1.0, terminals=[corner]),
        "grid that restarts": grid(jumps={corner: ((0, 0), 1.0)}),
    }


def measure(run: Solver, mdp: dp.MDP, patience: float) -> dict[str, Any]:
    """Return the median seconds of a call (one call where it takes longer than patience), iterations, certified gap."""
    seconds = []
    while True:
        start = time.perf_counter()
        solution = run(mdp)
        seconds.append(time.perf_counter() - start)
        if seconds[-1] > patience or (len(seconds) >= 5 and sum(seconds) > 0.05):
            break
    return {
        # The first call of several warms up.
        "seconds": float(np.median(seconds[1:] or seconds)),
        "iterations": int(solution.iterations),
        "gap": float((solution.upper - solution.lower).max()),
        "converged": bool(solution.converged),
    }


def profile(rows: list[dict[str, Any]]) -> Figure:
    """Draw performance profiles: the share of problems that a solver certifies within x times the best time."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    best = np.array([min(r["seconds"] for r in row["solvers"].values() if r["converged"]) for row in rows])
    for name in SOLVERS:
        slower = [
            row["solvers"][name]["seconds"] / b if row["solvers"][name]["converged"] else np.inf
            for row, b in zip(rows, best, strict=True)
        ]
        x = np.sort(slower)
        width = 2.5 if name == "solve" else 1.2
        ax.plot(x, np.arange(1, len(x) + 1) / len(x), drawstyle="steps-post", label=name, lw=width)
    ax.set(
        xscale="log",
        xlim=(1, 200),
        ylim=(0, 1.02),
        xlabel="times slower than the fastest solver of the problem",
        ylabel="share of the problems, certified to 1e-6",
        title=f"{len(rows)} problems",
    )
    ax.legend(fontsize=8, loc="lower right")
    return figure


def main(
    *,
    states: tuple[int, ...] = (10, 30, 100, 400),
    gammas: tuple[float, ...] = (0.9, 0.99, 0.999),
    patience: float = 0.5,
    seed: int = 0,
    out: Path = Path("results/bench_solvers"),
) -> dict:
    """Time every solver to a certified 1e-6 in float64 on families of dense MDPs, compiling not counted.

    Args:
        states: sizes; the grids take the nearest square.
        gammas: discount rates.
        patience: seconds; a call that takes longer is not repeated.
        seed: of the random problems.
        out: folder for metrics.json and profile.png.
    """
    arguments = locals()
    record.require(len(states) > 0 and min(states) >= 4, f"states must be at least 4, got {states}")
    record.require(max(states) <= 2000, f"states must be at most 2000: models are dense, got {max(states)}")
    record.require(len(gammas) > 0 and all(0 <= g < 1 for g in gammas), f"gammas must lie in [0, 1), got {gammas}")
    record.require(patience > 0, f"patience must be positive, got {patience}")
    record.require_run(seed, out)
    clock, rows = record.Clock(), []
    compiled: dict[tuple[str, tuple[int, ...]], Solver] = {}
    with jax.enable_x64(True), record.progress() as bar:
        task = bar.add_task("bench_solvers", total=len(states) * len(gammas) * 7 * len(SOLVERS), note="")
        for size in states:
            for gamma in gammas:
                for family, mdp in problems(size, gamma, seed).items():
                    found = {}
                    for name, solver in SOLVERS.items():
                        bar.update(task, note=f"{family}, {size} states, gamma {gamma}: {name}")
                        key = name, mdp.R.shape
                        if key not in compiled:
                            compiled[key] = clock.compile(solver, mdp)
                        found[name] = measure(compiled[key], mdp, patience)
                        bar.advance(task)
                    rows.append({"family": family, "states": mdp.R.shape[0], "gamma": gamma, "solvers": found})
    loss = show(rows)
    metrics = {"problems": rows, "times_slower_than_the_best": loss}
    return record.write(
        out, arguments=arguments, metrics=metrics, figures={"profile": profile(rows)}, clock=clock, dtype="float64"
    )


def show(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Print the fastest solver of each problem, and return how much slower the others are: median, 90% and worst."""
    table = Table("problem", "fastest solver", "ms", "solve, ms", "evaluations", "ratio", title="To a certified 1e-6")
    slower: dict[str, list[float]] = {name: [] for name in SOLVERS}
    for row in rows:
        certified = {name: r["seconds"] for name, r in row["solvers"].items() if r["converged"]}
        fastest = min(certified, key=lambda name: certified[name])
        for name in SOLVERS:
            slower[name].append(certified[name] / certified[fastest] if name in certified else np.inf)
        solve = row["solvers"]["solve"]
        best, mine = (f"{1e3 * seconds:.3g}" for seconds in (certified[fastest], solve["seconds"]))
        problem = f"{row['family']}, {row['states']}, γ {row['gamma']}"
        table.add_row(problem, fastest, best, mine, str(solve["iterations"]), f"{slower['solve'][-1]:.2g}")
    record.console.print(table)
    summary = Table("solver", "median", "90%", "worst", title="times slower than the fastest solver of the problem")
    loss = {}
    for name, ratios in slower.items():
        median, most, worst = np.median(ratios), np.sort(ratios)[int(0.9 * (len(ratios) - 1))], np.max(ratios)
        loss[name] = {"median": median, "90%": most, "worst": worst}
        summary.add_row(name, *(f"{x:.3g}" if np.isfinite(x) else "not certified" for x in (median, most, worst)))
    record.console.print(summary)
    return loss


if __name__ == "__main__":
    record.command(main)

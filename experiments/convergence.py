"""Question 3(c): what affects the convergence time of policy and value iteration? One experiment and figure a factor.

python -m experiments.convergence
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

import dp
from experiments import record

GAMMA = 0.95
TOL = 1e-6


def initial_values(mdp: dp.MDP, rng: np.random.Generator, *, starts: int) -> tuple[dict, Figure]:
    """Count sweeps of value iteration and evaluations of policy iteration from different initial values and policies."""
    S, A = mdp.R.shape
    optimum = dp.policy_iteration(mdp, tol=1e-9).v
    horizon = 1 / (1 - mdp.gamma)
    starting = {
        "0": jnp.zeros(S),
        "myopic, max R": mdp.R.max(axis=1),
        "optimistic, max R / (1 - γ)": jnp.full(S, mdp.R.max() * horizon),
        "pessimistic, min R / (1 - γ)": jnp.full(S, mdp.R.min() * horizon),
        "v_* + 100, all wrong by the same": optimum + 100.0,
        "v_* + normal noise of std 100": optimum + 100.0 * jnp.asarray(rng.standard_normal(S)),
    }
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    sweeps = {}
    for name, v0 in starting.items():
        v = dp.value_iteration_history(mdp, v0, 120).v
        error = jnp.abs(v - optimum).max(axis=1)
        sweeps[name] = int(dp.value_iteration(mdp, v0, tol=TOL).iterations)
        left.semilogy(error, label=f"{name}: certified in {sweeps[name]}")
    left.set(xlabel="sweep k", ylabel="max |v_k - v_*|", title="value iteration from different v₀", ylim=(1e-6, 1e4))
    left.legend(fontsize=7)
    policies = jnp.asarray(rng.integers(0, A, (starts, S)))
    found = jax.jit(jax.vmap(lambda policy: dp.policy_iteration(mdp, policy)))(policies)
    evaluations = np.asarray(found.iterations)
    right.bar(*np.unique(evaluations, return_counts=True), width=0.6)
    right.set(xlabel="policies evaluated", ylabel="starts", title=f"policy iteration, {starts} random π₀")
    right.xaxis.get_major_locator().set_params(integer=True)
    metrics = {
        "value_iteration_sweeps": sweeps,
        "policy_iteration_evaluations": {"mean": evaluations.mean(), "max": evaluations.max(), "starts": starts},
        "all_converged": bool(found.converged.all()),
    }
    return metrics, figure


def errors_by_backups(
    mdp: dp.MDP, orders: dict[str, jax.Array | None], num: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return max |v - v_*| after 0 ... num sweeps of S backups, and the sweeps until it is below 1e-6."""
    optimum = dp.policy_iteration(mdp, tol=1e-9).v
    curves, needed = {}, {}
    for name, order in orders.items():
        v = dp.value_iteration_history(mdp, None, num, order=order).v
        curves[name] = np.asarray(jnp.abs(v - optimum).max(axis=1))
        below = curves[name] <= TOL
        needed[name] = int(np.argmax(below)) if below.any() else None
    return curves, needed


def draw_orders(problems: dict[str, dict[str, np.ndarray]], xlabel: str) -> Figure:
    """Draw one panel a problem, one curve an order."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for ax, (title, curves) in zip(figure.subplots(1, 2), problems.items(), strict=True):
        for name, error in curves.items():
            ax.semilogy(error, label=name)
        ax.set(title=title, xlabel=xlabel, ylabel="max |v - v_*|", ylim=(1e-9, None))
        ax.legend(fontsize=8)
    return figure


def place(problems: dict[str, dp.MDP], *, num: int) -> tuple[dict, Figure]:
    """Compare out-of-place sweeps with in-place ones, along the flow of value and against it."""
    curves, needed = {}, {}
    for name, mdp in problems.items():
        forward = jnp.arange(mdp.R.shape[0])
        orders = {"out of place": None, "in place, first to last": forward, "in place, last to first": forward[::-1]}
        curves[name], needed[name] = errors_by_backups(mdp, orders, num)
    return {"sweeps_to_1e-6": needed}, draw_orders(curves, "sweeps (S backups each)")


def order(problems: dict[str, dp.MDP], rng: np.random.Generator, *, num: int) -> tuple[dict, Figure]:
    """Compare synchronous sweeps with asynchronous orders of the same number of backups."""
    curves, needed = {}, {}
    for name, mdp in problems.items():
        S = mdp.R.shape[0]
        orders = {
            "synchronous": None,
            "asynchronous, round robin": jnp.arange(S),
            "asynchronous, shuffled": jnp.asarray(rng.permuted(np.tile(np.arange(S), (num, 1)), axis=1)),
            "asynchronous, states at random": jnp.asarray(rng.integers(0, S, (num, S))),
        }
        curves[name], needed[name] = errors_by_backups(mdp, orders, num)
    return {"backups_per_state_to_1e-6": needed}, draw_orders(curves, "backups / S")


SOLVERS: dict[str, Callable[[dp.MDP], dp.Solution]] = {
    "value iteration": lambda mdp: dp.value_iteration(mdp, tol=TOL),
    "policy iteration": lambda mdp: dp.policy_iteration(mdp, tol=TOL),
    "modified, 20 sweeps": lambda mdp: dp.policy_iteration(mdp, sweeps=20, tol=TOL),
}


def measure(solve: Callable, mdp: dp.MDP, clock: record.Clock, repeats: int = 3) -> tuple[float, int, float]:
    """Return the median seconds of a compiled solve, its iterations and the certified gap."""
    run = clock.compile(solve, mdp)
    solution, times = run(mdp), []
    for _ in range(repeats):
        start = time.perf_counter()
        solution = run(mdp)
        times.append(time.perf_counter() - start)
    record.require(bool(solution.converged), "a solver did not meet its tolerance")
    return float(np.median(times)), int(solution.iterations), float((solution.upper - solution.lower).max())


def growth(
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
            mdp = dp.problems.garnet(S, A, 5, gamma=GAMMA, seed=seed)
            for name, solve in SOLVERS.items():
                rows[name].append(measure(solve, mdp, clock))
                advance()
        x = np.array([point for point, _ in points])
        metrics[label] = {}
        for name, measured in rows.items():
            seconds, iterations, gap = map(np.array, zip(*measured, strict=True))
            upper = x >= np.median(x)  # small problems measure the cost of a call, not of a backup
            exponent = float(np.polyfit(np.log(x[upper]), np.log(seconds[upper]), 1)[0])
            metrics[label][name] = {
                "size": x, "seconds": seconds, "iterations": iterations, "certified_gap": gap.max(), "exponent": exponent
            }  # fmt: skip
            ax.loglog(x, 1e3 * seconds, "o-", label=f"{name}: {iterations.min()}-{iterations.max()} iterations")
        ax.set(xlabel=label, ylabel="milliseconds", title="S = 200" if label == "|A|" else "A = 8")
        ax.legend(fontsize=8)
    return metrics, figure


def enumerate_policies(mdp: dp.MDP) -> tuple[jax.Array, jax.Array]:
    """Evaluate all A^S deterministic policies exactly and return `v_*(s) = max_π v_π(s)` and their number."""
    S, A = mdp.R.shape
    # Policy i in base A. Batches of 4096 bound the memory.
    number = A**S
    value = jax.vmap(lambda i: dp.evaluation.direct(dp.induce(mdp, (i // A ** jnp.arange(S)) % A)))
    values = jax.lax.map(lambda i: value(i[None])[0], jnp.arange(number), batch_size=4096)
    return values.max(axis=0), jnp.asarray(number)


def enumeration(largest: int, clock: record.Clock, advance: Callable[[], None], *, seed: int) -> tuple[dict, Figure]:
    """Time all |A|^|S| policies (A = 3) against the solvers, and compare the answers."""
    A, sizes = 3, list(range(2, largest + 1, 3))
    rows: dict[str, list[float]] = {"all |A|^|S| policies": []} | {name: [] for name in SOLVERS}
    worst = 0.0
    for S in sizes:
        mdp = dp.problems.garnet(S, A, 2, gamma=GAMMA, seed=seed)
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
        "states": sizes, "policies": [A**S for S in sizes], "seconds": rows, "largest_difference": worst
    }  # fmt: skip
    return metrics, figure


def main(
    *,
    states: int = 60,
    sweeps: int = 400,
    starts: int = 200,
    largest_states: int = 1600,
    largest_actions: int = 128,
    largest_enumerated: int = 11,
    seed: int = 0,
    out: Path = Path("results/convergence"),
) -> dict:
    """Measure the factors of question 3(c): initial values, updates in place, order, |S|, |A|; and plain enumeration.

    Args:
        states: states of the garnet and of the corridor on which orders are compared.
        sweeps: sweeps of each history.
        starts: random initial policies.
        largest_states: of the growth with |S|, by factors of two from 50.
        largest_actions: of the growth with |A|, by factors of four from 2.
        largest_enumerated: most states for which all 3^S policies are evaluated.
        seed: of the random problems and orders.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    for name, least in (("states", 10), ("sweeps", 1), ("starts", 1), ("largest_states", 100), ("largest_actions", 8)):
        record.require(arguments[name] >= least, f"{name} must be at least {least}, got {arguments[name]}")
    record.require(2 <= largest_enumerated <= 14, f"largest_enumerated must be 2 to 14, got {largest_enumerated}")
    record.require_writable(out)

    clock, rng = record.Clock(), np.random.default_rng(seed)
    sizes = list(itertools.takewhile(lambda S: S <= largest_states, (50 * 2**i for i in itertools.count())))
    actions = list(itertools.takewhile(lambda A: A <= largest_actions, (2 * 4**i for i in itertools.count())))
    total = 5 + 3 * (len(sizes) + len(actions)) + len(range(2, largest_enumerated + 1, 3))
    metrics: dict[str, Any] = {}
    figures: dict[str, Figure] = {}
    with jax.enable_x64(True), record.progress() as bar:
        task = bar.add_task("convergence", total=total, note="")
        problems = {
            f"corridor of {states} states": dp.problems.corridor(states, gamma=GAMMA),
            f"garnet of {states} states": dp.problems.garnet(states, 4, 5, gamma=GAMMA, seed=seed),
        }

        def step(name: str, result: tuple[dict, Figure]) -> None:
            metrics[name], figures[name] = result
            advance(bar, task)

        _, garnet = problems.values()
        step("initial_values", initial_values(garnet, rng, starts=starts))
        step("in_place", place(problems, num=sweeps))
        step("order", order(problems, rng, num=sweeps))
        step("growth", growth(sizes, actions, clock, lambda: advance(bar, task), seed=seed))
        step("enumeration", enumeration(largest_enumerated, clock, lambda: advance(bar, task), seed=seed))
    show(metrics)
    return record.write(out, arguments=arguments, metrics=metrics, figures=figures, clock=clock, dtype="float64")


def advance(bar: Progress, task: Any) -> None:
    """Move the progress bar by one."""
    bar.advance(task)


def show(metrics: dict) -> None:
    """Print what was found, a line a factor."""
    table = Table("factor", "case", "needed", title=f"Question 3(c): what affects convergence (γ = {GAMMA})")
    for name, count in metrics["initial_values"]["value_iteration_sweeps"].items():
        table.add_row("initial values", name, f"{count} sweeps")
    for factor, key in (("in place", "sweeps_to_1e-6"), ("order", "backups_per_state_to_1e-6")):
        for problem, counts in metrics[factor.replace(" ", "_")][key].items():
            for name, count in counts.items():
                table.add_row(factor, f"{problem}: {name}", f"{count} sweeps" if count is not None else "not reached")
    for label, solvers in metrics["growth"].items():
        for name, row in solvers.items():
            table.add_row(f"growth with {label}", name, f"seconds ~ {label}^{row['exponent']:.1f}")
    found = metrics["enumeration"]
    for name, seconds in found["seconds"].items():
        table.add_row("enumeration", f"{found['states'][-1]} states: {name}", f"{1e3 * seconds[-1]:.3g} ms")
    record.console.print(table)


if __name__ == "__main__":
    record.command(main)

"""Question 3(c): what affects the convergence time of policy and value iteration? One experiment and figure a factor.

python -m experiments.convergence
"""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

import dp
from experiments import growth, record
from experiments.growth import GAMMA, TOL


def initial_values(mdp: dp.MDP, rng: np.random.Generator, *, starts: int) -> tuple[dict, Figure]:
    """Count sweeps of value iteration and evaluations of policy iteration from different v₀ and π₀."""
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
    sweeps, certified_gap = {}, jax.jit(jax.vmap(lambda v: dp.bounds(mdp, v).gap))
    for name, v0 in starting.items():
        v = dp.value_iteration_history(mdp, v0, 60).v
        error = jnp.abs(v - optimum).max(axis=1)
        sweeps[name] = int(dp.value_iteration(mdp, v0, tol=TOL).iterations)
        (line,) = left.semilogy(error, label=f"{name}: certified in {sweeps[name]}")
        left.semilogy(certified_gap(v), color=line.get_color(), ls="--", lw=1)
    left.set(
        xlabel="sweep k",
        ylabel="max |v_k - v_*|, dashed: certified gap",
        title="value iteration from different v₀",
        ylim=(1e-7, 1e7),
    )
    left.legend(fontsize=7)
    policies = jnp.asarray(rng.integers(0, A, (starts, S)))
    found = jax.jit(jax.vmap(lambda policy: dp.policy_iteration(mdp, policy)))(policies)
    evaluations = np.asarray(found.iterations)
    right.bar(*np.unique(evaluations, return_counts=True), width=0.6)
    right.set(xlabel="policies evaluated", ylabel="starts", title=f"policy iteration, {starts} random π₀")
    right.xaxis.get_major_locator().set_params(integer=True)
    record.require(bool(found.converged.all()), "policy iteration from a random policy was not certified")
    metrics = {
        "value_iteration_sweeps": sweeps,
        "policy_iteration_evaluations": {"mean": evaluations.mean(), "max": evaluations.max(), "starts": starts},
    }
    return metrics, figure


def errors_by_backups(
    mdp: dp.MDP, orders: dict[str, jax.Array | None], num: int
) -> tuple[dict[str, np.ndarray], dict[str, int | None]]:
    """Return max |v - v_*| after 0 ... num sweeps of S backups, and the sweeps until it is below 1e-6, if it was."""
    optimum = dp.policy_iteration(mdp, tol=1e-9).v
    curves, needed = {}, {}
    for name, order in orders.items():
        v = dp.value_iteration_history(mdp, None, num, order=order).v
        curves[name] = np.asarray(jnp.abs(v - optimum).max(axis=1))
        below = curves[name] <= TOL
        needed[name] = int(np.argmax(below)) if below.any() else None
    return curves, needed


def draw_orders(problems: dict[str, dict[str, np.ndarray]], xlabel: str) -> Figure:
    """Draw a panel for each problem, a curve for each order."""
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
    record.require(max(states, largest_states) <= 5000, "states must be at most 5000: models are dense")
    record.require(largest_actions <= 1024, f"largest_actions must be at most 1024, got {largest_actions}")
    record.require(2 <= largest_enumerated <= 14, f"largest_enumerated must be 2 to 14, got {largest_enumerated}")
    record.require_run(seed, out)

    clock, rng = record.Clock(), np.random.default_rng(seed)
    sizes = list(itertools.takewhile(lambda S: largest_states >= S, (50 * 2**i for i in itertools.count())))
    actions = list(itertools.takewhile(lambda A: largest_actions >= A, (2 * 4**i for i in itertools.count())))
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
        step("growth", growth.by_size(sizes, actions, clock, lambda: advance(bar, task), seed=seed))
        step(
            "enumeration", growth.against_enumeration(largest_enumerated, clock, lambda: advance(bar, task), seed=seed)
        )
    show(metrics)
    return record.write(out, arguments=arguments, metrics=metrics, figures=figures, clock=clock, dtype="float64")


def advance(bar: Progress, task: Any) -> None:
    """Move the progress bar by one."""
    bar.advance(task)


def show(metrics: dict) -> None:
    """Print what was found, a line a factor."""
    table = Table("factor", "case", "needed", title=f"Question 3(c): what affects convergence (γ = {GAMMA})")
    for name, count in metrics["initial_values"]["value_iteration_sweeps"].items():
        table.add_row("initial values", name, f"{count} sweep{'s' * (count != 1)}")
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

"""What models and their solutions look like: values and policies on grids, diagrams of states, gaps that close.

python -m experiments.models
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import dp
from dp.problems.cliff import GOAL, HEIGHT, START, WIDTH
from dp.problems.recycling_robot import ACTIONS as TASKS
from dp.problems.recycling_robot import STATES as CHARGES
from dp.problems.space_exploration import ACTIONS, STATES
from dp.show import show
from experiments import diagrams, record

Cells = list[tuple[int, int]]


def rooms(size: int) -> Cells:
    """Return the walls of four rooms with a door between neighbours, on a grid of size x size."""
    middle = size // 2
    doors = {(middle, size // 4), (middle, size - 1 - size // 4), (size // 4, middle), (size - 2 - size // 4, middle)}
    walls = {(middle, i) for i in range(size)} | {(i, middle) for i in range(size)}
    return sorted(walls - doors)


def grids(size: int, slip: float, clock: record.Clock) -> tuple[dict, Figure]:
    """Solve four rooms, and the cliff without and with ice, and draw values and best actions."""
    walls, goal = rooms(size), (size - 2, size - 2)
    arguments = {"gamma": 0.98, "step_reward": -1.0, "slip": slip, "terminals": [goal], "walls": walls}
    four = solve(dp.problems.gridworld(size, size, **arguments), clock)
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    (left, right) = figure.subfigures(1, 2, width_ratios=(1.05, 1), squeeze=False)[0]
    ax = left.subplots()
    diagrams.draw_grid(ax, four, (size, size), walls=walls, terminals=[goal])
    ax.set_title(f"four rooms, -1 a step, slipping with probability {slip:g}", size=10)
    abyss = [divmod(s, WIDTH) for s in range(START + 1, GOAL)]
    metrics = {"rooms": {"states": size * size, "value_of_the_first_cell": four.v[0]}, "cliff": {}}
    for ax, chance in zip(right.subplots(2, 1), (0.0, slip), strict=True):
        found = solve(dp.problems.cliff(0.98, slip=chance), clock)
        diagrams.draw_grid(ax, found, (HEIGHT, WIDTH), walls=abyss, terminals=[divmod(GOAL, WIDTH)])
        ax.set_title(f"the cliff, slipping with probability {chance:g}", size=10)
        metrics["cliff"][f"slip {chance:g}"] = found.v[START]
    figure.supxlabel("γ = 0.98; bent arrows: two actions are equally good", size=9)
    return metrics, figure


def solve(mdp: dp.MDP, clock: record.Clock) -> dp.Solution:
    """Solve a model; a solution without a certificate is not drawn."""
    solution = clock(partial(dp.policy_iteration, tol=1e-8), mdp)
    record.require(bool(solution.converged), "a solver did not meet its tolerance")
    return solution


def transitions() -> tuple[dict, Figure, str]:
    """Draw two small models as diagrams, and write them as tables."""
    named = {
        "space exploration, γ = 1/2": (dp.problems.space_exploration(), STATES, ACTIONS),
        "recycling robot, γ = 0.9": (dp.problems.recycling_robot(), CHARGES, TASKS),
    }
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    tables, metrics = [], {}
    for ax, (title, (mdp, states, actions)) in zip(
        figure.subplots(1, 2, width_ratios=(1, 1.15)), named.items(), strict=True
    ):
        solution = dp.policy_iteration(mdp)
        diagrams.draw_diagram(ax, mdp, states=states, actions=actions, solution=solution)
        ax.set_title(title, size=10)
        tables.append(f"{title}\n\n{show(mdp, solution, states=states, actions=actions)}\n")
        metrics[title] = {"v": solution.v, "policy": solution.policy}
    figure.supxlabel(
        "boxes: choices and their expected rewards, filled where best; in circles: v; on arrows: p", size=9
    )
    return metrics, figure, "\n\n".join(tables)


def convergence(seed: int, iterations: int) -> tuple[dict, Figure]:
    """Follow the certified gap of five solvers on a garnet and on the four rooms."""
    tol = 1e-8
    solvers: dict[str, Callable[..., dp.Solution]] = {
        "value iteration": partial(dp.value_iteration, tol=tol),
        "value iteration, in place, first to last": lambda mdp, **k: dp.value_iteration(
            mdp, order=jnp.arange(mdp.size), tol=tol, **k
        ),
        "Anderson": partial(dp.anderson_iteration, tol=tol),
        "modified policy iteration, 20 sweeps": partial(dp.modified_policy_iteration, sweeps=20, tol=tol),
        "policy iteration": partial(dp.policy_iteration, tol=tol),
    }
    problems = {
        "garnet, 100 states, γ = 0.95": dp.problems.garnet(100, 4, 5, gamma=0.95, seed=seed),
        "four rooms, 9 x 9, γ = 0.95": dp.problems.gridworld(
            9, 9, gamma=0.95, step_reward=-1.0, slip=0.2, terminals=[(7, 7)], walls=rooms(9)
        ),
    }
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    metrics: dict[str, Any] = {}
    for ax, (title, mdp) in zip(figure.subplots(1, 2, sharey=True), problems.items(), strict=True):
        curves = {name: diagrams.gaps(solver, mdp, iterations) for name, solver in solvers.items()}
        diagrams.draw_convergence(ax, curves, tol=tol)
        ax.set_title(title, size=10)
        metrics[title] = {name: int(np.isfinite(gap).sum()) for name, gap in curves.items()}
    return metrics, figure


def main(
    *, size: int = 13, slip: float = 0.2, iterations: int = 200, seed: int = 0, out: Path = Path("results/models")
) -> dict:
    """Draw values and policies on grids, diagrams of two small models, and the gaps of all solvers closing.

    Args:
        size: of the grid with four rooms, odd, at least 7.
        slip: the probability that a step goes sideways.
        iterations: how far to follow each solver.
        seed: of the random model.
        out: folder for metrics.json, tables.txt and the figures.
    """
    arguments = locals()
    record.require(size >= 7 and size % 2 == 1 and size <= 101, f"size must be odd, 7 to 101, got {size}")
    record.require(0 <= slip <= 1, f"slip must be 0 to 1, got {slip}")
    record.require(iterations >= 1, f"iterations must be at least 1, got {iterations}")
    record.require_run(seed, out)
    clock = record.Clock()
    with jax.enable_x64(True):
        on_grids, grid_figure = grids(size, slip, clock)
        found, diagram, tables = transitions()
        gaps, gap_figure = convergence(seed, iterations)
    record.console.print(tables, highlight=False, markup=False)
    return record.write(
        out,
        arguments=arguments,
        metrics={"grids": on_grids, "models": found, "iterations_needed": gaps},
        figures={"grids": grid_figure, "diagrams": diagram, "convergence": gap_figure},
        clock=clock,
        dtype="float64",
        pages={"tables.txt": tables},
    )


if __name__ == "__main__":
    record.command(main)

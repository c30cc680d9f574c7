"""Thousands of small MDPs in one vmapped call, against a Python loop over the same jitted solver.

python -m experiments.bench_batching
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

import dp
from experiments import record
from experiments.bench_call import median_seconds

SOLVERS: dict[str, Callable[[dp.MDP], dp.Solution]] = {
    "solve": dp.solve,
    "modified": functools.partial(dp.modified_policy_iteration, sweeps=5),
    "value iteration": dp.value_iteration,
}


def compare(solver: Callable, mdp: dp.MDP, rewards: jax.Array, loops: int, clock: record.Clock) -> dict:
    """Time `rewards.shape[0]` MDPs at once and `loops` of them one by one, and compare the answers."""

    def solve(mdp: dp.MDP, R: jax.Array) -> dp.Solution:
        return solver(mdp._replace(R=R))

    jitted = jax.jit(solve)
    start = time.perf_counter()
    many = jax.jit(jax.vmap(solve, in_axes=(None, 0))).lower(mdp, rewards).compile()
    clock.compile_seconds += time.perf_counter() - start

    def one_by_one() -> list[dp.Solution]:
        return [jax.block_until_ready(solve(mdp, rewards[i])) for i in range(loops)]

    def one_by_one_jitted() -> list[dp.Solution]:
        return [jax.block_until_ready(jitted(mdp, rewards[i])) for i in range(loops)]

    def at_once() -> dp.Solution:
        return jax.block_until_ready(many(mdp, rewards))

    alone = jax.tree.map(lambda *x: jnp.stack(x), *one_by_one())
    together = at_once()
    record.require(bool(together.converged.all()), "not every MDP was certified")
    in_loop = median_seconds(one_by_one, 5) / loops
    in_jitted_loop = median_seconds(one_by_one_jitted, 5) / loops
    in_batch = median_seconds(at_once, 50) / len(rewards)
    return {
        "microseconds_in_a_loop": 1e6 * in_loop,
        "microseconds_in_a_loop_within_jit": 1e6 * in_jitted_loop,
        "microseconds_in_a_batch": 1e6 * in_batch,
        "ratio": in_loop / in_batch,
        "ratio_within_jit": in_jitted_loop / in_batch,
        "largest_gap": (together.upper - together.lower).max(),
        "largest_difference": jnp.abs(together.v[:loops] - alone.v).max(),
        "policies_agree": bool((together.policy[:loops] == alone.policy).all()),
        "most_iterations": together.iterations.max(),
    }


def draw(rows: dict[str, dict]) -> Figure:
    """Draw microseconds per MDP, in a loop and in a batch."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    ax = figure.subplots()
    y = np.arange(len(rows))[::-1]
    for shift, key, label in (
        (0.2, "microseconds_in_a_loop", "in a loop"),
        (-0.2, "microseconds_in_a_batch", "at once"),
    ):
        ax.barh(y + shift, [row[key] for row in rows.values()], height=0.38, label=label)
    for height, row in zip(y, rows.values(), strict=True):
        ax.text(1.2 * row["microseconds_in_a_batch"], height - 0.2, f"{row['ratio']:.0f} times faster", va="center")
    ax.set_yticks(y, list(rows))
    ax.set(xscale="log", xlabel="microseconds per MDP")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2, frameon=False)
    return figure


def main(*, mdps: int = 10_000, loops: int = 300, seed: int = 0, out: Path = Path("results/bench_batching")) -> dict:
    """Solve copies of Space Exploration with random rewards, all in one call and one by one.

    Args:
        mdps: copies in the one call, each with normal noise of standard deviation 1 on its rewards.
        loops: how many of them the loop solves; the time is per MDP.
        seed: of the rewards.
        out: folder for metrics.json and batching.png.
    """
    arguments = locals()
    record.require(1 <= loops <= mdps, f"need 1 <= loops <= mdps, got {loops} and {mdps}")
    record.require_run(seed, out)
    clock, rows = record.Clock(), {}
    table = Table("solver", "loop", "loop of jit", "batch", "ratios", "gap", title="microseconds per MDP")
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            mdp = dp.problems.space_exploration()
            noise = np.random.default_rng(seed).standard_normal((mdps, *mdp.R.shape))
            rewards = mdp.R[None] + jnp.asarray(noise, mdp.R.dtype) * jnp.array([1, 1, 0], mdp.R.dtype)[None, :, None]
            for name, solver in SOLVERS.items():
                row = rows[f"{name}, {dtype}"] = compare(solver, mdp, rewards, loops, clock)
                keys = ("loop", "loop_within_jit", "batch")
                times = (f"{row[f'microseconds_in_a_{key}']:.3g}" for key in keys)
                ratios = f"{row['ratio']:.0f}, {row['ratio_within_jit']:.0f}"
                table.add_row(f"{name}, {dtype}", *times, ratios, f"{row['largest_gap']:.0e}")
    record.console.print(table)
    record.console.print(
        "loop: the solver called for each MDP; loop of jit: jax.jit(solver); batch: jax.vmap, in one call"
    )
    figures = {"batching": draw(rows)}
    return record.write(
        out, arguments=arguments, metrics=rows, figures=figures, clock=clock, dtype="float64 and float32"
    )


if __name__ == "__main__":
    record.command(main)

"""Certificates against exact rational arithmetic on the stored floats: `lower <= v <= upper`, as fractions.

Every solver of `dp` that encloses v_*, v_π or the soft v_τ. The MDPs are built to break them: near-ties, rewards over
twelve decades, discounts up to 0.9999, tiny probabilities, rows that sum to a little less or more than one, terminal
and forbidden states, starts that are far off, all-zero rewards, and fewer states or actions than the arrays hold.

python -m experiments.certificates --mdps 50000
"""

import functools
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

import dp
from experiments import exact, record
from experiments.exact import Answer, Truth

S, A = 6, 4
BATCH = 250
TOL = {"float32": 1e-3, "float64": 1e-6}  # the defaults of dp


class Case(NamedTuple):
    """An MDP, any values v, a deterministic and a stochastic policy, a temperature; leaves of NumPy, ready to stack."""

    mdp: dp.MDP
    v: np.ndarray
    actions: np.ndarray
    pi: np.ndarray
    temperature: np.ndarray


def transitions(rng: np.random.Generator) -> np.ndarray:
    """Return transitions [S, A, S'], not normalised: dense, of few successors, cycles, or with tiny probabilities."""
    kind = rng.integers(5)
    P = rng.exponential(size=(S, A, S))
    if kind == 1:
        P *= rng.random((S, A, S)) < 0.35
    if kind == 2:
        P = np.eye(S)[rng.integers(S, size=(S, A))]
    if kind == 3:
        P = P**20
    if kind == 4:
        P = np.eye(S)[(np.arange(S)[:, None] + np.ones(A, int)) % S]
    empty = P.sum(-1) == 0
    P[empty] = np.eye(S)[rng.integers(S, size=empty.sum())]
    return P


def rewards(rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
    """Return rewards [S, A] between 1e-6 and 1e6, or 0."""
    scale = 10.0 ** rng.uniform(-6, 6)
    R = rng.normal(size=(S, A)) * scale
    kind = rng.integers(6)
    if kind == 1:
        R = rng.choice([-1, 1], size=(S, A)) * 10.0 ** rng.uniform(-6, 6, size=(S, A))
    if kind == 2:
        R = np.zeros((S, A))
    if kind == 3:
        R = np.full((S, A), scale)
    if kind == 4:  # an offset that swamps what differs
        R = np.full((S, A), 1e6) + rng.normal(size=(S, A))
    R = R.astype(dtype)
    if kind == 5:  # ties, but for units in the last place
        up_or_down = rng.choice([-1, 1], size=(S, A)).astype(dtype)
        R = np.nextafter(np.repeat(R[:, :1], A, axis=1), dtype.type(np.inf) * up_or_down)
    return R


def case(seed: int, dtype: str) -> Case:
    """Return the hostile MDP of this seed; float64 needs JAX's 64-bit mode."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng([seed, 8 * kind.itemsize])
    P, R = transitions(rng), rewards(rng, kind)
    if rng.random() < 0.3:  # the same action over and over, or nearly
        P = np.repeat(P[:, :1], A, axis=1) * (1 + 1e-7 * rng.random((S, A, S)) * rng.integers(2))
    mask = rng.random((S, A)) < (0.6 if rng.random() < 0.4 else 1.1)
    terminal = rng.random(S) < (0.3 if rng.random() < 0.4 else 0.0)
    if rng.random() < 0.2:  # fewer states; often one action
        terminal |= np.arange(S) >= rng.integers(1, S)
        mask &= np.arange(A) < rng.integers(1, A + 1)
    mask[np.arange(S), rng.integers(A, size=S)] = True
    # Probabilities of a narrower type sum to one only as well as that type can.
    P = (P / P.sum(-1, keepdims=True)).astype(np.float32 if rng.random() < 0.5 else kind)
    thin = rng.random() < 0.4
    if thin:
        kept = rng.choice([rng.random((S, A, 1)), 1 - 1e-6 * rng.random((S, A, 1)), np.full((S, A, 1), 0.5)])
        P = (P * kept).astype(P.dtype)
    gamma = rng.choice([0.0, 1e-3, 0.5, 0.9, 0.99, 0.999, 0.9999, rng.random()])
    mdp = dp.make_mdp(P, R, gamma, mask=mask, terminal=terminal, substochastic=thin)

    allowed = np.ones((S, A), bool) if mdp.mask is None else np.asarray(mdp.mask)
    v = rng.choice([0.0, 1.0]) * rng.normal(size=S) * 10.0 ** rng.uniform(-8, 12)
    weight = allowed * rng.choice([np.ones((S, A)), rng.random((S, A)), rng.random((S, A)) ** 30])
    return Case(
        mdp=jax.tree.map(np.asarray, mdp._replace(mask=allowed)),
        v=v.astype(kind),
        actions=np.array([rng.choice(np.flatnonzero(row)) for row in allowed]),
        pi=(weight / weight.sum(1, keepdims=True)).astype(kind),
        temperature=np.asarray((np.abs(R).max() or 1.0) * 10.0 ** rng.uniform(-6, 1), kind),
    )


def stack(cases: Sequence[Case]) -> Case:
    """Return the cases as one, with a leading axis on every array."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *cases)


class Solver(NamedTuple):
    """What encloses which value: v_*, v_π of the actions or of pi, with the discount or without, or the soft v_τ."""

    value: Literal["v_*", "v_τ", "actions", "pi", "actions, γ = 1", "pi, γ = 1"]
    solve: Callable[[Case], dp.Solution | dp.Bounds]


V, BOTH = attrgetter("v"), attrgetter("actions", "v")  # where solvers start


def optimal(solve: Callable, start: Callable[[Case], Any], **settings: Any) -> Solver:
    """Return a solver for v_*."""
    return Solver("v_*", lambda case: solve(case.mdp, start(case), **settings))


def soft(solve: Callable) -> Solver:
    """Return a solver for v_τ."""
    return Solver("v_τ", lambda case: solve(case.mdp, case.v, temperature=case.temperature, max_iters=1000))


def evaluation(value: Any, method: Any, max_iters: int) -> dict[str, Solver]:
    """Return `dp.evaluate` by this method, under the name it has in the table."""
    policy, _, undiscounted = value.partition(", ")

    def solve(case: Case) -> dp.Solution:
        # A concrete number: inside jit, evaluate must see that γ = 1.
        mdp = case.mdp._replace(gamma=np.ones((), case.v.dtype)) if undiscounted else case.mdp
        return dp.evaluate(mdp, getattr(case, policy), case.v, method=method, max_iters=max_iters)

    return {f"{value}: {method}": Solver(value, solve)}


# Where iterations would take long, they may end early: the bounds must hold all the same.
SOLVERS: dict[str, Solver] = {
    "solve": optimal(dp.solve, V),
    "value iteration": optimal(dp.value_iteration, V, max_iters=2000),
    "in place": optimal(dp.value_iteration, V, order=np.arange(S)[::-1], max_iters=1000),
    "in blocks": optimal(dp.value_iteration, V, order=np.arange(S), block=4, max_iters=1000),
    "prioritised": optimal(dp.prioritised_sweeping, V, max_iters=1000),
    "Anderson": optimal(dp.anderson_iteration, V, max_iters=1000),
    "policy iteration": optimal(dp.policy_iteration, attrgetter("actions")),
    "modified, 4 sweeps": optimal(dp.modified_policy_iteration, BOTH, sweeps=4, max_iters=500),
    "modified, adaptive": optimal(dp.modified_policy_iteration, BOTH, max_iters=100),
    "inexact, gmres": optimal(dp.inexact_policy_iteration, BOTH, method="gmres", max_iters=50),
    "inexact, bicgstab": optimal(dp.inexact_policy_iteration, BOTH, method="bicgstab", max_iters=50),
    "after 3 sweeps": optimal(dp.value_iteration, V, max_iters=3),
    "bounds of any v": optimal(dp.bounds, V),
    "soft value iteration": soft(dp.soft_value_iteration),
    "soft policy iteration": soft(dp.soft_policy_iteration),
    **evaluation("actions", "direct", 500),
    **evaluation("actions", "sweeps", 1000),
    **evaluation("actions", "gmres", 10),
    **evaluation("actions", "bicgstab", 10),
    "actions: bounds of any v": Solver("actions", lambda case: dp.bounds(case.mdp, case.v, case.actions)),
    **evaluation("pi", "direct", 500),
    **evaluation("pi", "sweeps", 1000),
    **evaluation("pi", "gmres", 10),
    **evaluation("pi", "bicgstab", 10),
    "pi: bounds of any v": Solver("pi", lambda case: dp.bounds(case.mdp, case.v, case.pi)),
    **evaluation("actions, γ = 1", "direct", 500),
    **evaluation("actions, γ = 1", "gmres", 10),
    **evaluation("pi, γ = 1", "direct", 500),
    **evaluation("pi, γ = 1", "bicgstab", 10),
}


@functools.cache
def compiled(name: str, dtype: str, size: int) -> Callable[[Case], Answer]:
    """Compile a solver for so many cases at once."""
    value, solve = SOLVERS[name]

    def answer(case: Case) -> Answer:
        found = solve(case)
        if isinstance(found, dp.Bounds):
            policy = dp.greedy(case.mdp, jnp.asarray(case.v)) if value == "v_*" else None
            return Answer(found.lower, found.mid, found.upper, jnp.asarray(False), policy)
        return Answer(found.lower, found.v, found.upper, found.converged, found.policy if value == "v_*" else None)

    return jax.jit(jax.vmap(answer)).lower(stack([case(0, dtype)] * size)).compile()


class Batch(NamedTuple):
    """MDPs of `number` consecutive seeds; arrays hold `size` of them, so that one compilation serves every batch."""

    dtype: str
    seed: int
    number: int
    size: int
    solvers: tuple[str, ...]


class Found(NamedTuple):
    """What a batch came to: the broken claims, and per solver [number, 4], NaN where there is no value to enclose.

    Columns: converged? bounds finite? and the two of `exact.tightness`. seconds: compiling, running, exact arithmetic.
    """

    batch: Batch
    violations: list[dict]
    measured: dict[str, np.ndarray]
    seconds: np.ndarray


def examine(batch: Batch) -> Found:
    """Solve the MDPs of a batch in every way, and check every answer."""
    times = [time.perf_counter()]
    with jax.enable_x64(True):
        runs = {name: compiled(name, batch.dtype, batch.size) for name in batch.solvers}
        times.append(time.perf_counter())
        cases = [case(batch.seed + n, batch.dtype) for n in range(batch.number)]
        stacked = stack(cases + cases[-1:] * (batch.size - batch.number))
        answers = {name: jax.tree.map(np.asarray, run(stacked)) for name, run in runs.items()}
    times.append(time.perf_counter())
    violations, measured = [], {name: np.full((batch.number, 4), np.nan) for name in answers}
    for n, each in enumerate(cases):
        here = {name: jax.tree.map(lambda x, n=n: x[n], answer) for name, answer in answers.items()}
        truth, of_policy = truths(each, here)
        for name, answer in here.items():
            known = truth(SOLVERS[name].value)
            own = None if answer.policy is None else of_policy(tuple(answer.policy))
            place = {"seed": batch.seed + n, "dtype": batch.dtype, "solver": name}
            violations += [place | {"claim": c} for c in exact.broken_claims(answer, known, own, TOL[batch.dtype])]
            if known is not None:
                ratios = exact.tightness(answer, known)
                measured[name][n] = bool(answer.converged), exact.bounded(answer), *ratios
    times.append(time.perf_counter())
    return Found(batch, violations, measured, np.diff(times))


def truths(case: Case, answers: dict[str, Answer]) -> tuple[Callable, Callable]:
    """Return two functions: from a `Solver.value` to its exact value, and from a policy to its own."""
    model = exact.model(case.mdp)

    @functools.cache
    def of_policy(policy: tuple[int, ...]) -> np.ndarray | None:
        allowed = model.mask[np.arange(S), policy].all()
        return exact.value(model, np.array(policy)) if allowed else np.full(S, -np.inf)

    @functools.cache
    def optimal() -> np.ndarray | None:
        # Exact policy iteration ends at once where the policy of some answer is optimal.
        guesses = (answer.policy for answer in answers.values() if answer.policy is not None)
        return exact.optimal(model, np.asarray(next(guesses, case.actions)))

    @functools.cache
    def truth(value: str) -> Truth | None:
        policy, _, undiscounted = value.partition(", ")
        if value in ("v_*", "v_τ"):
            v = optimal()
        elif undiscounted:
            v = exact.value(exact.model(case.mdp._replace(gamma=np.float64(1))), getattr(case, policy))
        else:
            v = exact.value(model, getattr(case, policy))
        if v is not None and value == "v_τ":
            return Truth(v, v + exact.most_entropy(model, Fraction(float(case.temperature))))
        return None if v is None else Truth(v, v)

    return truth, of_policy


def examine_all(batches: list[Batch], workers: int) -> Iterator[Found]:
    """Examine batches in processes of their own, as they come; in this one for a single worker."""
    if workers == 1:
        yield from map(examine, batches)
        return
    # Compiling takes long, so a process serves one dtype only. An interrupt ends it at once and in silence.
    most, end = min(workers, len(batches)) // 2, (signal.SIGINT, signal.SIG_DFL)
    pools = {dtype: ProcessPoolExecutor(most, get_context("spawn"), signal.signal, end) for dtype in TOL}
    try:
        yield from (done.result() for done in as_completed([pools[b.dtype].submit(examine, b) for b in batches]))
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


def main(
    *,
    mdps: int = 2000,
    solvers: tuple[str, ...] = (),
    workers: int = os.cpu_count() or 1,
    seed: int = 0,
    out: Path = Path("results/certificates"),
) -> dict:
    """Check every certificate of every solver on hostile MDPs, in exact arithmetic.

    Args:
        mdps: number of MDPs, half of them in float32 and half in float64. 50,000 take some minutes.
        solvers: names from the table; none for all.
        workers: processes; 1 works in this one.
        seed: of the first MDP of each dtype; the others follow.
        out: folder for metrics.json and the figure.
    """
    arguments = locals()
    record.require(mdps >= 2, f"mdps must be at least 2, got {mdps}")
    record.require(workers >= 1, f"workers must be at least 1, got {workers}")
    unknown = [name for name in solvers if name not in SOLVERS]
    record.require(not unknown, f"no solver is called {unknown}; there are {', '.join(map(repr, SOLVERS))}")
    record.require_run(seed, out)

    names = solvers or tuple(SOLVERS)
    number = {"float32": mdps - mdps // 2, "float64": mdps // 2}
    size = min(BATCH, mdps - mdps // 2)
    batches = [
        Batch(dtype, seed + n, min(size, number[dtype] - n), size, names)
        for dtype in TOL
        for n in range(0, number[dtype], size)
    ]
    clock, start, found = record.Clock(), time.perf_counter(), []
    with record.progress() as bar:
        task = bar.add_task("MDPs", total=mdps, note="compiling")
        for each in examine_all(batches, workers):
            found.append(each)
            bar.update(task, advance=each.batch.number, note="")
    clock.compile_seconds, clock.run_seconds, arithmetic = np.sum([each.seconds for each in found], axis=0).tolist()

    measured = {
        dtype: {name: np.concatenate([f.measured[name] for f in found if f.batch.dtype == dtype]) for name in names}
        for dtype in TOL
    }
    false: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for v in (violation for each in found for violation in each.violations):
        false[v["claim"], v["solver"], v["dtype"]].append(v["seed"])
    violations = [
        {"claim": claim, "solver": solver, "dtype": dtype, "number": len(seeds), "first_seeds": sorted(seeds)[:5]}
        for (claim, solver, dtype), seeds in sorted(false.items())
    ]
    metrics = {
        "mdps": number,
        "answers_checked": mdps * len(names),
        "number_of_violations": sum(v["number"] for v in violations),
        "violations": violations,
        "solvers": {dtype: {name: summary(m) for name, m in each.items()} for dtype, each in measured.items()},
        "exact_arithmetic_seconds": arithmetic,
        "mdps_per_second": mdps / (time.perf_counter() - start),
    }
    show(metrics)
    written = record.write(
        out,
        arguments=arguments,
        metrics=metrics,
        figures={"tightness": draw(measured)},
        clock=clock,
        dtype="float32 and float64",
    )
    number = metrics["number_of_violations"]
    record.require(not number, f"{number} claims are false; metrics.json names solvers and seeds")
    return written


QUANTILES = {"median": 0.5, "95%": 0.95, "largest": 1.0}


def summary(measured: np.ndarray) -> dict:
    """Return shares and quantiles of the answers that had a value to enclose."""
    valued = measured[~np.isnan(measured[:, 0])]
    if not len(valued):
        return {"answers": 0, "converged": np.nan, "bounded": np.nan}
    converged, finite, *ratios = valued.T
    found = {"answers": len(valued), "converged": converged.mean(), "bounded": finite.mean()}
    for name, ratio in zip(("error_over_half_gap", "gap_over_largest_distance"), ratios, strict=True):
        known = ratio[~np.isnan(ratio)]
        if len(known):
            found[name] = {label: np.quantile(known, q) for label, q in QUANTILES.items()}
    return found


def show(metrics: dict) -> None:
    """Print what was found, per solver."""
    table = Table("solver", title="Certificates on hostile MDPs")
    for dtype in TOL:
        table.add_column(f"{dtype}\nconverged", justify="right")
        table.add_column("error /\nbound", justify="right")
    found = metrics["solvers"]
    for name in found["float32"]:
        row = []
        for each in (found[dtype][name] for dtype in TOL):
            ratio = each.get("error_over_half_gap")
            row += [f"{each['converged']:.1%}", f"{ratio['median']:.3f}" if ratio else "-"]
        table.add_row(name, *row)
    record.console.print(table)
    record.console.print("actions, pi: evaluation of a deterministic and of a stochastic policy")
    record.console.print("converged: met the default tolerance; the bounds of all others must hold as well")
    record.console.print("error / bound: the median of |v - value| over half the certified gap")
    mdps, false = metrics["mdps"], metrics["number_of_violations"]
    record.console.print(
        f"{mdps['float32']:,} MDPs in float32, {mdps['float64']:,} in float64, {metrics['answers_checked']:,} answers: "
        f"in exact arithmetic {f'{false:,} claims are FALSE' if false else 'no claim is false'}"
    )
    for v in metrics["violations"]:
        example = f"certificates.case({v['first_seeds'][0]}, {v['dtype']!r})"
        record.console.print(f"FALSE  {v['claim']}: {v['number']:,} times by {v['solver']!r}, first for {example}")


def draw(measured: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw, per solver, where the true errors lie inside the certified ones."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (dtype, solvers) in zip(axes, measured.items(), strict=True):
        ratios = {name: m[:, 2][~np.isnan(m[:, 2])] for name, m in solvers.items()}
        ratios = {name: np.maximum(ratio, 1e-4) for name, ratio in ratios.items() if len(ratio)}
        for y, ratio in enumerate(ratios.values()):
            lower, middle, upper, largest = np.quantile(ratio, [0.25, 0.5, 0.75, 1.0])
            ax.plot([lower, upper], [y, y], color="tab:blue", lw=5, solid_capstyle="butt", label="half of the MDPs")
            ax.plot(middle, y, "o", color="white", mec="tab:blue", ms=5, label="median")
            ax.plot([upper, largest], [y, y], "-|", color="tab:blue", lw=1, markevery=[1], ms=9, label="the largest")
        ax.axvline(1, color="tab:red", label="certified")
        ax.set_yticks(range(len(ratios)), list(ratios))
        ax.set(title=dtype, xscale="log", xlabel="true error of v / half the certified gap")
        ax.set_xlim(0.8e-4, max(2.0, 1.5 * max((ratio.max() for ratio in ratios.values()), default=1.0)))
        ax.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    figure.suptitle("How much of the certified error is true, in exact arithmetic (below 1e-4: at the left edge)")
    return figure


if __name__ == "__main__":
    record.command(main)

"""Certificates against exact rational arithmetic on the stored floats: `lower <= v <= upper`, as fractions.

Every solver of `dp` that encloses v_*, v_π or the soft v_τ, on the MDPs of `experiments.hostile`.

python -m experiments.certificates --mdps 50000
"""

import functools
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dp
from experiments import exact, record
from experiments.certificates_report import draw, show, summary
from experiments.exact import Answer, Truth
from experiments.hostile import Case, S, case, stack

BATCH = 250
TOL = {"float32": 1e-3, "float64": 1e-6}  # the defaults of dp


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


if __name__ == "__main__":
    record.command(main)

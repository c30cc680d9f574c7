"""Do Langevin chains weigh two modes that are far apart? 4/5 N((5, 5), I) + 1/5 N((-5, -5), I), the exact score.

Plain Langevin dynamics leaves every chain in the mode it came to first: of starts that are uniform on [-8, 8]^2, half
come to each. Annealed Langevin dynamics nearly finds the weights. Beside them, at an equal number of score evaluations:
MALA, BAOAB, parallel tempering, and HMC of another library on the same energy. Source: Song and Ermon (2019), Section
3.2.2; their steps x + eps/2 s + sqrt(eps) z have h = eps / 2 here.

    python -m experiments.mixing
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dsm
from experiments import mixing_figures as draw
from experiments import record
from experiments.mixing_modes import HEAVY, attracted, heavy, starts
from experiments.mixing_report import EXACT, comparison, diagnose, show
from experiments.mixing_samplers import ANNEALED, find_step, samplers


def main(
    *,
    chains: int = 10_000,
    evaluations: int = 1000,
    epsilon: float = 0.1,
    levels: int = 10,
    largest: float = 20.0,
    leapfrog: int = 10,
    temperatures: tuple[float, ...] = (1.0, 2.5, 6.25, 15.6, 39.0),
    baoab_step: float = 0.5,
    warm_up_steps: int = 200,
    compared: int = 1000,
    permutations: int = 999,
    seed: int = 0,
    out: Path = Path("results/mixing"),
) -> dict:
    """Sample two far modes in six ways, and compare the share of chains on the heavy one with its weight, 0.8.

    Args:
        chains: independent chains of each sampler.
        evaluations: of the score, in each chain.
        epsilon: step size of Langevin in Song and Ermon's convention, h = epsilon / 2; of the last level, annealed.
        levels: noise levels, geometric down to 1.
        largest: the first of them.
        leapfrog: steps of a trajectory of HMC.
        temperatures: of parallel tempering, ascending from 1.
        baoab_step: step of BAOAB, a time.
        warm_up_steps: that find the step sizes of MALA, tempering and HMC; not counted in `evaluations`.
        compared: chains whose ends are compared with exact samples by `mmd_test`, and that R-hat and ESS are from.
        permutations: of that test.
        seed: of everything random.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    kept = check(arguments)
    record.require_run(seed, out)

    clock = record.Clock()
    with jax.enable_x64(False), record.progress() as bar:
        target = dsm.two_modes()
        rows = samplers(
            target,
            evaluations=evaluations,
            kept=kept,
            epsilon=epsilon,
            levels=levels,
            largest=largest,
            leapfrog=leapfrog,
            temperatures=temperatures,
            baoab_step=baoab_step,
        )
        key_start, key_exact, key_runs, key_compare = jax.random.split(jax.random.key(seed), 4)
        start = starts(key_start, chains)
        reference, again = jnp.split(target.sample(key_exact, 2 * chains), 2)
        compare = comparison(clock, key_compare, reference, compared, permutations)
        task = bar.add_task("mixing", total=len(rows) + 1, note="")
        found, ends, shares = {}, {}, {}
        for i, (name, sampler) in enumerate(rows.items()):
            bar.update(task, advance=1, note=name)
            key_warm, key_run = jax.random.split(jax.random.fold_in(key_runs, i))
            step_size = find_step(key_warm, sampler, start[: min(chains, 256)], warm_up_steps, clock)
            run = clock.compile(jax.vmap(sampler.chain, (0, 0, None)), jax.random.split(key_run, chains), start, 0.5)
            x, acceptance = run(jax.random.split(key_run, chains), start, step_size)
            record.require(bool(jnp.isfinite(x).all()), f"{name}: a chain is not finite")
            ends[name] = x[:, -1]
            shares[name] = np.asarray(jnp.mean(heavy(x), axis=0))
            p = float(shares[name][-1])
            found[name] = {
                "share_on_heavy_mode": p,
                "standard_error": math.sqrt(p * (1 - p) / chains),
                "step_size": float(step_size),
                **({} if sampler.warm_up is None else {"acceptance": float(jnp.mean(acceptance))}),
            } | compare(ends[name], reference)
            if name != ANNEALED:  # which is no chain on one density, and its end is one draw
                found[name] |= diagnose(x[:compared], evaluations)
        # What it aims at is not the data but the data smoothed by the last level.
        smoothed = target.smooth(1.0).sample(key_exact, chains)
        found[ANNEALED]["from_smoothed"] = compare(ends[ANNEALED], smoothed)
        ends[EXACT] = again
        found[EXACT] = {
            "share_on_heavy_mode": float(heavy(again).mean()),
            "standard_error": math.sqrt(HEAVY * (1 - HEAVY) / chains),
        } | compare(again, reference)
    show(found)
    figures = {"samples": draw.samples(ends, found), "share": draw.shares(shares, evaluations, attracted())}
    found_metrics = {"samplers": found, "weight": HEAVY, "share_attracted": attracted(), "shares": shares}
    return record.write(out, arguments=arguments, metrics=found_metrics, figures=figures, clock=clock, dtype="float32")


def check(given: dict[str, Any]) -> int:
    """Refuse impossible arguments; return how many draws of a chain can be kept, at the same times by all samplers."""
    least = {"chains": 10, "levels": 2, "leapfrog": 1, "warm_up_steps": 1, "compared": 2, "permutations": 1}
    for name, low in least.items():
        record.require(given[name] >= low, f"{name} must be at least {low}, got {given[name]}")
    chains, compared, evaluations = given["chains"], given["compared"], given["evaluations"]
    record.require(compared <= chains, f"compared must be at most chains = {chains}, got {compared}")
    for name in ("epsilon", "baoab_step"):
        record.require(0 < given[name] < math.inf, f"{name} must be positive, got {given[name]}")
    record.require(1 < given["largest"] < math.inf, f"largest must be above 1, got {given['largest']}")
    temperatures = given["temperatures"]
    ascending = all(a < b < math.inf for a, b in pairwise(temperatures))
    record.require(
        len(temperatures) > 1 and temperatures[0] == 1 and ascending,
        f"temperatures must be two or more that ascend from 1, got {temperatures}",
    )
    costs = {"levels": given["levels"], "leapfrog": given["leapfrog"], "temperatures": len(temperatures)}
    for name, cost in costs.items():
        record.require(
            evaluations % cost == 0 and evaluations >= 8 * cost,
            f"evaluations must be a multiple of {name} ({cost}) and at least {8 * cost}, got {evaluations}",
        )
    kept = math.gcd(*(evaluations // cost for cost in (1, costs["leapfrog"], costs["temperatures"])))
    record.require(kept >= 8, f"evaluations must leave 8 draws or more that all samplers share, got {kept}")
    return kept


if __name__ == "__main__":
    record.command(main)

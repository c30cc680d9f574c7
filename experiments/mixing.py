"""Do Langevin chains weigh two modes that are far apart? 4/5 N((5, 5), I) + 1/5 N((-5, -5), I), the exact score.

Plain Langevin dynamics leaves every chain in the mode it came to first: of starts that are uniform on [-8, 8]^2, half
come to each. Annealed Langevin dynamics nearly finds the weights. Beside them, at an equal number of score evaluations:
MALA, BAOAB, parallel tempering, and HMC of another library on the same energy. Source: Song and Ermon (2019), Section
3.2.2; their steps x + eps/2 s + sqrt(eps) z have h = eps / 2 here.

    python -m experiments.mixing
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from rich.table import Table

import dsm
from dsm import chains, diagnostics, langevin, metrics, tempering, underdamped
from experiments import mixing_figures as draw
from experiments import record

HEAVY = 0.8
HALF_WIDTH = 8.0
"""Chains start uniformly on [-8, 8]^2."""
EXACT = "exact samples"
ANNEALED = "annealed Langevin"


class Sampler(NamedTuple):
    """A chain from one start: `(key, x, step_size) -> (draws [T, 2], acceptance)`, and how its step size is found."""

    chain: Callable[[Key[Array, ""], Float[Array, " 2"], Any], tuple[Float[Array, "T 2"], Array]]
    step_size: float
    warm_up: tuple[Callable, Callable] | None
    """`(init, step)` for `chains.warm_up`; None where the step size is given."""


def heavy(x: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    """1 nearer to (5, 5), 0 nearer to (-5, -5)."""
    return (jnp.sum(x, axis=-1) > 0).astype(x.dtype)


def attracted() -> float:
    """The share of starts that the score draws to the heavy mode: those above the line x_1 + x_2 = -log(4) / 10."""
    side = 2 * HALF_WIDTH
    return 1 - (side - math.log(4) / 10) ** 2 / (2 * side**2)


def hmc(energy: Callable, num_integration_steps: int) -> tuple[Callable, Callable]:
    """HMC of `blackjax` as `init` and `step`: its log-density is minus an energy of ours."""
    import blackjax

    kernel: Any = blackjax.mcmc.hmc.build_kernel()

    def logdensity(x):
        return -energy(x)

    def step(key, state, step_size):
        mass = jnp.ones(state.position.shape, state.position.dtype)
        state, info = kernel(key, state, logdensity, step_size, mass, num_integration_steps)
        return state, langevin.MALAInfo(
            info.acceptance_rate, jnp.asarray(info.is_accepted, mass.dtype), jnp.asarray(info.is_divergent)
        )

    return lambda x: blackjax.mcmc.hmc.init(x, logdensity), step


def samplers(
    target: dsm.GaussianMixture,
    *,
    evaluations: int,
    kept: int,
    epsilon: float,
    levels: int,
    largest: float,
    leapfrog: int,
    temperatures: tuple[float, ...],
    baoab_step: float,
) -> dict[str, Sampler]:
    """The rows of the comparison; every chain evaluates the score `evaluations` times."""
    h = epsilon / 2

    def iterated(init, step, where=lambda state: state.x, cost=1):
        num = evaluations // cost

        def chain(key, x, step_size):
            key_start, key_run = jax.random.split(key)
            state = init(key_start, x)
            _, history = chains.run(
                key_run, lambda key, state: step(key, state, step_size), state, num, thin=max(1, num // kept)
            )
            acceptance = getattr(history.infos, "acceptance", jnp.ones(1))
            return jax.vmap(where)(history.states), jnp.mean(acceptance)

        return chain

    sigmas = dsm.geometric_sigmas(largest, 1.0, levels)

    def annealed(key, x, step_size):
        _, history = dsm.annealed_langevin(
            key,
            lambda x, sigma: target.smooth(sigma).score(x),
            x,
            sigmas,
            steps_per_level=evaluations // levels,
            step_size=step_size,
            denoise=False,
        )
        return history.x, jnp.ones(())

    def mala(key, state, step_size):
        return langevin.mala_step(key, state, target.logdensity, step_size=step_size)

    def start_mala(key, x):
        return langevin.mala_init(x, target.logdensity)

    ladder = jnp.asarray(temperatures)

    def trade(key, state, step_size):
        # A step that suits T = 1 suits the modes at T when it is T times as long.
        state, info = tempering.tempering_step(
            key, state, target.logdensity, temperatures=ladder, step_size=step_size * ladder
        )
        return state, langevin.MALAInfo(info.moves.acceptance[0], info.moves.accepted[0], info.diverged)

    def start_trade(key, x):
        others = jax.random.uniform(key, (len(temperatures) - 1, 2), x.dtype, -HALF_WIDTH, HALF_WIDTH)
        return tempering.tempering_init(jnp.concatenate([x[None], others]), target.logdensity)

    init_hmc, step_hmc = hmc(lambda x: -target.logdensity(x), leapfrog)

    def start_hmc(key, x):
        return init_hmc(x)

    return {
        "Langevin": Sampler(
            iterated(
                lambda key, x: langevin.init(x),
                lambda key, state, h: langevin.ula_step(key, state, target.score, step_size=h),
            ),
            h,
            None,
        ),
        ANNEALED: Sampler(annealed, h, None),
        "MALA": Sampler(iterated(start_mala, mala), 0.5, (start_mala, mala)),
        "BAOAB": Sampler(
            iterated(
                lambda key, x: underdamped.underdamped_init(key, x, target.score),
                lambda key, state, h: underdamped.baoab_step(key, state, target.score, step_size=h),
            ),
            baoab_step,
            None,
        ),
        "parallel tempering": Sampler(
            iterated(start_trade, trade, lambda state: state.x[0], len(temperatures)), 0.5, (start_trade, trade)
        ),
        "HMC (blackjax)": Sampler(
            iterated(start_hmc, step_hmc, lambda state: state.position, leapfrog), 0.5, (start_hmc, step_hmc)
        ),
    }


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
    least = {"chains": 10, "levels": 2, "leapfrog": 1, "warm_up_steps": 1, "compared": 2, "permutations": 1}
    for name, low in least.items():
        record.require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    record.require(compared <= chains, f"compared must be at most chains = {chains}, got {compared}")
    for name in ("epsilon", "baoab_step"):
        record.require(0 < arguments[name] < math.inf, f"{name} must be positive, got {arguments[name]}")
    record.require(1 < largest < math.inf, f"largest must be above 1, got {largest}")
    ascending = all(a < b < math.inf for a, b in pairwise(temperatures))
    record.require(
        len(temperatures) > 1 and temperatures[0] == 1 and ascending,
        f"temperatures must be two or more that ascend from 1, got {temperatures}",
    )
    costs = {"levels": levels, "leapfrog": leapfrog, "temperatures": len(temperatures)}
    for name, cost in costs.items():
        record.require(
            evaluations % cost == 0 and evaluations >= 8 * cost,
            f"evaluations must be a multiple of {name} ({cost}), of 8 or more, got {evaluations}",
        )
    kept = math.gcd(*(evaluations // cost for cost in (1, leapfrog, len(temperatures))))
    record.require(kept >= 8, f"evaluations must leave 8 draws or more that all samplers share, got {kept}")
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
        start = jax.random.uniform(key_start, (chains, 2), minval=-HALF_WIDTH, maxval=HALF_WIDTH)
        reference, again = jnp.split(target.sample(key_exact, 2 * chains), 2)
        bandwidth = metrics.median_distance(reference[:compared])
        task = bar.add_task("mixing", total=len(rows) + 1, note="")

        def distances(x: Array, exact: Array, key: Key[Array, ""]) -> dict[str, Array]:
            key_test, key_lines = jax.random.split(key)
            result = metrics.mmd_test(
                key_test, x[:compared], exact[:compared], bandwidth=bandwidth, num_permutations=permutations
            )
            return {
                "mmd_squared": result.statistic,
                "mmd_p_value": result.p_value,
                "sliced_wasserstein": metrics.sliced_wasserstein(key_lines, x, exact, num_projections=50),
            }

        compare = clock.compile(distances, reference, reference, key_compare)
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
            } | plain(compare(ends[name], reference, key_compare))
            if name != ANNEALED:
                # The second half of each chain; an annealed chain is no chain on one density, and its end one draw.
                late = x[:compared, kept // 2 :, 0]
                ess = float(diagnostics.effective_sample_size(late))
                used = compared * evaluations * late.shape[1] / kept
                found[name] |= {
                    "ess_per_1000_evaluations": 1000 * ess / used,
                    "split_r_hat": float(diagnostics.split_r_hat(late)),
                }
        # What it aims at is not the data but the data smoothed by the last level.
        smoothed = target.smooth(1.0).sample(key_exact, chains)
        found[ANNEALED]["from_smoothed"] = plain(compare(ends[ANNEALED], smoothed, key_compare))
        ends[EXACT] = again
        found[EXACT] = {
            "share_on_heavy_mode": float(heavy(again).mean()),
            "standard_error": math.sqrt(HEAVY * (1 - HEAVY) / chains),
        } | plain(compare(again, reference, key_compare))
    show(found)
    figures = {"samples": draw.samples(ends, found), "share": draw.shares(shares, evaluations, attracted())}
    found_metrics = {"samplers": found, "weight": HEAVY, "share_attracted": attracted(), "shares": shares}
    return record.write(out, arguments=arguments, metrics=found_metrics, figures=figures, clock=clock, dtype="float32")


def plain(row: dict[str, Array]) -> dict[str, float]:
    """Return numbers of the host."""
    return {name: float(value) for name, value in row.items()}


def find_step(key: Key[Array, ""], sampler: Sampler, start: Array, num_steps: int, clock: record.Clock) -> Array:
    """Return the given step size, or one common to all chains that accepts 0.574 of the proposals on average."""
    if sampler.warm_up is None:
        return jnp.asarray(sampler.step_size)
    init, step = sampler.warm_up

    def adapt(key, start):
        key_start, key_run = jax.random.split(key)
        state = jax.vmap(init)(jax.random.split(key_start, len(start)), start)

        def steps(key, state, step_size):
            return jax.vmap(step, (0, 0, None))(jax.random.split(key, len(start)), state, step_size)

        return chains.warm_up(key_run, steps, state, num_steps, step_size=sampler.step_size).step_size

    return clock(adapt, key, start)


def show(found: dict[str, dict]) -> None:
    """Print the table."""
    columns = {
        "step_size": "step",
        "acceptance": "accepted",
        "ess_per_1000_evaluations": "ESS / 1000 scores",
        "split_r_hat": "R-hat",
        "mmd_squared": "MMD²",
        "mmd_p_value": "p",
        "sliced_wasserstein": "SW2",
    }
    table = Table("sampler", "on the heavy mode", *columns.values(), title="Two modes of weights 0.8 and 0.2")
    for name, row in found.items():
        share = f"{row['share_on_heavy_mode']:.3f} ± {row['standard_error']:.3f}"
        table.add_row(name, share, *(f"{row[key]:.3g}" if key in row else "" for key in columns))
    record.console.print(table)


if __name__ == "__main__":
    record.command(main)

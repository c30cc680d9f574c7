"""Every objective of Section 1 side by side: one network, one budget, and targets whose score is known.

The model is exp(-E) / Z with E a perceptron. All objectives aim at one density q, the data p_D smoothed by N(0, σ² I):
equation (2) because that is where its least value lies, the others because their batches are perturbed draws of p_D,
which are draws of q. They share the data, batches, noise, initial parameters and steps of Adam, so they differ in
nothing but what they make of it. Smoothing also makes the others well posed: implicit score matching needs a density
that is smooth and vanishes at infinity, which a checkerboard is not. Equation (2) over many levels trains another
network, conditioned on σ, and is left out.

The errors: of the score, sqrt(E_q |s - grad log q|² / E_q |grad log q|²), of exp(-E) / Z on a box, the
Kullback-Leibler divergence from q by quadrature, and the sliced Wasserstein distance of MALA samples. Then how noisy
the gradients are, against σ and the dimension, and what they cost.

    python -m experiments.objectives
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dsm
from experiments import objectives_figures as draw
from experiments import objectives_losses as losses
from experiments import objectives_noise as noise
from experiments import record
from experiments.objectives_errors import assessor, grids
from experiments.objectives_report import ERRORS, TRUTH, conclusions, show, summary

TARGETS: dict[str, Callable[[], Any]] = {
    "eight Gaussians": dsm.eight_gaussians,
    "two moons": lambda: dsm.two_moons(0.15),
    "ring": lambda: dsm.ring(2.0, 0.2),
    "checkerboard": lambda: dsm.checkerboard(0.2),
}


def main(
    *,
    seed: int = 0,
    seeds: int = 3,
    targets: tuple[str, ...] = tuple(TARGETS),
    objectives: tuple[str, ...] = losses.NAMES,
    steps: int = 2500,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    width: int = 64,
    layers: int = 2,
    sigma: float = 0.2,
    train_size: int = 20_000,
    test_size: int = 20_000,
    nodes: int = 48,
    bandwidth: float = 0.5,
    cd_steps: int = 10,
    step_size: float = 0.02,
    chains: int = 1000,
    chain_steps: int = 300,
    sigmas: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0),
    dims: tuple[int, ...] = (2, 4, 8, 16, 32, 64),
    noise_sigma: float = 0.1,
    examples: int = 1024,
    half_steps: int = 200,
    out: Path = Path("results/objectives"),
) -> dict:
    """Train one energy by every objective on every target; compare errors, noise of the gradient, and time.

    Args:
        seed: of everything random.
        seeds: repetitions, each with its own data, initial parameters and batches.
        targets: densities of the plane, before they are smoothed.
        objectives: those that train.
        steps: of Adam.
        batch_size: examples a step, and fresh noise as many for NCE.
        learning_rate: at the start of a cosine schedule.
        width: of the layers of the energy.
        layers: how many.
        sigma: the noise scale of equation (2), with which all data are smoothed.
        train_size: draws of the data, before they are smoothed.
        test_size: points on which scores are compared.
        nodes: of the quadrature of maximum likelihood, along each axis.
        bandwidth: of the kernel of the Stein discrepancy.
        cd_steps: Langevin steps of both contrastive divergences.
        step_size: of these.
        chains: MALA chains that sample each model.
        chain_steps: steps of each.
        sigmas: where the noise of equation (2) is measured; slopes are fitted up to 0.1.
        dims: where the noise and the time of the objectives are measured.
        noise_sigma: the noise scale there.
        examples: gradients of which the noise is measured.
        half_steps: steps of the oracle that train the network of which it is measured.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    check(arguments)
    record.require_run(seed, out)

    clock, widths = record.Clock(), (width,) * layers
    network = dsm.EnergyMLP(widths)
    key_runs, key_sigma, key_dims = jax.random.split(jax.random.key(seed), 3)
    budget = {"cd_steps": cd_steps, "learning_rate": learning_rate, "batch_size": batch_size, "steps": steps}
    rows: dict[str, dict[str, list[dict]]] = {t: {name: [] for name in [*objectives, TRUTH]} for t in targets}
    with record.progress() as bar:
        trainers = {name: losses.Trainer(clock, network, name, **budget) for name in objectives}
        task = bar.add_task("training", total=len(targets) * seeds * len(objectives), note="")
        maps = {title: {} for title in targets}
        for i, title in enumerate(targets):
            target = TARGETS[title]()
            q = target.smooth(sigma)
            box, fine = grids(q, nodes)
            context = losses.Context(
                jnp.float32(sigma),
                dsm.gaussian(q.mean(), q.covariance()),
                box,
                jnp.float32(bandwidth),
                jnp.float32(step_size),
            )
            assess = assessor(clock, network, q, fine, sigma, chains, chain_steps)
            for s in range(seeds):
                key_data, key_test, key_init, key_train = jax.random.split(
                    jax.random.fold_in(jax.random.fold_in(key_runs, i), s), 4
                )
                data, test = target.sample(key_data, train_size), target.sample(key_test, test_size)
                params = losses.parameters(network, key_init, data[0])
                for name, trainer in trainers.items():
                    known = context._replace(smoothed=q) if name == losses.EXPLICIT else context
                    learned, _ = trainer(key_train, params, data, known)
                    row, log_density = assess(learned, key_test, test)
                    rows[title][name].append({k: float(v) for k, v in row.items()})
                    if s == 0:
                        maps[title][name] = np.asarray(log_density)
                    bar.update(task, advance=1, note=f"{title}, {name}")
                row, log_density = assess(None, key_test, test)
                rows[title][TRUTH].append({k: float(v) for k, v in row.items()})
                maps[title][TRUTH] = np.asarray(log_density)
        counts = {"steps": half_steps, "examples": examples}
        by_sigma = noise.against_sigma(clock, bar, key_sigma, network, dsm.eight_gaussians(), sigmas, **counts)
        counts |= {"batch_size": min(batch_size, examples)}
        by_dimension = noise.against_dimension(clock, bar, key_dims, widths, noise_sigma, dims, **counts)

    found = {
        "targets": {t: {name: summary(runs) for name, runs in table.items()} for t, table in rows.items()},
        "time": {
            name: {
                "milliseconds_per_step": 1e3 * float(np.median(t.seconds)),
                # Of one program; the oracle and the last chunk are compiled anew.
                "compile_seconds": t.compile_seconds,
            }
            for name, t in trainers.items()
        },
        "noise_by_sigma": by_sigma,
        "noise_by_dimension": by_dimension,
    }
    found["conclusions"] = conclusions(found)
    show(found)
    figures = {
        "errors": draw.errors(found["targets"], ERRORS),
        "densities": draw.densities(maps),
        "gradient_noise": draw.gradient_noise(by_sigma, by_dimension),
        "time": draw.times(found["time"], by_dimension),
    }
    return record.write(out, arguments=arguments, metrics=found, figures=figures, clock=clock, dtype="float32")


def check(given: dict[str, Any]) -> None:
    """Refuse impossible arguments."""
    least = {"seeds": 1, "steps": 1, "batch_size": 2, "width": 1, "layers": 1, "train_size": 1, "test_size": 100}
    least |= {"nodes": 16, "cd_steps": 1, "chains": 10, "chain_steps": 1, "examples": 10, "half_steps": 1}
    for name, low in least.items():
        record.require(given[name] >= low, f"{name} must be at least {low}, got {given[name]}")
    for name in ("learning_rate", "sigma", "bandwidth", "step_size", "noise_sigma"):
        record.require(0 < given[name] < np.inf, f"{name} must be positive, got {given[name]}")
    for name, known in (("targets", tuple(TARGETS)), ("objectives", losses.NAMES)):
        chosen = given[name]
        record.require(len(set(chosen)) == len(chosen) > 0, f"{name} must be some, each once, got {chosen}")
        record.require(set(chosen) <= set(known), f"{name} must be of {known}, got {chosen}")
    sigmas, dims = given["sigmas"], given["dims"]
    record.require(sum(0 < s <= 0.1 for s in sigmas) >= 2, f"sigmas must hold two of at most 0.1, got {sigmas}")
    record.require(
        list(sigmas) == sorted(set(sigmas)) and sigmas[0] > 0, f"sigmas must ascend from above 0, got {sigmas}"
    )
    record.require(len(dims) >= 2, f"dims must hold at least two, got {dims}")
    record.require(list(dims) == sorted(set(dims)) and dims[0] >= 1, f"dims must ascend from 1 or more, got {dims}")


if __name__ == "__main__":
    record.command(main)

"""Section 1(c) on a mixture of Gaussians in the plane: train by equation (2), as an energy and as a score network.

The truth is known: equation (2) is least at the score of the data smoothed by N(0, σ² I), which a mixture has in closed
form, and its least value is an integral. So every error below is an error against the exact answer.

    python -m experiments.score_matching
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from rich.table import Table

import dsm
from dsm import langevin, metrics
from experiments import record
from experiments import score_matching_figures as draw
from experiments.trainer import train
from experiments.training_run import energy_of

Score = Callable[..., Array]


class Model(NamedTuple):
    """A network that equation (2) trains: how to initialise it, and the score that its parameters define."""

    init: Callable[[Key[Array, ""], Float[Array, " D"]], Any]
    score: Callable[[Any], Score]


def models(sigma: float, width: int, layers: int) -> tuple[dict[str, Model], dsm.EnergyMLP]:
    """Return the two ways to parameterise a score: minus the gradient of an energy, and a network of its own."""
    energy = dsm.EnergyMLP((width,) * layers)
    network = dsm.ScoreMLP(width=width, num_blocks=layers, sigma_data=2.0**0.5)
    apply: Any = network.apply
    return {
        "energy": Model(energy.init, lambda params: dsm.score_of(energy_of(energy, params))),
        "score network": Model(
            lambda key, x: network.init(key, x, jnp.asarray(sigma, x.dtype)),
            lambda params: lambda x: apply(params, x, jnp.asarray(sigma, x.dtype)),
        ),
    }, energy


def main(
    *,
    sigma: float = 0.3,
    steps: int = 8000,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    width: int = 64,
    layers: int = 2,
    train_size: int = 50_000,
    chains: int = 2000,
    langevin_steps: int = 1000,
    step_size: float = 0.01,
    seed: int = 0,
    out: Path = Path("results/score_matching"),
) -> dict:
    """Train by equation (2), compare with the exact smoothed score, and sample by Langevin dynamics.

    Args:
        sigma: the noise scale of equation (2).
        steps: training steps.
        batch_size: examples a step.
        learning_rate: highest rate of Adam, before a cosine.
        width: of the layers.
        layers: of the energy; blocks of the score network.
        train_size: examples drawn from the mixture.
        chains: Langevin chains, one sample each.
        langevin_steps: steps of each chain.
        step_size: h of x + h s(x) + sqrt(2 h) eps.
        seed: of data, initial parameters, training and chains.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    for name in ("steps", "batch_size", "width", "layers", "train_size", "langevin_steps"):
        record.require(arguments[name] >= 1, f"{name} must be at least 1, got {arguments[name]}")
    record.require(chains >= 10, f"chains must be at least 10, got {chains}")
    for name in ("sigma", "learning_rate", "step_size"):
        record.require(0.0 < arguments[name] < np.inf, f"{name} must be positive, got {arguments[name]}")
    record.require_run(seed, out)

    clock = record.Clock()
    target = dsm.eight_gaussians()
    smoothed = target.smooth(sigma)
    names = ("data", "test", "noise", "start", "fit", "chain", "reference", "projections")
    keys = dict(zip(names, jax.random.split(jax.random.key(seed), len(names)), strict=True))
    data = target.sample(keys["data"], train_size)
    test_clean = target.sample(keys["test"], 20_000)
    test = jax.vmap(dsm.perturb, (0, 0, None))(jax.random.split(keys["noise"], len(test_clean)), test_clean, sigma)
    reference, again = jnp.split(smoothed.sample(keys["reference"], 2 * chains), 2)
    start = 2.0 * jax.random.normal(keys["start"], (chains, 2))

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    networks, energy = models(sigma, width, layers)
    fields: dict[str, Score] = {"exact smoothed score": smoothed.score, "exact data score": target.score}
    losses, params = {}, {}
    with record.progress() as bar:
        for i, (name, model) in enumerate(networks.items()):

            def loss(key: Key[Array, ""], params: Any, x: Float[Array, " D"], model: Model = model) -> Float[Array, ""]:
                return dsm.denoising(key, model.score(params), x, sigma)

            key_init, key_run = jax.random.split(jax.random.fold_in(keys["fit"], i))
            state, losses[name], _ = train(
                clock,
                bar,
                name,
                key_run,
                model.init(key_init, data[0]),
                data,
                batch_loss=dsm.training.per_example(loss),
                optimizer=optimizer,
                batch_size=batch_size,
                steps=steps,
            )
            params[name], fields[name] = state.ema, model.score(state.ema)

    samples: dict[str, Array] = {}
    rows: dict[str, dict] = {}
    bandwidth = metrics.median_distance(reference)  # one for all rows, so that they compare
    for name, score in fields.items():

        def measure(x_tilde: Array, x: Array, start: Array, key: Key[Array, ""], score: Score = score) -> tuple:
            ends = langevin.sample(key, score, start, step_size=step_size, num_steps=langevin_steps)
            exact = jax.vmap(smoothed.score)(x_tilde)
            residual = jax.vmap(score)(x_tilde) - jax.vmap(dsm.kernel_score, (0, 0, None))(x_tilde, x, sigma)
            divergence = metrics.fisher_divergence(score, smoothed.score, x_tilde)
            return {
                "equation_2": jnp.mean(jax.vmap(dsm.losses.half_squared_norm)(residual)),
                "fisher_divergence": divergence,
                "relative_error": jnp.sqrt(2 * divergence / jnp.mean(jnp.sum(exact**2, axis=1))),
            }, ends

        rows[name], samples[name] = clock(measure, test, test_clean, start, keys["chain"])
    rows["fresh exact samples"], samples["exact, smoothed"] = {}, again
    for name, x in samples.items():
        row = rows["fresh exact samples" if name == "exact, smoothed" else name]
        row |= distances(x, reference, keys["projections"], bandwidth)
    rows = {name: {metric: float(value) for metric, value in row.items()} for name, row in rows.items()}
    # The least value of equation 2, exactly. On a sample the loss of the exact score itself strays from it by luck,
    # which all scores share: so the excess is taken over that.
    floor = float(metrics.denoising_floor(smoothed.logdensity, sigma, box_of(sigma)))
    lucky = rows["exact smoothed score"]["equation_2"]
    # Question 1(b): the closed form of the kernel's score against automatic differentiation.
    by_grad = jax.vmap(jax.grad(dsm.kernel_logdensity), (0, 0, None))(test, test_clean, sigma)
    by_hand = jax.vmap(dsm.kernel_score, (0, 0, None))(test, test_clean, sigma)
    kernel_error = float(jnp.abs(by_grad - by_hand).max() / jnp.abs(by_hand).max())
    for row in rows.values():
        if "equation_2" in row:
            row["excess_over_floor"] = row["equation_2"] - lucky

    show(rows)
    figures = {
        "score_field": draw.fields(fields, smoothed),
        "density": draw.densities(smoothed, energy_of(energy, params["energy"])),
        "samples": draw.samples({k: v for k, v in samples.items() if k != "exact data score"}),
        "training": draw.training(losses, floor),
    }
    return record.write(
        out,
        arguments=arguments,
        metrics={
            "scores": rows,
            "floor_of_equation_2": floor,
            "floor_on_the_sample": lucky,
            "kernel_score_against_grad": kernel_error,
        },
        figures=figures,
        clock=clock,
        dtype=str(data.dtype),
    )


def box_of(sigma: float) -> dsm.Grid:
    """Return a quadrature rule on a box that holds the eight Gaussians smoothed."""
    half = 2.0 + 8.0 * (0.3**2 + sigma**2) ** 0.5
    return dsm.quadrature_grid((-half, -half), (half, half), 160)


def distances(x: Array, reference: Array, key: Key[Array, ""], bandwidth: Array) -> dict[str, Array]:
    """Measure how far samples are from exact samples of the smoothed mixture."""
    return {
        "sliced_wasserstein": metrics.sliced_wasserstein(key, x, reference, num_projections=100),
        "mmd_squared": metrics.mmd(x, reference, bandwidth=bandwidth),
    }


def show(rows: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    table = Table(
        "score",
        "eq. (2)",
        "excess",
        "Fisher",
        "rel. error",
        "samples: W2",
        "MMD²",
        title="Against the exact score of the smoothed mixture",
    )
    for name, row in rows.items():
        keys = (
            "equation_2",
            "excess_over_floor",
            "fisher_divergence",
            "relative_error",
            "sliced_wasserstein",
            "mmd_squared",
        )
        table.add_row(name, *(f"{row[key]:.3g}" if key in row else "" for key in keys))
    record.console.print(table)
    record.console.print(
        "Excess: of equation (2) over its least value, which estimates Fisher, the Fisher divergence from the exact "
        "smoothed score.\nThe score of the data itself is far from it. W2: sliced Wasserstein distance of Langevin "
        "samples from exact ones."
    )


if __name__ == "__main__":
    record.command(main)

"""Handwritten digits from noise: Section 1 at work on real images, scored against images that nothing was fitted on.

A score network is trained by equation (2) over a ladder of noise scales, the loss of each weighted by its sigma^2, and
sampled by annealed Langevin dynamics that ends on a denoising step. `experiments.quality` defines what is measured.

    python -m experiments.digits
"""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dsm
from experiments import data, digits_figures, quality, record
from experiments.trainer import train


def main(
    *,
    steps: int = 5500,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    ema_decay: float = 0.999,
    width: int = 512,
    num_blocks: int = 3,
    sigma_max: float = 5.0,
    sigma_min: float = 0.2,
    num_levels: int = 30,
    steps_per_level: int = 16,
    relative_step: float = 0.06,
    num_samples: int = 797,
    draws: int = 4,
    split_seed: int = 0,
    seed: int = 0,
    out: Path = Path("results/digits"),
) -> dict:
    """Train a score network on 1000 digits, sample new ones, and measure them against 797 held-out digits.

    Args:
        steps: of training. More of them lower the Frechet distance, and bring the samples nearer to copies.
        batch_size: images a step, drawn with replacement.
        learning_rate: highest rate of Adam, between a warm-up (a tenth of the steps, 500 at most) and a cosine to 0.
        ema_decay: of the average of parameters that is sampled from.
        width: of the network.
        num_blocks: residual blocks of the network.
        sigma_max: largest noise scale; the images have a mean square of 1 for each pixel.
        sigma_min: smallest noise scale; about one step of grey, which is 0.23.
        num_levels: noise scales, in geometric progression.
        steps_per_level: Langevin steps at each noise scale.
        relative_step: Langevin step in units of sigma^2.
        num_samples: images of one draw; the goal is stated for 797, the size of the held-out half.
        draws: independent draws that every number is averaged over.
        split_seed: chooses the halves. The defaults above were chosen by looking at split 0; others are a fair test.
        seed: of initialisation, training and sampling; the halves and the metric do not depend on it.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    least = {"steps": 1, "batch_size": 1, "width": 1, "num_blocks": 1, "num_levels": 2, "steps_per_level": 1}
    for name, low in (least | {"num_samples": 64, "draws": 1, "split_seed": 0, "seed": 0}).items():
        record.require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    record.require(num_samples <= data.DIGITS_TRAIN, f"num_samples must be at most 1000, got {num_samples}")
    record.require(0 < learning_rate < math.inf, f"learning_rate must be positive and finite, got {learning_rate}")
    record.require(0 <= ema_decay < 1, f"ema_decay must be in [0, 1), got {ema_decay}")
    record.require(0 < sigma_min < math.inf, f"sigma_min must be positive and finite, got {sigma_min}")
    record.require(sigma_min < sigma_max < math.inf, f"sigma_max must be finite and above sigma_min, got {sigma_max}")
    record.require(0 < relative_step < 2, f"relative_step must be in (0, 2), where it is stable, got {relative_step}")
    record.require_run(seed, out)

    clock, rng = record.Clock(), np.random.default_rng(seed)
    split = data.digits(split_seed)
    scaling = data.scaling(split)
    x_train = jnp.asarray(scaling.standardise(split.train), jnp.float32)
    sigmas = jnp.asarray(dsm.geometric_sigmas(sigma_max, sigma_min, num_levels), jnp.float32)
    network = dsm.ScoreMLP(width=width, num_blocks=num_blocks)
    key_init, key_train, key_sample = jax.random.split(jax.random.key(seed), 3)
    params = clock(network.init, key_init, x_train[0], sigmas[0])

    def score(params, x, sigma) -> jax.Array:
        return network.apply(params, x, sigma)  # type: ignore[return-value]

    def loss(key, params, x):
        return dsm.denoising_over_levels(key, partial(score, params), x, sigmas)

    def chain(key, params):
        key_start, key_chain = jax.random.split(key)
        return dsm.annealed_langevin(
            key_chain,
            partial(score, params),
            sigmas[0] * jax.random.normal(key_start, x_train[0].shape, x_train.dtype),
            sigmas,
            steps_per_level=steps_per_level,
            step_size=relative_step * sigmas[-1] ** 2,
        )

    def sample(key, params):
        return jax.vmap(chain, (0, None))(jax.random.split(key, num_samples), params)

    warmup = min(500, steps // 10)
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps))
    with record.progress() as bar:
        state, losses, _ = train(
            clock,
            bar,
            "training",
            key_train,
            params,
            x_train,
            batch_loss=dsm.training.per_example(loss),
            optimizer=optimizer,
            batch_size=batch_size,
            steps=steps,
            ema_decay=ema_decay,
        )
        task = bar.add_task("sampling", total=draws, note="")
        draw, runs = clock.compile(sample, key_sample, state.ema), []
        for i in range(draws):
            runs.append(draw(jax.random.fold_in(key_sample, i), state.ema))
            bar.update(task, advance=1)

    generated = [scaling.pixels(x) for x, _ in runs]
    classifier = quality.fit_classifier(split)
    measure = quality.judge(split, classifier)
    images = {quality.MODEL: generated} | quality.baselines(rng, split, num_samples, draws)
    table = {name: quality.summarise([measure(pixels) for pixels in sets]) for name, sets in images.items()}
    record.console.print(quality.tabulate(table, f"{num_samples} images against the held-out half, {draws} draws"))

    metrics = {
        **{name: number["mean"] for name, number in table[quality.MODEL].items()},
        "goal": quality.GOAL,
        "goal_reached": quality.reached(table[quality.MODEL]),
        "table": table,
        "classes_per_draw": np.bincount(classifier.labels(np.concatenate(generated)), minlength=10) / draws,
        "classifier_accuracy": np.mean(classifier.labels(split.heldout) == split.heldout_labels),
        "loss_last_tenth": losses[-math.ceil(steps / 10) :].mean(),
        "chains_diverged": sum(int(history.diverged.any(axis=1).sum()) for _, history in runs),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }
    x, history = jax.tree.map(lambda leaf: np.asarray(leaf[:8]), runs[0])
    figures = {
        "samples": digits_figures.samples(generated[0], rng.permutation(split.heldout)),
        "training": digits_figures.training(losses),
        "annealing": digits_figures.annealing(history.x, x, np.asarray(sigmas), scaling),
    }
    return record.write(out, arguments=arguments, metrics=metrics, figures=figures, clock=clock, dtype="float32")


if __name__ == "__main__":
    record.command(main)

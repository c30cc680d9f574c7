"""What `experiments.images` tells of a trained network: quality, likelihood, figures, and the record of all."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import images_figures, images_likelihood, images_model, quality, record
from experiments.data import Split
from experiments.images_model import Model, Sampling


def conclude(
    clock: record.Clock,
    split: Any,
    model: Model,
    params: Any,
    lines: list[dict[str, Any]],
    generated: list[np.ndarray],
    how: Sampling,
    a: dict[str, Any],
) -> dict:
    """Measure what was drawn, beside real images and baselines, and write the record."""
    rng = np.random.default_rng(a["seed"])
    num = a["num_samples"]
    real = quality.few(rng, split, num)
    record.console.print("measuring them, beside real images and simpler densities")
    classifier = quality.fit_classifier(split)
    measure = quality.judge(real, classifier)
    sets = {quality.MODEL: generated} | quality.baselines(rng, split, num, a["draws"])
    table = {name: quality.summarise([measure(pixels) for pixels in images]) for name, images in sets.items()}
    goal = quality.goal(split.name, num)
    title = f"{split.name}: {num} images against {len(real.heldout)} held-out ones, {a['draws']} draw(s)"
    record.console.print(quality.tabulate(table, title, goal))
    metrics = {
        **{name: number["mean"] for name, number in table[quality.MODEL].items()},
        "goal": goal,
        "goal_reached": goal and quality.reached(table[quality.MODEL], goal),
        "table": table,
        "classes_per_draw": quality.classes_per_draw(classifier, generated),
        "classifier_accuracy": np.mean(classifier.labels(real.heldout) == real.heldout_labels),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "heldout_loss": lines[-1]["evaluation"]["heldout_loss"],
        # Of all that a run was made of, where it was cut short and went on.
        "training_seconds": sum(
            (line["step"] - before) / line["steps_per_second"]
            for before, line in zip([0, *(line["step"] for line in lines)], lines, strict=False)
        ),
        "lines": lines,
    }
    if a["likelihood"]:
        record.console.print(f"likelihood of {min(a['likelihood'], len(split.heldout))} held-out images")
        # Numbers beyond those that `main` splits its key into.
        key = jax.random.fold_in(jax.random.key(a["seed"]), 4)
        metrics["bits_per_dimension"] = images_likelihood.bits(clock, key, params, model, how, split, a["likelihood"])
        record.console.print(images_likelihood.tabulate(metrics["bits_per_dimension"], split.name))
    record.console.print("figures")
    return record.write(
        a["out"],
        arguments=a,
        metrics=metrics,
        figures=figures(rng, split, real, model, model.score(params), generated[0], how, lines, a),
        clock=clock,
        dtype="float32",
        arrays={"samples": np.concatenate(generated).astype(np.uint8)},
    )


def figures(
    rng: np.random.Generator,
    split: Split,
    real: Split,
    model: Model,
    score: Any,
    generated: np.ndarray,
    how: Sampling,
    lines: list[dict[str, Any]],
    a: dict[str, Any],
) -> dict[str, Figure]:
    """Draw them; what they need beyond the samples is sampled here."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(a["seed"]), 5), 4)
    path, sigmas = images_model.trajectory(keys[0], score, model, how, 8)
    between = model.pixels(np.asarray(images_model.interpolate(keys[1], score, model, how, 6, 11)))
    chosen, mask = rng.permutation(len(real.heldout))[:10], images_model.upper_half(split.shape)
    known, labels = real.heldout[chosen], jnp.asarray(real.heldout_labels[chosen], jnp.int32)
    x = jax.vmap(model.middle)(jnp.asarray(known, jnp.float32))
    completed = np.asarray(images_model.complete(keys[2], score, model, x, labels, jnp.asarray(mask), how, 5))
    completed = np.where(mask, known[:, None], model.pixels(completed))
    drawn = {
        "samples": images_figures.samples(generated, rng.permutation(real.heldout), split),
        "training": images_figures.training(lines),
        "trajectory": images_figures.trajectory(model.shades(np.asarray(path)), np.asarray(sigmas), split),
        "neighbours": images_figures.neighbours(generated[:12], split),
        "interpolation": images_figures.interpolation(between, split),
        "completions": images_figures.completions(known, mask, completed, split, model.classes),
    }
    if model.classes:
        weights = 1.0, 3.0
        sets = [model.pixels(np.asarray(images_model.by_class(keys[3], score, model, how, w, 10))) for w in weights]
        drawn["classes"] = images_figures.classes(sets, weights, split)
    return drawn

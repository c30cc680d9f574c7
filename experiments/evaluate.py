"""The quality of images from anywhere: any samples, measured as those of `experiments.images` are.

`experiments.quality` defines the numbers. Beside them stand those of real images, of copies and of simple densities,
all sets of the same number of images, against the same held-out ones.

    python -m experiments.evaluate my_samples/ --data-set mnist
    python -m experiments.evaluate my_samples.npz --data-set digits
"""

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import data, image_files, images_figures, quality, record
from experiments.data import Split

LEAST = 64
"""Images: fewer have no covariance worth a distance, and do not fill a figure."""
SAMPLES = "samples"
REAL = "training half"


def main(
    samples: Path,
    /,
    *,
    data_set: Literal["digits", "mnist", "fashion", "idx"] = "digits",
    folder: Path | None = None,
    num_samples: int = 2000,
    draws: int = 4,
    split_seed: int = 0,
    seed: int = 0,
    out: Path = Path("results/evaluate"),
) -> dict:
    """Measure images of a folder or a file against the held-out half of a data set.

    Args:
        samples: a folder of .png files, or an array of pixels [N, H, W] or [N, H W] in a .npy or .npz file.
        data_set: digits, mnist, fashion or idx, as in experiments.images.
        folder: of the four IDX files, for idx and fashion.
        num_samples: images of one draw, at most; no more than there are samples, held-out or training images. The
            table has goals for 797 digits, and for 2000 images of mnist or fashion.
        draws: sets of so many images at most, those of the samples without a common image.
        split_seed: chooses the halves of digits and mnist; the one that the samples' model was trained on is needed.
        seed: chooses images where there are more than are needed, and draws those of the simple densities.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    for name, low in {"num_samples": LEAST, "draws": 1, "split_seed": 0}.items():
        record.require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    record.require_run(seed, out)
    start, clock = time.perf_counter(), record.Clock()
    split = data.load(data_set, seed=split_seed, folder=folder)
    images = image_files.read(samples, split.shape, split.levels)
    record.require(len(images) >= LEAST, f"{samples}: {len(images)} images; at least {LEAST} are needed")
    rng = np.random.default_rng(seed)
    num = min(num_samples, len(images), len(split.heldout), len(split.train))
    split = quality.few(rng, split, num)
    sets = {SAMPLES: groups(rng, images, num, draws, split)} | quality.baselines(rng, split, num, draws)
    classifier = quality.fit_classifier(split)
    measure = quality.judge(split, classifier)
    measured = {name: [measure(pixels) for pixels in each] for name, each in sets.items()}
    table = {name: quality.summarise(rows) for name, rows in measured.items()}
    goal = quality.goal(split.name, num)
    title = f"{samples}: {num} of {len(images)} images against {num} held-out ones of {split.name}"
    record.console.print(quality.tabulate(table, title, goal))
    scatter = spread(measured[REAL])
    record.console.print(said(scatter, len(sets[SAMPLES]), draws), highlight=False)
    metrics = {
        **{name: number["mean"] for name, number in table[SAMPLES].items()},
        "num_images": len(images),
        "num_compared": num,
        "draws_of_samples": len(sets[SAMPLES]),
        "goal": goal,
        "goal_reached": goal and quality.reached(table[SAMPLES], goal),
        "table": table,
        "scatter_of_real_images": scatter,
        "classes_per_draw": quality.classes_per_draw(classifier, sets[SAMPLES]),
        "classes_per_draw_of_real_images": quality.classes_per_draw(classifier, sets[REAL]),
    }
    figures = {
        "samples": images_figures.samples(sets[SAMPLES][0], rng.permutation(split.heldout), split),
        "neighbours": images_figures.neighbours(sets[SAMPLES][0][:12], split),
    }
    clock.run_seconds = time.perf_counter() - start
    return record.write(out, arguments=arguments, metrics=metrics, figures=figures, clock=clock, dtype="float32")


def groups(rng: np.random.Generator, images: np.ndarray, num: int, draws: int, split: Split) -> list[np.ndarray]:
    """Share images out at random into sets of `num` without a common one: as many as there are, `draws` at most."""
    order = rng.permutation(len(images))
    starts = range(0, min(draws, len(images) // num) * num, num)
    return [np.ascontiguousarray(images[order[i : i + num]], split.train.dtype) for i in starts]


def spread(rows: list[quality.Quality]) -> dict[str, float | None]:
    """Return the standard deviation of every number over draws; None for a single draw."""
    deviations = np.std(rows, axis=0, ddof=1).tolist() if len(rows) > 1 else [None] * len(quality.Quality._fields)
    return dict(zip(quality.Quality._fields, deviations, strict=True))


def said(scatter: dict[str, Any], sets: int, draws: int) -> str:
    """Say how far numbers of real images lie apart, and so what difference of two samples means nothing."""
    if draws == 1:
        return "With one draw nothing is known of the scatter of these numbers; --draws 4 tells."
    shown = ", ".join(
        f"{scatter[name]:.1g} ({name.replace('_', ' ')})" for name in ("frechet", "coverage", "coverage_pixels")
    )
    mean = "one set" if sets == 1 else f"the mean of {sets} sets"
    return (
        f"One draw of real images scatters by {shown}: standard deviations over {draws} draws of the training half, "
        f"which overlap, so that independent ones lie farther apart. The numbers of the samples are those of {mean}."
    )


if __name__ == "__main__":
    record.command(main)

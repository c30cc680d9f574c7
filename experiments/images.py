"""Images from noise: a score network trained on real pictures, sampled, and scored against pictures it has not seen.

It is equation 2 over noise scales (`dsm.denoising_lognormal`), trained by `experiments.trainer`, which survives being
killed: the same command with --resume goes on. `experiments.quality` defines what is measured.

    python -m experiments.images --data-set digits
    python -m experiments.images --data-set mnist
    python -m experiments.images --data-set mnist --resume
    python -m experiments.images --data-set fashion --classes --guidance 1

All devices share each batch: with JAX_NUM_CPU_DEVICES=4 the cores of one machine as four. On several hosts each runs
the same command, but for its number, and all write to one folder:

    python -m experiments.images --coordinator 10.0.0.1:9911 --processes 2 --process 0
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dsm import training
from experiments import data, hosts, images_model, images_report, images_settings, record
from experiments.images_model import Kind, Model, Sampler, Sampling
from experiments.images_settings import Chosen
from experiments.trainer import Evaluation, Trained, optimizer, train


def main(
    *,
    data_set: Literal["digits", "mnist", "fashion", "idx"] = "digits",
    folder: Path | None = None,
    network: Chosen[Kind] = None,
    width: Chosen[int] = None,
    num_blocks: Chosen[int] = None,
    bfloat16: bool = False,
    classes: bool = False,
    dequantise: bool = False,
    steps: Chosen[int] = None,
    batch_size: Chosen[int] = None,
    learning_rate: Chosen[float] = None,
    clip: float = 1e3,
    ema_decay: Chosen[float] = None,
    noise_mean: Chosen[float] = None,
    noise_std: Chosen[float] = None,
    sampler: Chosen[Sampler] = None,
    levels: Chosen[int] = None,
    sigma_max: float = 80.0,
    sigma_min: float = 0.02,
    churn: Chosen[float] = None,
    guidance: float | None = None,
    num_samples: Chosen[int] = None,
    draws: Chosen[int] = None,
    checkpoints: Chosen[int] = None,
    resume: bool = False,
    split_seed: int = 0,
    likelihood: int = 0,
    coordinator: str | None = None,
    processes: int = 1,
    process: int = 0,
    seed: int = 0,
    out: Path | None = None,
) -> dict:
    """Train a score network on images, sample new ones, and measure them against held-out images.

    Defaults that are "chosen" depend on data set, network and sampler; metrics.json tells them.

    Args:
        data_set: digits (8 x 8), mnist (5000 of 28 x 28), fashion (Debian: apt install dataset-fashion-mnist), or idx:
            any images whose sides are multiples of 4 (of any size for --network mlp), with labels 0 to 9.
        folder: of the four IDX files, for idx, or for fashion where they are not where Debian puts them.
        network: mlp and unet give a score; energy-unet an energy, whose gradient is the score.
        width: of its layers; of a U-Net that of the first level, half of the second.
        num_blocks: residual blocks (of a U-Net, at each resolution).
        bfloat16: activations in 16 bits.
        classes: tell the network the label, so that images can be drawn by class, as they are with --guidance.
        dequantise: train on pixels spread over their step of grey, and take the step that a sample lies in.
        steps: of training: 3000 for digits, 26,000 for mnist, 33,000 for fashion and idx; for mnist with
            --classes 14,000 are enough.
        batch_size: images a step, drawn with replacement.
        learning_rate: highest rate of Adam, between a warm-up (a tenth of the steps, 500 at most) and a cosine to 0.
        clip: norm to which longer gradients are cut.
        ema_decay: of the average of parameters that is sampled from.
        noise_mean: of log sigma in training; the images have a mean square of 1 for each pixel.
        noise_std: of log sigma.
        sampler: heun, churn (heun with noise), annealed (Langevin), predictor-corrector, reverse-sde, flow (an ODE
            solved to a tolerance).
        levels: noise scales of the sampler: 32; 40 for churn; 200 for annealed, predictor-corrector, reverse-sde.
        sigma_max: where it starts; far above the deviation of the images along their first principal component.
        sigma_min: where the last step, which denoises, starts.
        churn: noise that the sampler of this name adds, in all: 40 for it, and none for the others.
        guidance: weight of classifier-free guidance (1: none), labels 0 to 9 in turn, as many of each; needs classes.
        num_samples: images of one draw.
        draws: independent draws that every number is averaged over.
        checkpoints: number of them in a run; with each goes a line of metrics.jsonl with the loss of held-out images.
        resume: go on with the run in `out`; the same settings are needed.
        split_seed: chooses the halves of digits and mnist.
        likelihood: held-out images whose bits per dimension are measured, by the flow; needs dequantise.
        coordinator: HOST:PORT of process 0, where several processes train together.
        processes: how many they are.
        process: number of this one, from 0; it is process 0 that draws images and writes.
        seed: of initialisation, training and sampling.
        out: folder for the run (checkpoints, metrics.jsonl), metrics.json, samples.npz (pixels, an image a row) and the
            figures; by default results/images/ and the data set.
    """
    arguments = images_settings.complete(locals())
    images_settings.check(arguments)
    record.require_run(seed, arguments["out"])
    if coordinator is not None:
        hosts.join(coordinator, processes, process)
    batch, devices = arguments["batch_size"], len(jax.devices())
    record.require(batch % devices == 0, f"batch_size must be a multiple of the {devices} devices, got {batch}")
    clock = record.Clock()
    split = data.load(data_set, seed=split_seed, folder=folder)
    absent = np.setdiff1d(np.arange(data.NUM_CLASSES), split.train_labels).tolist()
    record.require(not (classes and absent), f"classes needs images of all of them, and there are none of {absent}")
    scaling = data.scaling(split)
    model = images_model.build(
        arguments["network"],
        split,
        scaling,
        width=arguments["width"],
        num_blocks=arguments["num_blocks"],
        classes=classes,
        dequantised=dequantise,
        dtype=jnp.bfloat16 if bfloat16 else None,
    )
    how = Sampling(
        arguments["sampler"], arguments["levels"], sigma_max, sigma_min, arguments["churn"], arguments["guidance"]
    )
    key_init, key_train, key_sample, key_held = jax.random.split(jax.random.key(seed), 4)
    with record.progress() as bar:
        trained = fit(clock, bar, key_train, clock(model.init, key_init), key_held, model, split, arguments)
        # What follows is a matter of minutes and of one process; nobody waits for it.
        held = jax.tree.map(np.asarray, trained.state.ema)
        if coordinator is not None:
            jax.distributed.shutdown()
        if process != 0:
            return {}
        params = jax.tree.map(jnp.asarray, held)
        record.console.print(f"drawing {arguments['draws']} x {arguments['num_samples']} images")
        generated = draw(clock, bar, key_sample, params, model, how, arguments)
    return images_report.conclude(clock, split, model, params, trained.lines, generated, how, arguments)


def fit(
    clock: record.Clock, bar: Any, key: Any, params: Any, key_held: Any, model: Model, split: Any, a: Any
) -> Trained:
    """Train, or go on training."""
    rows, heldout = images_model.rows(split)
    loss = partial(model.loss, mean=a["noise_mean"], std=a["noise_std"])

    def measure(key: Any, params: Any, heldout: Any) -> dict[str, Any]:
        keys = jax.random.split(key, heldout.shape[0])
        losses = jax.lax.map(lambda pair: loss(pair[0], params, pair[1]), (keys, heldout), batch_size=256)
        return {"heldout_loss": jnp.mean(losses)}

    # Everything that makes another run, but for what the trainer compares, under the names that it has here.
    shown = ("data_set", "seed", "network", "width", "num_blocks", "dequantise", "classes", "bfloat16")
    shown += ("learning_rate", "clip", "noise_mean", "noise_std", "checkpoints")
    shown += ("split_seed",) if a["data_set"] in ("digits", "mnist") else ()
    return train(
        clock,
        bar,
        "training",
        key,
        params,
        jnp.asarray(rows),
        batch_loss=training.per_example(loss, mesh=hosts.mesh()),
        optimizer=optimizer(a["learning_rate"], a["steps"], warmup=min(500, a["steps"] // 10), clip=a["clip"]),
        batch_size=a["batch_size"],
        steps=a["steps"],
        ema_decay=a["ema_decay"],
        every=-(-a["steps"] // a["checkpoints"]),
        evaluation=Evaluation(measure, key_held, jnp.asarray(heldout[:2000]), best="heldout_loss"),
        folder=a["out"],
        resume=a["resume"],
        about={name: a[name] for name in shown},
        seed=a["seed"],
    )


def draw(clock: record.Clock, bar: Any, key: Any, params: Any, model: Model, how: Sampling, a: Any) -> list[np.ndarray]:
    """Return the pixels of every draw."""
    task = bar.add_task("sampling", total=a["draws"], note="")
    sample = partial(images_model.sample, model=model, how=how, num=a["num_samples"])
    compiled, found = clock.compile(sample, key, params), []
    for i in range(a["draws"]):
        found.append(model.pixels(np.asarray(compiled(jax.random.fold_in(key, i), params))))
        bar.update(task, advance=1)
    return found


if __name__ == "__main__":
    record.command(main)

"""A small run of `experiments.trainer`, as a process of its own: to be killed, or to be one of several.

python trainer_worker.py FOLDER [PROCESSES PROCESS_ID COORDINATOR]
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import dsm
from dsm import training
from experiments import record, trainer

STEPS, EVERY = 240, 8
SIGMA = 0.3
NETWORK = dsm.EnergyMLP((16,))


def loss(key, params, x):
    return dsm.denoising(key, dsm.score_of(lambda x: NETWORK.apply(params, x)), x, SIGMA)


def heldout_loss(key, params, x):
    return {"heldout_loss": training.per_example(loss)(key, params, x)}


def train(folder, *, devices=None, resume=True, steps=STEPS, every=EVERY, **changes):
    """Train on one device, or on those that are given."""
    data = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32) ** 3
    mesh = None if devices is None else Mesh(np.asarray(devices), ("devices",))
    key_init, key_train, key_evaluate = jax.random.split(jax.random.key(3), 3)
    settings = {
        "batch_loss": training.per_example(loss, mesh=mesh),
        "optimizer": trainer.optimizer(3e-3, STEPS, warmup=20, clip=1.0),
        "batch_size": 32,
        "evaluation": trainer.Evaluation(heldout_loss, key_evaluate, jnp.asarray(data[200:]), 2, "heldout_loss"),
        "about": {"learning_rate": 3e-3},
    }
    params = NETWORK.init(key_init, jnp.asarray(data[0]))
    with record.progress() as bar:
        return trainer.train(
            record.Clock(),
            bar,
            "worker",
            key_train,
            params,
            jnp.asarray(data[:200]),
            steps=steps,
            every=every,
            folder=folder,
            resume=resume,
            **(settings | changes),
        )


if __name__ == "__main__":
    devices = None
    if len(sys.argv) > 2:
        processes, process_id, coordinator = sys.argv[2:]
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, int(processes), int(process_id))
        devices = jax.devices()
    folder = Path(sys.argv[1])
    found = train(folder, devices=devices)
    np.save(folder / f"losses-{jax.process_index()}.npy", found.losses)

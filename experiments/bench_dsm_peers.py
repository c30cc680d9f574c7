"""Training steps and chains in dsm, torchebm and blackjax: the same work, each by its own public functions.

A task is a function of no arguments that does a fixed amount of work and returns what is to be checked: for training
the scores at fixed points, for chains where they ended. `python -m experiments.bench_dsm_peers LIBRARY TASK` serves it.
"""

import math
import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from experiments.bench_process import serve

SIGMA, STD, RADIUS, WIDTHS = 0.1, 0.3, 2.0, (2, 128, 128, 1)
STEP_SIZE, CHAINS = 0.01, 10_000
ANGLE = np.arange(8) * math.pi / 4
MEANS = (RADIUS * np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=1)).astype(np.float32)


class Task(NamedTuple):
    """What is timed."""

    description: str
    steps: int
    """Of one call."""
    work: int
    """Examples, or chains, in a step."""


TASKS = {
    "denoising-4096": Task("equation 2 through an energy, a training step, batch 4096", 50, 4096),
    "denoising-256": Task("equation 2 through an energy, a training step, batch 256", 500, 256),
    "sliced-4096": Task("sliced score matching, a training step, batch 4096", 25, 4096),
    "ula-mixture": Task("10,000 chains of ULA on the mixture of 8 Gaussians, a step", 1000, CHAINS),
    "ula-mlp": Task("10,000 chains of ULA on the energy network, a step", 50, CHAINS),
    "mala-mixture": Task("10,000 chains of MALA on the mixture of 8 Gaussians, a step", 1000, CHAINS),
}
Work = Callable[[], np.ndarray]


def smoothed_score(x: np.ndarray) -> np.ndarray:
    """Return the exact score of the mixture smoothed by N(0, SIGMA^2 I), which equation 2 learns."""
    variance = STD**2 + SIGMA**2
    u = MEANS[None].astype(float) - x[:, None]
    logits = -0.5 * (u * u).sum(axis=2) / variance
    r = np.exp(logits - logits.max(axis=1, keepdims=True))
    return ((r / r.sum(axis=1, keepdims=True))[:, :, None] * u).sum(axis=1) / variance


def data(num: int, seed: int = 0) -> np.ndarray:
    """Draw from the mixture."""
    rng = np.random.default_rng(seed)
    return (MEANS[rng.integers(0, 8, num)] + STD * rng.normal(size=(num, 2))).astype(np.float32)


def weights() -> list[np.ndarray]:
    """Draw the matrices of the energy network."""
    rng = np.random.default_rng(1)
    return [(rng.normal(size=pair) / math.sqrt(pair[0])).astype(np.float32) for pair in pairwise(WIDTHS)]


def starts() -> Any:
    """Draw where chains start, in JAX: an equal number on every core, each of which is a device."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    start = jax.random.normal(jax.random.key(2), (CHAINS, 2))
    return jax.device_put(start, NamedSharding(Mesh(jax.devices(), ("cores",)), PartitionSpec("cores")))


def dsm(task: str) -> Work:
    """Ours: `training.fit`, `langevin.sample`, `langevin.mala_step` under `run`."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import Mesh

    import dsm
    from dsm import langevin, training

    kind, what = task.split("-")
    steps = TASKS[task].steps
    network = dsm.EnergyMLP(WIDTHS[1:-1])
    apply: Any = network.apply
    layers = {f"Dense_{i}": {"kernel": jnp.asarray(w), "bias": jnp.zeros(w.shape[1])} for i, w in enumerate(weights())}
    params = {"params": layers}

    def score_of(params: Any) -> Callable:
        return dsm.score_of(lambda x: apply(params, x))

    if what.isdigit():

        def loss(key: Any, params: Any, x: Any) -> Any:
            if kind == "denoising":
                return dsm.denoising(key, score_of(params), x, SIGMA)
            return dsm.sliced(key, score_of(params), x)

        examples, optimizer = jnp.asarray(data(50_000)), optax.adam(1e-3)
        state = training.init(params, optimizer)
        points = jnp.asarray(check_points())
        # A step at a batch of 256 is shorter than the wait for another core.
        shares = jax.device_count() > 1 and int(what) > 1000
        batch_loss = training.per_example(loss, mesh=Mesh(jax.devices(), ("cores",)) if shares else None)

        def train() -> np.ndarray:
            found, _ = training.fit(
                jax.random.key(0),
                state,
                examples,
                batch_loss=batch_loss,
                optimizer=optimizer,
                batch_size=int(what),
                num_steps=steps,
            )
            return np.asarray(jax.block_until_ready(scores(found.params)))

        scores = jax.jit(lambda params: jax.vmap(score_of(params))(points))
        return train

    start = starts()
    mixture = dsm.eight_gaussians(RADIUS, STD)
    if kind == "mala":

        @jax.jit
        def mala(key: Any, x: Any, mixture: Any) -> Any:
            def chain(key: Any, x: Any) -> Any:
                state = langevin.mala_init(x, mixture.logdensity)

                def step(key: Any, state: Any) -> Any:
                    return langevin.mala_step(key, state, mixture.logdensity, step_size=STEP_SIZE)

                return langevin.run(key, step, state, steps, thin=steps)[0].x

            return jax.vmap(chain)(jax.random.split(key, CHAINS), x)

        return lambda: np.asarray(mala(jax.random.key(3), start, mixture))

    @jax.jit
    def ula(key: Any, x: Any, mixture: Any, params: Any) -> Any:
        score = mixture.score if what == "mixture" else score_of(params)
        return langevin.sample(key, score, x, step_size=STEP_SIZE, num_steps=steps)

    return lambda: np.asarray(ula(jax.random.key(3), start, mixture, params))


def torchebm(task: str) -> Work:
    """Its losses with Adam, its Langevin sampler; all in PyTorch, one thread for each core."""
    import os

    torch, losses = import_module("torch"), import_module("torchebm.losses")
    nn, BaseModel = torch.nn, import_module("torchebm.core").BaseModel
    LangevinDynamics = import_module("torchebm.samplers").LangevinDynamics
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    kind, what = task.split("-")
    steps = TASKS[task].steps

    class Network(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1))

        def forward(self, x: Any) -> Any:
            return self.layers(x).squeeze(-1)

    class Mixture(BaseModel):
        def forward(self, x: Any) -> Any:
            squares = ((x[:, None, :] - torch.from_numpy(MEANS)) ** 2).sum(-1)
            return -torch.logsumexp(-0.5 * squares / STD**2, -1)

    if what.isdigit():
        examples = torch.from_numpy(data(50_000))

        def train() -> np.ndarray:
            model = Network()
            loss = (
                losses.DenoisingScoreMatching(model=model, noise_scale=SIGMA)
                if kind == "denoising"
                else losses.SlicedScoreMatching(model=model, n_projections=1)
            )
            adam = torch.optim.Adam(model.parameters(), lr=1e-3)
            for _ in range(steps):
                value = loss(examples[torch.randint(len(examples), (int(what),))])
                adam.zero_grad()
                value.backward()
                adam.step()
            points = torch.from_numpy(check_points()).requires_grad_()
            return -torch.autograd.grad(model(points).sum(), points)[0].numpy()

        return train
    if kind == "mala":
        raise NotImplementedError("has none")
    energy = Mixture() if what == "mixture" else Network()
    if what == "mlp":
        with torch.no_grad():
            for layer, w in zip(list(energy.layers)[::2], weights(), strict=True):
                layer.weight.copy_(torch.from_numpy(w.T))
                layer.bias.zero_()
    sampler = LangevinDynamics(energy, step_size=STEP_SIZE)
    return lambda: sampler.sample(x=torch.randn(CHAINS, 2), n_steps=steps).detach().numpy()


def blackjax(task: str) -> Work:
    """Its sgld, with the gradient of the log-density, and its mala, vmapped over chains inside one scan."""
    import jax
    import jax.numpy as jnp

    library = import_module("blackjax")
    kind, what = task.split("-")
    steps = TASKS[task].steps
    if what.isdigit():
        raise NotImplementedError("does not train")
    matrices = [jnp.asarray(w) for w in weights()]

    def network(x: Any) -> Any:
        for w in matrices[:-1]:
            x = jax.nn.silu(x @ w)
        return -(x @ matrices[-1])[0]

    def mixture(x: Any) -> Any:
        return jax.nn.logsumexp(-0.5 * ((x - MEANS) ** 2).sum(-1) / STD**2)

    logdensity = mixture if what == "mixture" else network
    if kind == "mala":
        kernel = library.mala(logdensity, STEP_SIZE)
        init, position = kernel.init, lambda state: state.position
        step = lambda key, state: kernel.step(key, state)[0]  # noqa: E731
    else:
        sgld = library.sgld(lambda x, _: jax.grad(logdensity)(x))
        init, position = sgld.init, lambda state: state
        # Its step is x + h s(x) + sqrt(2 h) eps, as ours.
        step = lambda key, state: sgld.step(key, state, 0, STEP_SIZE)  # noqa: E731

    @jax.jit
    def run(key: Any, x: Any) -> Any:
        def body(state: Any, key: Any) -> Any:
            return jax.vmap(step)(jax.random.split(key, CHAINS), state), None

        return position(jax.lax.scan(body, jax.vmap(init)(x), jax.random.split(key, steps))[0])

    start = starts()
    return lambda: np.asarray(run(jax.random.key(3), start))


def check_points() -> np.ndarray:
    """Draw points at which scores are compared."""
    return data(2000, seed=2) + SIGMA * np.random.default_rng(3).normal(size=(2000, 2)).astype(np.float32)


def error(task: str, found: np.ndarray) -> float | None:
    """Return what is wrong with a result, where a truth is known.

    Training: the relative error of the score. Chains on the mixture: of E|x|^2, in standard errors; ULA's bias, which
    is known, is allowed for.
    """
    if task.split("-")[1].isdigit():
        exact = smoothed_score(check_points()) if task.startswith("denoising") else None
        return None if exact is None else float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))
    if task.endswith("mlp"):
        return None
    squares = (found.astype(float) ** 2).sum(axis=1)
    variance = STD**2 / (1 - STEP_SIZE / (2 * STD**2)) if task.startswith("ula") else STD**2
    return float(abs(squares.mean() - RADIUS**2 - 2 * variance) / (squares.std() / math.sqrt(len(squares))))


LIBRARIES = {"dsm": dsm, "torchebm": torchebm, "blackjax": blackjax}


def prepare(library: str, task: str) -> tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]:
    """Compile and warm up; return a function that answers each request by one timed call."""
    start = time.perf_counter()
    work = LIBRARIES[library](task)
    work()

    def handle(_: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        found = work()
        return {"seconds": time.perf_counter() - start, "error": error(task, found)}

    return {"seconds": time.perf_counter() - start}, handle


if __name__ == "__main__":
    serve(lambda: prepare(*sys.argv[1:]))

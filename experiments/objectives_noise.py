"""How noisy the gradient of each objective is, against the noise scale σ and the dimension D, and what it costs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Key
from rich.progress import Progress

import dsm
from dsm import training
from experiments import objectives_losses as losses
from experiments.bench_call import median_seconds
from experiments.objectives_losses import Context, Loss
from experiments.record import Clock

REPEATS = 7
HALF_SIGMA = 0.2


def gradients(loss: Loss, key: Key[Array, ""], params: Any, x: Array, context: Context) -> Array:
    """Return the gradient in the parameters of every example by itself, [N, parameters]. `key` is consumed."""
    noise, own = (jax.random.split(k, len(x)) for k in jax.random.split(key))

    def gradient(args: tuple) -> Array:
        noise, own, x = args
        grads = jax.grad(lambda params: loss(noise, own, params, x, context))(params)
        return ravel_pytree(grads["network"])[0]

    return jax.lax.map(gradient, (noise, own, x), batch_size=64)


def moments(rows: Array) -> dict[str, float]:
    """Return the trace of the covariance of the rows, and the squared norm of their mean, both unbiased."""
    g = np.asarray(rows, np.float64)
    trace = float(g.var(axis=0, ddof=1).sum())
    return {"trace": trace, "mean_squared": float((g.mean(axis=0) ** 2).sum() - trace / len(g))}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return b of the least-squares line log y = a + b log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def mixture(D: int) -> dsm.GaussianMixture:
    """Return 1/2 N(-m, I/2) + 1/2 N(m, I/2), m = (1, 0, .., 0): the data of the study of D."""
    mean = np.zeros(D)
    mean[0] = 1.0
    return dsm.gaussian_mixture([0.5, 0.5], np.stack([mean, -mean]), 0.5)


def half_trained(
    clock: Clock, key: Key[Array, ""], network: dsm.EnergyMLP, target: Any, sigma: float, steps: int
) -> Any:
    """Return parameters after a few steps of the oracle: neither the noise of a start, nor a gradient of 0."""
    key_init, key_run, key_data = jax.random.split(key, 3)
    data = target.sample(key_data, 4096)
    oracle = losses.lifted(network, 1)[losses.EXPLICIT]
    optimizer = optax.adam(2e-3)

    def run(key: Any, params: Any, data: Array, context: Context) -> Any:
        def step(state: Any, _: Any) -> tuple:
            return training.step(
                jax.random.fold_in(key, state.step),
                state,
                data,
                batch_loss=lambda key, params, batch: oracle(key, params, batch, context, None),
                optimizer=optimizer,
                batch_size=256,
            )

        return jax.lax.scan(step, training.init(params, optimizer), length=steps)[0].params

    return clock(run, key_run, losses.parameters(network, key_init, data[0]), data, context_of(target, sigma))


def context_of(target: Any, sigma: float) -> Context:
    """Return what the objectives for one example need to know."""
    return Context(jnp.float32(sigma), dsm.gaussian(np.zeros(1), 1.0), smoothed=target.smooth(sigma))


def against_sigma(
    clock: Clock,
    bar: Progress,
    key: Key[Array, ""],
    network: dsm.EnergyMLP,
    target: Any,
    sigmas: Sequence[float],
    **n: int,
) -> dict:
    """Measure the noise of equation (2), with and without its control variate, of one network at every σ.

    Both have the mean gradient of the oracle, whose own noise is least, so both are divided by that.
    """
    key_fit, key_data, key_noise = jax.random.split(key, 3)
    params = half_trained(clock, key_fit, network, target, HALF_SIGMA, n["steps"])
    x = target.sample(key_data, n["examples"])
    found: dict[str, list[dict]] = {losses.EXPLICIT: [], losses.DENOISING: [], losses.VARIATE: []}
    task = bar.add_task("gradient against σ", total=len(sigmas) * len(found), note="")
    for name, rows in found.items():
        loss = losses.examples(network)[name]
        measure = clock.compile(
            lambda *args, loss=loss: gradients(loss, *args), key_noise, params, x, context_of(target, 0.1)
        )
        for sigma in sigmas:
            rows.append(moments(measure(key_noise, params, x, context_of(target, sigma))))
            bar.advance(task)
    reference = [row["mean_squared"] for row in found[losses.EXPLICIT]]
    return report(found, reference, list(sigmas), up_to=0.1) | {"sigmas": list(sigmas)}


def against_dimension(
    clock: Clock,
    bar: Progress,
    key: Key[Array, ""],
    widths: tuple[int, ...],
    sigma: float,
    dims: Sequence[int],
    **n: int,
) -> dict:
    """Measure the noise of every objective for one example, and the time of its gradient, in every D.

    All have the mean gradient of the oracle, but for errors of order h² of finite differences, and all are divided by
    that: of no other is the mean of a thousand gradients more signal than noise.
    """
    names = list(losses.examples(dsm.EnergyMLP(widths)))
    found: dict[str, list[dict]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    task = bar.add_task("gradient against D", total=len(dims) * len(names), note="")
    for D in dims:
        target, network = mixture(D), dsm.EnergyMLP(widths)
        key_fit, key_data, key_noise = jax.random.split(jax.random.fold_in(key, D), 3)
        params = half_trained(clock, key_fit, network, target, sigma, n["steps"])
        x, context = target.sample(key_data, n["examples"]), context_of(target, sigma)
        for name in names:
            loss, batch_loss = losses.examples(network)[name], losses.lifted(network, 1)[name]
            rows = clock(lambda *args, loss=loss: gradients(loss, *args), key_noise, params, x, context)
            found[name].append(moments(rows))

            def step(key: Any, params: Any, x: Array, context: Context, batch_loss: Callable = batch_loss) -> Any:
                return jax.grad(lambda params: batch_loss(key, params, x, context, None))(params)

            batch = key_noise, params, x[: n["batch_size"]], context
            compiled = clock.compile(step, *batch)
            seconds[name].append(median_seconds(lambda compiled=compiled, batch=batch: compiled(*batch), REPEATS))
            bar.advance(task)
    reference = [row["mean_squared"] for row in found[losses.EXPLICIT]]
    times = {name: {"seconds": row, "slope": slope(dims, row)} for name, row in seconds.items()}
    return report(found, reference, list(dims), up_to=np.inf) | {"dims": list(dims), "time": times}


def report(found: dict[str, list[dict]], reference: list[float], axis: list[float], *, up_to: float) -> dict:
    """Return noise and signal of every objective, their ratio, and the slope of the noise up to a place on the axis."""
    rows, fitted = {}, sum(a <= up_to for a in axis)
    for name, row in found.items():
        trace = [m["trace"] for m in row]
        ratio = [t / r for t, r in zip(trace, reference, strict=True)]
        rows[name] = {"trace": trace, "noise_to_signal": ratio, "slope_of_trace": slope(axis[:fitted], trace[:fitted])}
    return {"objectives": rows, "signal": reference}

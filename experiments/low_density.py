"""Question 1(d): does equation 2 learn low-density regions better than maximum likelihood, equation 1?

One energy network is fitted to a few draws of a known density p_D(x) by both equations, with the same optimiser, steps,
batches and initial parameters. As p_D is known, the error of the learned score, |s(x) - grad log p_D(x)|, is measured
wherever p_D is large or small: its root mean square over each tenth of log p_D, for points drawn from p_D, uniform on a
box around it, and uniform on the triangle between its modes. Equation 2 aims at the score of p_D smoothed by
N(0, sigma^2 I), so its error is also measured from there; the distance between the two true scores is a floor that no
amount of data removes.

python -m experiments.low_density
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from rich.progress import Progress
from rich.table import Table
from scipy import stats

import dsm
from experiments import low_density_figures as draw
from experiments import record

HALF_WIDTH = 6.0
"""The box is [-6, 6]^2; equation 1 is normalised on it."""
SPARSE = 0.01
"""The low-density region, where p_D is below its own 1% quantile: it holds 1% of p_D and most of the box."""
CONFIDENCE = 0.95
POINTS = ("drawn from p_D", "uniform on the box", "uniform between the modes")
LIKELIHOOD, DENOISING = "equation 1", "equation 2, "


class Setting(NamedTuple):
    """The truth and where models are compared with it: P sets of N points."""

    target: dsm.GaussianMixture
    points: Float[Array, "P N 2"]
    threshold: Float[Array, ""]
    """log p_D below which the low-density region begins."""
    grid: dsm.Grid
    """Quadrature of equation 1."""
    fine: dsm.Grid
    """Quadrature of the comparison: twice as many nodes along each axis, G points."""


class Evaluation(NamedTuple):
    """One learned density p against the truth p_D, and s = grad log p against two true scores."""

    to_data: Float[Array, "P N"]
    """|s(x) - grad log p_D(x)|^2."""
    to_smoothed: Float[Array, "P N"]
    """|s(x) - grad log p_sigma(x)|^2, p_sigma being p_D smoothed; sigma = 0 for equation 1."""
    log_density: Float[Array, " G"]
    """log p(x), normalised on the box."""
    error_map: Float[Array, " G"]
    """|s(x) - grad log p_D(x)|."""
    log_partition: Float[Array, " 2"]
    """log Z over the box on both grids, that of equation 1 first."""
    kl: Float[Array, ""]
    """KL(p_D || p) over the box."""
    nll: Float[Array, ""]
    """-mean log p(x) over the points drawn from p_D, none of which is a training point."""
    sparse_mass: Float[Array, ""]
    """Probability of the low-density region."""


class Interval(NamedTuple):
    """A mean over seeds and its 95% confidence interval by Student's t."""

    mean: float
    lower: float
    upper: float

    def __str__(self) -> str:
        """Mean and half the length of the interval."""
        return f"{self.mean:.3g} ± {(self.upper - self.lower) / 2:.2g}"


def interval(values: Float[np.ndarray, " S"]) -> Interval:
    """Return the mean of S >= 2 independent values and mean -+ t sd / sqrt(S)."""
    mean, half = values.mean(), half_width(values)
    return Interval(float(mean), float(mean - half), float(mean + half))


def half_width(values: Float[np.ndarray, "S *batch"]) -> Float[np.ndarray, "*batch"]:
    """Return t sd / sqrt(S) along the first axis."""
    S = len(values)
    return stats.t.ppf((1 + CONFIDENCE) / 2, S - 1) * values.std(axis=0, ddof=1) / math.sqrt(S)


def deciles(values: Float[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Return 0 for the lowest tenth of the values to 9 for the highest; sizes differ by one at most."""
    rank = np.argsort(np.argsort(values, kind="stable"))
    return rank * 10 // len(values)


def rms_by_decile(squares: Float[np.ndarray, "*batch N"], decile: Int[np.ndarray, " N"]) -> np.ndarray:
    """Return the root of the mean of the squares in each decile, [*batch, 10]."""
    return np.sqrt(np.stack([squares[..., decile == d].mean(axis=-1) for d in range(10)], axis=-1))


def three_modes() -> dsm.GaussianMixture:
    """Three tilted Gaussians of weights 0.6, 0.3 and 0.1, so far apart that p_D falls below 1e-4 of its height."""
    means = [[-2.5, -2.0], [2.5, -1.5], [0.0, 3.0]]
    covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.3, -0.1], [-0.1, 0.5]], [[0.4, 0.0], [0.0, 0.25]]]
    return dsm.gaussian_mixture([0.6, 0.3, 0.1], means, covariances)


def make_setting(key: Key[Array, ""], *, num_points: int, nodes: int) -> Setting:
    """Draw the points. `key` is consumed."""
    key_drawn, key_box, key_triangle = jax.random.split(key, 3)
    target = three_modes()
    barycentric = jax.random.exponential(key_triangle, (num_points, 3))
    barycentric = barycentric / barycentric.sum(axis=1, keepdims=True)
    points = jnp.stack(
        [
            target.sample(key_drawn, num_points),
            jax.random.uniform(key_box, (num_points, 2), minval=-HALF_WIDTH, maxval=HALF_WIDTH),
            jnp.matmul(barycentric, target.means, precision="highest"),
        ]
    )
    threshold = jnp.quantile(jax.vmap(target.logdensity)(points[0]), SPARSE)
    return Setting(target, points, threshold, box_grid(nodes), box_grid(2 * nodes))


def box_grid(nodes: int) -> dsm.Grid:
    """Gauss-Legendre on the box."""
    return dsm.quadrature_grid((-HALF_WIDTH, -HALF_WIDTH), (HALF_WIDTH, HALF_WIDTH), nodes)


def train(
    key: Key[Array, ""],
    x_train: Float[Array, "N 2"],
    network: dsm.EnergyMLP,
    batch_loss: dsm.training.BatchLoss,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> tuple[dict, Float[Array, " steps"]]:
    """Return the averaged parameters of a fresh network after Adam, and the losses. `key` is consumed."""
    key_init, key_step = jax.random.split(key)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    # Not `training.fit`, which is jitted over a static loss: this one may hold a traced sigma.
    def step(state, _):
        key = jax.random.fold_in(key_step, state.step)
        return dsm.training.step(key, state, x_train, batch_loss=batch_loss, optimizer=optimizer, batch_size=batch_size)

    state = dsm.training.init(network.init(key_init, x_train[0]), optimizer)
    state, infos = jax.lax.scan(step, state, length=steps)
    return state.ema, infos.loss


def energy_of(network: dsm.EnergyMLP, params: dict) -> Callable[[Float[Array, " 2"]], Float[Array, ""]]:
    """Return the function E(x)."""
    return lambda x: cast(Array, network.apply(params, x))


def evaluate(
    energy: Callable[[Float[Array, " 2"]], Float[Array, ""]], setting: Setting, sigma: Float[Array, ""]
) -> Evaluation:
    """Compare the density exp(-energy) / Z with p_D, and its score with that of p_D smoothed by sigma too."""
    target, points, threshold, grid, fine = setting
    score = dsm.score_of(energy)

    def squared_error(true_score):
        return jax.vmap(lambda x: 2 * dsm.explicit(score, true_score, x))

    log_z = dsm.log_partition(energy, fine)
    log_q = -jax.vmap(energy)(fine.points) - log_z
    log_p = jax.vmap(target.logdensity)(fine.points)
    p = jnp.exp(fine.log_weights + log_p)
    q = jnp.exp(fine.log_weights + log_q)
    return Evaluation(
        to_data=jax.vmap(squared_error(target.score))(points),
        to_smoothed=jax.vmap(squared_error(target.smooth(sigma).score))(points),
        log_density=log_q,
        error_map=jnp.sqrt(squared_error(target.score)(fine.points)),
        log_partition=jnp.stack([dsm.log_partition(energy, grid), log_z]),
        kl=jnp.sum(p * (log_p - log_q)) / jnp.sum(p),
        nll=jnp.mean(jax.vmap(energy)(points[0])) + log_z,
        sparse_mass=jnp.sum(jnp.where(log_p < threshold, q, 0.0)),
    )


def main(
    *,
    seed: int = 0,
    seeds: int = 8,
    steps: int = 3000,
    batch_size: int = 256,
    train_size: int = 1000,
    sigmas: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0),
    learning_rate: float = 2e-3,
    width: int = 64,
    nodes: int = 40,
    num_points: int = 10_000,
    out: Path = Path("results/low_density"),
) -> dict:
    """Fit one energy network by equation 1, and by equation 2 for several sigma; compare score errors by density.

    Args:
        seed: of everything random.
        seeds: repetitions, each with its own training set, initial parameters and noise.
        steps: of Adam.
        batch_size: training points of each step, drawn with replacement.
        train_size: number of training points.
        sigmas: noise scales of equation 2, a model each; the modes have standard deviations from 0.4 to 0.8.
        learning_rate: at the start of a cosine schedule.
        width: of both hidden layers of the energy network.
        nodes: of the quadrature of equation 1, along each axis.
        num_points: in each set of points on which scores are compared.
        out: folder for metrics.json and the figures.
    """
    arguments = locals()
    least = {"seeds": 2, "steps": 1, "batch_size": 1, "train_size": 2, "width": 1, "nodes": 16, "num_points": 100}
    for name, low in least.items():
        record.require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    record.require(len(sigmas) > 0, "sigmas must hold at least one noise scale")
    for sigma in sigmas:
        record.require(0 < sigma < math.inf, f"sigmas must be positive and finite, got {sigma}")
    levels = sorted(sigmas)
    names = [LIKELIHOOD, *(f"{DENOISING}σ = {sigma:g}" for sigma in levels)]
    record.require(len(set(names)) == len(names), f"sigmas must differ from each other, got {sigmas}")
    record.require(0 < learning_rate < math.inf, f"learning_rate must be positive, got {learning_rate}")
    record.require_writable(out)

    clock, network = record.Clock(), dsm.EnergyMLP(widths=(width, width))
    budget = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    with jax.enable_x64(False), record.progress() as bar:
        key_setting, key_seeds = jax.random.split(jax.random.key(seed))
        setting = make_setting(key_setting, num_points=num_points, nodes=nodes)
        models, found, seconds = learn(
            key_seeds,
            setting,
            network,
            clock,
            bar,
            seeds=seeds,
            train_size=train_size,
            names=names,
            levels=levels,
            budget=budget,
        )
        truth = describe(setting, levels)
    quadrature_error = check_quadrature(network, models, found.log_partition, 3 * nodes)
    metrics = summarise(names, found, truth)
    metrics |= {"seconds_per_model": dict(zip(names, seconds, strict=True)), "quadrature_error": quadrature_error}
    metrics |= {"verdict": verdict(metrics)}
    show(metrics)
    figures = {
        "error_by_density": draw.deciles(metrics),
        "error_by_sigma": draw.sigmas(metrics, levels),
        # Of the first seed.
        "densities": draw.densities(names, setting.target, setting.fine, found.log_density[:, 0]),
        "error_maps": draw.error_maps(names, setting.target, setting.fine, found.error_map[:, 0]),
    }
    return record.write(out, arguments=arguments, metrics=metrics, figures=figures, clock=clock, dtype="float32")


def learn(
    key: Key[Array, ""],
    setting: Setting,
    network: dsm.EnergyMLP,
    clock: record.Clock,
    bar: Progress,
    *,
    seeds: int,
    train_size: int,
    names: list[str],
    levels: list[float],
    budget: dict[str, Any],
) -> tuple[list[list[dict]], Evaluation, np.ndarray]:
    """Train and evaluate M = 1 + len(levels) models for each seed; three programs are compiled, whatever M.

    Returns the parameters, the evaluations with axes [M, seeds] in front, and the seconds of one training, [M].
    """

    def equation_1(key, x_train, grid):
        def loss(key, params, batch):
            return dsm.negative_log_likelihood(energy_of(network, params), batch, grid)

        return train(key, x_train, network, loss, **budget)

    def equation_2(key, x_train, sigma):
        def loss(key, params, x):
            return dsm.denoising(key, dsm.score_of(energy_of(network, params)), x, sigma)

        return train(key, x_train, network, dsm.training.per_example(loss), **budget)

    def assess(params, setting, sigma):
        return evaluate(energy_of(network, params), setting, sigma)

    task = bar.add_task("low density", total=seeds * (1 + len(levels)), note="compiling")
    x_train, zero = jax.ShapeDtypeStruct((train_size, 2), jnp.float32), jnp.zeros(())
    by_likelihood = clock.compile(equation_1, key, x_train, setting.grid)
    by_denoising = clock.compile(equation_2, key, x_train, zero)
    params, _ = jax.eval_shape(equation_2, key, x_train, zero)
    assessed = clock.compile(assess, params, setting, zero)

    models, found = [[] for _ in (0, *levels)], [[] for _ in (0, *levels)]
    seconds = np.zeros(1 + len(levels))
    for i in range(seeds):
        # One key for all models of a seed: they share data, initial parameters and batches, and differences are paired.
        key_data, key_train = jax.random.split(jax.random.fold_in(key, i))
        x_train = setting.target.sample(key_data, train_size)
        for m, sigma in enumerate(jnp.asarray([0.0, *levels])):
            start = clock.run_seconds
            if m == 0:
                params, losses = by_likelihood(key_train, x_train, setting.grid)
            else:
                params, losses = by_denoising(key_train, x_train, sigma)
            seconds[m] += (clock.run_seconds - start) / seeds
            record.require(bool(jnp.isfinite(losses).all()), f"seed {i}, {names[m]}: the loss is not finite")
            models[m].append(params)
            found[m].append(assessed(params, setting, sigma))
            bar.update(task, advance=1, note=f"seed {i + 1} of {seeds}")
    rows = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *row) for row in found]
    return models, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), seconds


class Truth(NamedTuple):
    """What the models are compared with."""

    decile: Int[np.ndarray, "P N"]
    log_density: Float[np.ndarray, "P 10"]
    """Median of log p_D in each decile."""
    data_score: Float[np.ndarray, "P 10"]
    """Root mean square of |grad log p_D|: the error of a score that is 0."""
    bias: Float[np.ndarray, "L P 10"]
    """Root mean square of |grad log p_sigma - grad log p_D|."""
    entropy: float
    """-mean log p_D over the points drawn from it: the nll of a perfect model."""
    sparse_mass: float
    outside: float
    """Mass of p_D outside the box."""


def describe(setting: Setting, levels: list[float]) -> Truth:
    """Compute what does not depend on a model."""
    target, points, threshold, _, fine = setting
    logdensity = jax.jit(jax.vmap(target.logdensity))
    log_p = np.stack([logdensity(x) for x in points])
    decile = np.stack([deciles(values) for values in log_p])

    scores = jax.jit(lambda sigma: jax.vmap(jax.vmap(target.smooth(sigma).score))(points))

    def rms(u):
        squares = np.sum(np.asarray(u) ** 2, axis=-1)
        return np.stack([rms_by_decile(*pair) for pair in zip(squares, decile, strict=True)])

    on_grid = np.asarray(logdensity(fine.points), np.float64)
    p = np.exp(on_grid + np.asarray(fine.log_weights, np.float64))
    return Truth(
        decile=decile,
        log_density=np.stack([[np.median(v[d == k]) for k in range(10)] for v, d in zip(log_p, decile, strict=True)]),
        data_score=rms(scores(0.0)),
        bias=np.stack([rms(scores(sigma) - scores(0.0)) for sigma in levels]),
        entropy=float(-log_p[0].mean()),
        sparse_mass=float(p[on_grid < float(threshold)].sum()),
        outside=float(1 - p.sum()),
    )


def check_quadrature(
    network: dsm.EnergyMLP, models: list[list[dict]], log_partition: Float[Array, "M S 2"], nodes: int
) -> dict[str, float]:
    """Return the largest error of log Z in float32 on either grid, against float64 and `nodes` along each axis."""
    with jax.enable_x64(True):
        grid = box_grid(nodes)
        exact = jax.jit(lambda params: dsm.log_partition(energy_of(network, params), grid))
        doubles = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), models)
        truth = np.array([[exact(params) for params in row] for row in doubles])
    error = np.abs(np.asarray(log_partition) - truth[:, :, None])
    return {"equation 1, in training": float(error[0, :, 0].max()), "all models, compared": float(error[:, :, 1].max())}


def summarise(names: list[str], found: Evaluation, truth: Truth) -> dict:
    """Reduce the evaluations of M models and S seeds to means and confidence intervals."""

    def by_decile(squares):
        # [M, S, P, 10]
        squares = np.asarray(squares, np.float64)
        return np.stack([rms_by_decile(squares[:, :, p], d) for p, d in enumerate(truth.decile)], axis=2)

    def by_points(function, *arrays):
        # {points: {name: function(rows [S, 10])}}
        return {
            points: {
                name: function(*(row[:, p] for row in rows))
                for name, *rows in zip(names[-len(arrays[0]) :], *arrays, strict=True)
            }
            for p, points in enumerate(POINTS)
        }

    def statistics(rows):
        return {"mean": rows.mean(axis=0), "half_width": half_width(rows)}

    error, from_smoothed = by_decile(found.to_data), by_decile(found.to_smoothed)
    share = error[0] / truth.data_score
    baseline = np.broadcast_to(error[:1], error[1:].shape)
    density = {
        key: np.asarray(value, np.float64)
        for key, value in (("kl", found.kl), ("nll", found.nll), ("sparse_mass", found.sparse_mass))
    }
    return {
        "error": by_points(statistics, error),
        "error_from_smoothed_score": by_points(statistics, from_smoothed[1:]),
        "equation_2_minus_equation_1": by_points(compare, error[1:], baseline),
        "equation_1_sparsest_minus_densest": {
            points: {
                "absolute": interval(error[0, :, p, 0] - error[0, :, p, -1])._asdict(),
                "share_of_data_score": interval(share[:, p, 0] - share[:, p, -1])._asdict(),
            }
            for p, points in enumerate(POINTS)
        },
        "bias_of_smoothing": {
            points: {name: bias[p] for name, bias in zip(names[1:], truth.bias, strict=True)}
            for p, points in enumerate(POINTS)
        },
        "data_score": dict(zip(POINTS, truth.data_score, strict=True)),
        "median_log_density": dict(zip(POINTS, truth.log_density, strict=True)),
        "density": {
            name: {key: interval(value[m])._asdict() for key, value in density.items()}
            | {"kl_minus_equation_1": interval(density["kl"][m] - density["kl"][0])._asdict()}
            for m, name in enumerate(names)
        },
        "truth": {"nll": truth.entropy, "sparse_mass": truth.sparse_mass, "mass_outside_box": truth.outside},
    }


def compare(error: Float[np.ndarray, "S 10"], baseline: Float[np.ndarray, "S 10"]) -> dict:
    """Compare two models seed by seed: the difference in the sparsest decile, and the deciles (1 to 10) it decides."""
    intervals = [interval(column) for column in (error - baseline).T]
    words = [word(difference) for difference in intervals]
    return {
        "sparsest": intervals[0]._asdict(),
        "sparsest_is": words[0],
        "better_in": [d for d, w in enumerate(words, start=1) if w == "better"],
        "worse_in": [d for d, w in enumerate(words, start=1) if w == "worse"],
    }


def word(difference: Interval) -> str:
    """Say whether a difference of errors is below 0, above it, or neither with confidence."""
    return "better" if difference.upper < 0 else "worse" if difference.lower > 0 else "undecided"


def verdict(metrics: dict) -> list[str]:
    """Hold the two claims of the exercise against the numbers, in sentences."""
    sentences = []
    for points in POINTS:
        mean = metrics["error"][points][LIKELIHOOD]["mean"]
        share = mean / metrics["data_score"][points]
        absolute, relative = (Interval(**row) for row in metrics["equation_1_sparsest_minus_densest"][points].values())
        claim = {"worse": "holds", "better": "is contradicted", "undecided": "is not decided"}
        sentences.append(
            f"Points {points}: that equation 1 is poorer at low density {claim[word(absolute)]}. Its score errs by "
            f"{mean[0]:.3g} in the sparsest decile and by {mean[-1]:.3g} in the densest, a difference of {absolute}. "
            f"As shares of the data's score, {share[0]:.2g} and {share[-1]:.2g}, a difference of {relative}, it "
            f"{claim[word(relative)]}."
        )
        against = metrics["equation_2_minus_equation_1"][points]
        better = [name.removeprefix(DENOISING) for name, row in against.items() if row["sparsest_is"] == "better"]
        *_, largest = against.values()
        claim = f"holds at {', '.join(better)}" if better else "holds at no σ tried"
        claim += f", and the largest σ is {largest['sparsest_is']}"
        own, bias = metrics["error_from_smoothed_score"][points], metrics["bias_of_smoothing"][points]
        sentences.append(
            f"Points {points}: that equation 2 is better in the sparsest decile with σ large enough {claim}. "
            f"Equation 2 minus equation 1: {differences({name: row['sparsest'] for name, row in against.items()})}. "
            f"From the smallest σ to the largest, its distance from its target, the score of the smoothed data, goes "
            f"from {ends([row['mean'][0] for row in own.values()])}; the target's from the data's score from "
            f"{ends([row[0] for row in bias.values()])}."
        )
    density = metrics["density"]
    sentences.append(
        f"As densities, by KL(p_D || p), equation 1 has {Interval(**density[LIKELIHOOD]['kl'])}; "
        "equation 2 minus that: "
        + differences({name: row["kl_minus_equation_1"] for name, row in density.items() if name != LIKELIHOOD})
        + "."
    )
    error = metrics["quadrature_error"]
    sentences.append(
        f"Differences are paired by seed, and each {CONFIDENCE:.0%} interval stands by itself. Quadrature in float32 "
        f"was right to {error['equation 1, in training']:.1g} in log Z for equation 1 and to "
        f"{error['all models, compared']:.1g} in the comparison."
    )
    return sentences


def differences(rows: dict[str, dict]) -> str:
    """List a difference for each sigma, and what it says."""
    intervals = {name.removeprefix(DENOISING): Interval(**row) for name, row in rows.items()}
    return "; ".join(f"{name}: {difference}, {word(difference)}" for name, difference in intervals.items())


def ends(values: list[float]) -> str:
    """Say the first value and the last."""
    return f"{values[0]:.3g} to {values[-1]:.3g}"


def show(metrics: dict) -> None:
    """Print the errors in the sparsest decile, the densities and the verdict."""
    for points, rows in metrics["error"].items():
        table = Table(
            *("model", "error", "to target", "bias", "minus eq. 1", "better", "worse"),
            title=f"RMS score error, sparsest decile, points {points}",
            caption="target: the smoothed data's score; bias: its distance from the data's; better, worse: in deciles",
        )
        table.add_row("score 0", f"{metrics['data_score'][points][0]:.3g}")
        for name, row in rows.items():
            cells = [name.removeprefix(DENOISING), f"{row['mean'][0]:.3g}"]
            if name != LIKELIHOOD:
                against = metrics["equation_2_minus_equation_1"][points][name]
                cells += [
                    f"{metrics['error_from_smoothed_score'][points][name]['mean'][0]:.3g}",
                    f"{metrics['bias_of_smoothing'][points][name][0]:.3g}",
                    str(Interval(**against["sparsest"])),
                    runs(against["better_in"]),
                    runs(against["worse_in"]),
                ]
            table.add_row(*cells)
        record.console.print(table)
    titles = ("KL(p_D || p)", "held-out nll", "low-density mass", "seconds")
    table = Table("model", *titles, title=f"As densities on the box, mean ± {CONFIDENCE:.0%} interval over seeds")
    truth = metrics["truth"]
    table.add_row("p_D", "0", f"{truth['nll']:.3g}", f"{truth['sparse_mass']:.3g}")
    for name, row in metrics["density"].items():
        cells = (str(Interval(**row[key])) for key in ("kl", "nll", "sparse_mass"))
        table.add_row(name.removeprefix(DENOISING), *cells, f"{metrics['seconds_per_model'][name]:.2g}")
    record.console.print(table)
    for sentence in metrics["verdict"]:
        record.console.print(sentence)


def runs(numbers: list[int]) -> str:
    """Write [1, 2, 3, 5] as 1-3, 5."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in found)


if __name__ == "__main__":
    record.command(main)

"""Whether the time of a sharded sweep is what its bytes, its gathers and its exchange foretell, on virtual CPU devices.

    t = streamed bytes / bandwidth + gathers * seconds of one + exchanged bytes / link + what an empty exchange takes

Nothing is fitted to sweeps: bandwidth, gathers, link and the empty exchange are measured by themselves, in the process
that times the sweeps, with as many devices at work. What devices share, cores and memory, they share there too.

python -m experiments.bench_sharding
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

import dp
from dp.sharded import Sharded
from experiments import record
from experiments.bench_worker import cores, pinned

Row = dict[str, Any]
# Of a garnet. XLA on CPU makes a slower loop where rows end in few actions, such as the four of a grid.
ACTIONS, SUCCESSORS = 10, 4
ALONG = PartitionSpec("states")

# Seconds that one measurement lasts, at least.
LONG_ENOUGH = 0.1


class Curve(NamedTuple):
    """A measured rate that depends on a size: on whether caches hold it."""

    sizes: list[float]
    rates: list[float]

    def at(self, size: float) -> float:
        """Interpolate between logarithms; beyond the ends, the end."""
        return float(np.exp(np.interp(math.log(size), np.log(self.sizes), np.log(self.rates))))


class Rates(NamedTuple):
    """What all devices together do, measured without a model.

    stream: bytes per second by the bytes touched. random, ordered: seconds of a gather beyond its streamed bytes, by
    the bytes of v on one device. link: bytes per second of an all_gather. empty: seconds of an exchange of nothing.
    """

    stream: Curve
    random: Curve
    ordered: Curve
    link: float
    empty: dict[str, float]


class Work(NamedTuple):
    """What all devices together do in one sweep.

    seen: the values that the rows of one device read from. longest: L of a halo, 0 where all values are gathered.
    """

    states: int
    rows: int
    pairs: int
    devices: int
    seen: int
    longest: int
    random: bool


def least_seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the least seconds of a call, the first one left out: other work on the machine only ever adds to it."""
    run()
    taken = []
    # Short calls are repeated for as long as a turn of other processes may last.
    while len(taken) < repeats or (repeats > 1 and sum(taken) < LONG_ENOUGH):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def work(mdp: dp.MDP, *, random: bool) -> Work:
    """Count what a sweep of a model that is laid out does."""
    P = mdp.P
    assert isinstance(P, Sharded)
    S, D = mdp.size, P.layout.devices
    longest = 0 if P.send is None else P.send.shape[2]
    seen = S // D + D * longest if longest else S
    return Work(S, math.prod(P.shape), P.state.size, D, seen, longest, random)


def exchanged(work: Work) -> int:
    """Return the bytes that cross from one device to another in one sweep: as `dp.sharded` says."""
    each = work.longest or work.states // work.devices
    return 8 * work.devices * (work.devices - 1) * each


def predict(work: Work, rates: Rates) -> dict[str, float]:
    """Return the seconds of one float64 sweep in its parts; `dp.optimality` writes and reads q between P v and max."""
    lists = work.devices**2 * work.longest
    # What was seen of others is put behind a device's own values.
    joined = 16 * work.devices * work.seen if work.longest else 0
    touched = 12 * work.pairs + 24 * work.rows + 8 * work.states
    gather = (rates.random if work.random else rates.ordered).at(8 * work.seen)
    return {
        "P": (touched + joined + 12 * lists) / rates.stream.at(touched),
        "gathers": work.pairs * gather + lists * rates.ordered.at(8 * work.states / work.devices),
        "exchange": exchanged(work) / rates.link if work.devices > 1 else 0.0,
        "empty": rates.empty["halo" if work.longest else "gather"],
    }


def measured_rates(mesh: Mesh, largest: int, repeats: int) -> Rates:
    """Measure what a device mesh does, for vectors of up to so many values."""
    D, rng = mesh.size, np.random.default_rng(0)

    def put(x: np.ndarray, spec: PartitionSpec = ALONG) -> jax.Array:
        return jax.device_put(x, NamedSharding(mesh, spec))

    def seconds(f: Callable, *xs: jax.Array, given: Any = ALONG) -> float:
        run = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=given, out_specs=ALONG))
        return least_seconds(lambda: jax.block_until_ready(run(*xs)), repeats)

    empty = {
        "gather": seconds(lambda x: lax.all_gather(x, "states", tiled=True), put(np.ones(D))),
        "halo": seconds(lambda x: lax.all_to_all(x, "states", 0, 0, tiled=True), put(np.ones(D * D))),
    }
    idle = seconds(lambda x: x + 1, put(np.ones(D)))
    # As many states, and as many reads of each, as the models have: what P leaves of a cache is part of the answer.
    sizes = [largest // by // D * D for by in (64, 16, 4, 1)]
    stream, random, ordered = [], [], []
    slots = PartitionSpec(None, "states")

    def moved(size: int) -> float:
        return 8.0 * (SUCCESSORS + 1) * ACTIONS * size

    for size in sizes:
        x = put(np.ones((SUCCESSORS, ACTIONS * size)), slots)
        taken = seconds(lambda x: sum(x[k] for k in range(SUCCESSORS)), x, given=slots)
        stream.append(moved(size) / max(taken - idle, 1e-9))
    bandwidth = Curve([moved(size) for size in sizes], stream)
    for size in sizes:
        # Beside a stream as wide as P, or v would stay in a cache; added up by rows, or the result would be wider.
        v, shape = put(np.ones(size), PartitionSpec()), (SUCCESSORS, ACTIONS * size)
        x, reads, touched = put(np.ones(shape), slots), math.prod(shape), 12 * math.prod(shape) + 8 * shape[1]
        every = np.arange(shape[1]) % size
        for index, found in ((rng.integers(0, size, shape), random), (np.broadcast_to(every, shape), ordered)):
            taken = seconds(
                lambda index, x, v: sum(x[k] + v.at[index[k]].get(mode="promise_in_bounds") for k in range(SUCCESSORS)),
                put(index.astype(np.int32), slots),
                x,
                v,
                given=(slots, slots, PartitionSpec()),
            )
            found.append(max(taken - idle - touched / bandwidth.at(touched), 1e-12 * reads) / reads)
    footprint = [8.0 * size for size in sizes]
    each = put(np.ones(largest // D * D))
    taken = seconds(lambda x: lax.all_gather(x, "states", tiled=True), each) - empty["gather"]
    link = 8 * (D - 1) * each.size / max(taken, 1e-9)
    return Rates(bandwidth, Curve(footprint, random), Curve(footprint, ordered), link, empty)


def _alone(D: int, states: tuple[int, ...], repeats: int, seed: int) -> Row:
    """Measure everything on D devices, in a process of its own."""
    jax.config.update("jax_num_cpu_devices", D)
    with jax.enable_x64(True):
        mesh = Mesh(np.asarray(jax.devices()), ("states",))
        rates = measured_rates(mesh, max(states), repeats)
        run, rows = jax.jit(dp.optimality), []
        for S in states:
            side = math.isqrt(S)
            for name in ("grid", "garnet"):
                if name == "grid":
                    mdp = dp.problems.gridworld(side, side, gamma=0.99, slip=0.2, dense=False)
                else:
                    mdp = dp.problems.garnet(S, ACTIONS, SUCCESSORS, gamma=0.99, seed=seed, dense=False)
                v = np.random.default_rng(seed).standard_normal(S)
                for exchange in ("gather", "halo") if D > 1 else ("gather",):
                    laid = dp.shard(mdp, mesh, exchange=exchange)
                    there = jax.device_put(v, NamedSharding(mesh, ALONG))
                    taken = least_seconds(lambda laid=laid, v=there: jax.block_until_ready(run(laid, v)), repeats)
                    does = work(laid, random=name == "garnet")
                    parts = predict(does, rates)
                    rows.append(
                        {
                            "model": name,
                            "exchange": exchange,
                            **does._asdict(),
                            "exchanged": exchanged(does),
                            "read_of_others": does.longest * D / S if does.longest else None,
                            "seconds": taken,
                            "parts": parts,
                            "predicted": sum(parts.values()),
                            "error": sum(parts.values()) / taken - 1,
                        }
                    )
    return {"rates": jax.tree.map(float, rates)._asdict(), "rows": rows}


def summary(rows: list[Row]) -> Row:
    """Return how far predictions are off, as a factor: the median, the worst, and the share within a factor of 1.5."""

    def of(rows: list[Row]) -> Row:
        off = [abs(math.log(row["predicted"] / row["seconds"])) for row in rows]
        return {
            "median_factor": math.exp(statistics.median(off)),
            "worst_factor": math.exp(max(off)),
            "within_1.5": statistics.mean(x <= math.log(1.5) for x in off),
        }

    return {name: of([row for row in rows if row["model"] == name]) for name in ("grid", "garnet")}


def draw(rows: list[Row]) -> Figure:
    """Draw predicted against measured seconds."""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    ax = figure.subplots()
    times = [1e3 * row[key] for row in rows for key in ("seconds", "predicted")]
    ends = np.array([min(times) / 1.5, 1.5 * max(times)])
    ax.fill_between(ends, ends / 1.5, 1.5 * ends, color="0.9", lw=0, label="within a factor of 1.5")
    ax.plot(ends, ends, color="k", lw=1)
    for model, colour in (("grid", "C0"), ("garnet", "C1")):
        for exchange, filled in (("gather", True), ("halo", False)):
            for D, marker in zip(sorted({row["devices"] for row in rows}), "osD^v<>", strict=False):
                drawn = [r for r in rows if (r["model"], r["exchange"], r["devices"]) == (model, exchange, D)]
                if drawn:
                    x, y = ([1e3 * row[key] for row in drawn] for key in ("predicted", "seconds"))
                    label = f"{model}, {exchange}, {D} device{'s' if D > 1 else ''}"
                    ax.plot(x, y, marker, color=colour, mfc=colour if filled else "w", ms=6, label=label)
    ax.set(xscale="log", yscale="log", xlabel="ms, predicted", ylabel="ms, measured")
    ax.set_title("one sweep, float64, virtual CPU devices", size=9)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def main(
    *,
    states: tuple[int, ...] = (65_536, 262_144, 589_824),
    devices: tuple[int, ...] = (1, 2, 4),
    repeats: int = 9,
    seed: int = 0,
    out: Path = Path("results/bench_sharding"),
) -> dict:
    """Time one sharded sweep of grids and garnets, gathered and with a halo, and predict it from parts.

    Args:
        states: sizes of the models; squares, and multiples of all numbers of devices.
        devices: virtual CPU devices, each number in a process of its own on as many cores, if there are.
        repeats: calls of everything that is timed; the least counts.
        seed: of the garnets and the values.
        out: folder for metrics.json and sharding.png.
    """
    arguments = locals()
    record.require(repeats >= 1, f"repeats must be at least 1, got {repeats}")
    record.require(bool(states) and bool(devices), "states and devices must not be empty")
    for D in devices:
        record.require(D >= 1, f"devices must be at least 1, got {D}")
    for S in states:
        record.require(S >= 1 and math.isqrt(S) ** 2 == S, f"states must be squares, got {S}")
        for D in devices:
            record.require(S % D == 0, f"states must be multiples of devices, got {S} and {D}")
    record.require_run(seed, out)
    rates, rows = {}, []
    with record.progress() as bar:
        task = bar.add_task("bench_sharding", total=len(devices), note="")
        for D in devices:
            bar.update(task, note=f"{D} devices")
            spawn = multiprocessing.get_context("spawn")
            with pinned(cores()[:D]), ProcessPoolExecutor(1, mp_context=spawn) as pool:
                found = pool.submit(_alone, D, states, repeats, seed).result()
            rates[D] = found["rates"]
            rows += found["rows"]
            bar.advance(task)
    columns = "MB exchanged", "of others", "P", "gathers", "exchange", "empty", "predicted, ms", "measured, ms", "error"
    table = Table("", "states", "devices", "", *columns, title="one sweep, float64", box=box.SIMPLE)
    for row in rows:
        read = "" if row["read_of_others"] is None else f"{row['read_of_others']:.1%}"
        times = [*row["parts"].values(), row["predicted"], row["seconds"]]
        table.add_row(
            row["model"],
            f"{row['states']:,}",
            str(row["devices"]),
            row["exchange"] if row["devices"] > 1 else "",
            f"{row['exchanged'] / 1e6:.3g}",
            read,
            *(f"{1e3 * time:.3g}" for time in times),
            f"{row['error']:+.0%}",
        )
    record.console.print(table)
    error = summary(rows)
    for name, off in error.items():
        record.console.print(
            f"{name}: off by a factor of {off['median_factor']:.2f} (median), {off['worst_factor']:.2f} (worst); "
            f"{off['within_1.5']:.0%} within 1.5"
        )
    return record.write(
        out,
        arguments=arguments,
        metrics={"rates": rates, "sweeps": rows, "error": error},
        figures={"sharding": draw(rows)},
        clock=record.Clock(),
        dtype="float64",
    )


if __name__ == "__main__":
    record.command(main)

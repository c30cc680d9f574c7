"""What the numbers of `experiments.objectives` say: tables, and conclusions computed from them, a line each."""

import numpy as np
from rich.table import Table

from experiments import objectives_losses as losses
from experiments import record

ERRORS = ("relative_error", "kl", "sliced_wasserstein")
TRUTH = "exact density"


def summary(runs: list[dict[str, float]]) -> dict[str, dict]:
    """Return the mean and the values over seeds of every number."""
    return {
        name: {"mean": float(np.mean([run[name] for run in runs])), "seeds": [run[name] for run in runs]}
        for name in runs[0]
    }


def conclusions(found: dict) -> list[str]:
    """Return what the numbers say, a line each."""
    lines = []
    for error, title in zip(
        ERRORS,
        (
            "relative error of the score, over the least of all but the oracle",
            "Kullback-Leibler divergence, over the least of all but the oracle",
            "SW2 of MALA samples, over that of the exact density",
        ),
        strict=True,
    ):
        ranks: dict[str, list[float]] = {}
        for table in found["targets"].values():
            learned = {name: row[error]["mean"] for name, row in table.items() if name != TRUTH}
            best = min(value for name, value in learned.items() if name != losses.EXPLICIT or len(learned) == 1)
            if error == "sliced_wasserstein":  # of samples as many, by the same chains, of q itself
                best = table[TRUTH][error]["mean"]
            for name, value in learned.items():
                ranks.setdefault(name, []).append(value / best)
        order = sorted(ranks, key=lambda name: float(np.exp(np.mean(np.log(ranks[name])))))
        text = ", ".join(f"{name} {np.exp(np.mean(np.log(ranks[name]))):.2f}" for name in order)
        lines.append(f"{title}, geometric mean of the targets: {text}.")
    lines.append(identity(found["targets"]))
    by_sigma, by_D = found["noise_by_sigma"]["objectives"], found["noise_by_dimension"]
    slopes = ", ".join(f"{name} σ^{row['slope_of_trace']:.2f}" for name, row in by_sigma.items())
    lines.append(f"Variance of the gradient for σ up to 0.1: {slopes}.")
    slopes = ", ".join(f"{name} D^{row['slope_of_trace']:.2f}" for name, row in by_D["objectives"].items())
    lines.append(f"Variance of the gradient against D: {slopes}.")
    last = {name: row["trace"][-1] for name, row in by_D["objectives"].items()}
    text = ", ".join(f"{name} {value / last[losses.IMPLICIT]:.3g}" for name, value in last.items())
    lines.append(f"The same in D = {by_D['dims'][-1]}, over that of implicit: {text}.")
    slopes = ", ".join(f"{name} D^{row['slope']:.2f}" for name, row in by_D["time"].items())
    lines.append(f"Time of a gradient against D: {slopes}.")
    times = {name: row["milliseconds_per_step"] for name, row in found["time"].items()}
    fast, slow = min(times, key=lambda n: times[n]), max(times, key=lambda n: times[n])
    lines.append(
        f"Of a step in the plane, {fast} takes least, {times[fast]:.2f} ms, {slow} most, {times[slow]:.2f} ms."
    )
    return lines


def identity(targets: dict[str, dict]) -> str:
    """Return how well equation (2) less its floor agrees with the Fisher divergence, in all models of the plane."""
    z, paired = [], []
    draws = 0
    for table in targets.values():
        exact = np.array(table[TRUTH]["denoising_excess"]["seeds"])
        draws += len(exact)
        for name in table.keys() - {TRUTH}:
            excess, fisher, error = (
                np.array(table[name][key]["seeds"])
                for key in ("denoising_excess", "fisher_divergence", "denoising_excess_error")
            )
            z.extend(np.abs(excess - fisher) / error)
            paired.extend(np.abs(excess - exact - fisher) / fisher)
    return (
        f"Equation (2) less its floor is the Fisher divergence: of {len(z)} models on {draws} independent draws of the "
        f"noise the furthest is {max(z):.1f} standard errors off. With the floor measured on the same draws the "
        f"difference is {100 * np.median(paired):.1f} % of the divergence in the median, {100 * max(paired):.0f} % at "
        "most."
    )


def show(found: dict) -> None:
    """Print a table for each error, and the conclusions."""
    titles = list(found["targets"])
    for error in ERRORS:
        table = Table(
            "objective", *titles, "ms / step", "compile s", title=f"{error}: mean over seeds ± half their range"
        )
        for name in [*found["time"], TRUTH]:
            cells = []
            for title in titles:
                cell = found["targets"][title][name][error]
                cells.append(f"{cell['mean']:.2g} ± {np.ptp(cell['seeds']) / 2:.1g}")
            times = found["time"].get(name)
            cells += [f"{v:.3g}" for v in times.values()] if times else ["", ""]
            table.add_row(name, *cells)
        record.console.print(table)
    for line in found["conclusions"]:
        record.console.print("-", line)

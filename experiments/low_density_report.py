"""The tables of `experiments.low_density`."""

from rich.table import Table

from experiments import record
from experiments.low_density_models import DENOISING, LIKELIHOOD
from experiments.low_density_statistics import CONFIDENCE, Interval


def show(metrics: dict) -> None:
    """Print the errors in the sparsest decile, the densities and the verdict."""
    for points, rows in metrics["error"].items():
        table = Table(
            *("model", "error", "to target", "bias", "minus eq. 1", "better", "worse"),
            title=f"RMS score error, sparsest decile, points {points}",
            caption="target: the smoothed data's score; bias: its distance from the data's; better, worse: in deciles",
        )
        table.add_row("score 0", f"{metrics['data_score'][points][0]:.3g}")
        against = metrics["equation_2_minus_equation_1"][points] | metrics["others_minus_equation_1"][points]
        own, bias = metrics["error_from_smoothed_score"][points], metrics["bias_of_smoothing"][points]
        for name, row in rows.items():
            cells = [name.removeprefix(DENOISING), f"{row['mean'][0]:.3g}"]
            if name != LIKELIHOOD:
                cells += [
                    f"{own[name]['mean'][0]:.3g}" if name in own else "",
                    f"{bias[name][0]:.3g}" if name in bias else "",
                    str(Interval(**against[name]["sparsest"])),
                    runs(against[name]["better_in"]),
                    runs(against[name]["worse_in"]),
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

"""What `experiments.low_density` found: statistics over seeds, a verdict computed from them, and tables."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from rich.table import Table
from scipy import stats

from experiments import record
from experiments.low_density_truth import POINTS, Evaluation, Truth, rms_by_decile

CONFIDENCE = 0.95
LIKELIHOOD, DENOISING = "equation 1", "equation 2, "
LEVELS, PERSISTENT = "denoising over levels", "persistent CD"


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


def summarise(names: list[str], found: Evaluation, truth: Truth) -> dict:
    """Reduce the evaluations of M models and S seeds to means and confidence intervals.

    The names are those of `low_density_models.names_of`: equation 1, equation 2 at each sigma, LEVELS, PERSISTENT.
    """
    at_one_sigma, others = slice(1, -2), slice(-2, None)

    def by_decile(squares):
        # [M, S, P, 10]
        squares = np.asarray(squares, np.float64)
        return np.stack([rms_by_decile(squares[:, :, p], d) for p, d in enumerate(truth.decile)], axis=2)

    def by_points(function, squares, which):
        # {points: {name: function(rows [S, 10])}}
        rows = list(zip(names[which], squares[which], strict=True))
        return {points: {name: function(row[:, p]) for name, row in rows} for p, points in enumerate(POINTS)}

    def against_equation_1(which):
        return {
            points: {
                name: compare(row[:, p], error[0, :, p]) for name, row in zip(names[which], error[which], strict=True)
            }
            for p, points in enumerate(POINTS)
        }

    def statistics(rows):
        return {"mean": rows.mean(axis=0), "half_width": half_width(rows)}

    error, from_smoothed = by_decile(found.to_data), by_decile(found.to_smoothed)
    share = error[0] / truth.data_score
    density = {
        key: np.asarray(value, np.float64)
        for key, value in (("kl", found.kl), ("nll", found.nll), ("sparse_mass", found.sparse_mass))
    }
    return {
        "error": by_points(statistics, error, slice(None)),
        "error_from_smoothed_score": by_points(statistics, from_smoothed, slice(1, -1)),
        "equation_2_minus_equation_1": against_equation_1(at_one_sigma),
        "others_minus_equation_1": against_equation_1(others),
        "equation_1_sparsest_minus_densest": {
            points: {
                "absolute": interval(error[0, :, p, 0] - error[0, :, p, -1])._asdict(),
                "share_of_data_score": interval(share[:, p, 0] - share[:, p, -1])._asdict(),
            }
            for p, points in enumerate(POINTS)
        },
        "bias_of_smoothing": {
            points: {name: bias[p] for name, bias in zip(names[at_one_sigma], truth.bias, strict=True)}
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
        "sparsest_standard_error": float(np.std(error[:, 0] - baseline[:, 0], ddof=1) / math.sqrt(len(error))),
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
        bias = metrics["bias_of_smoothing"][points]
        own = {name: metrics["error_from_smoothed_score"][points][name] for name in bias}
        sentences.append(
            f"Points {points}: that equation 2 is better in the sparsest decile with σ large enough {claim}. "
            f"Equation 2 minus equation 1: {differences({name: row['sparsest'] for name, row in against.items()})}. "
            f"From the smallest σ to the largest, its distance from its target, the score of the smoothed data, goes "
            f"from {ends([row['mean'][0] for row in own.values()])}; the target's from the data's score from "
            f"{ends([row[0] for row in bias.values()])}."
        )
    sentences += [compare_other(metrics, name) for name in (LEVELS, PERSISTENT)]
    density = metrics["density"]
    sentences.append(
        f"As densities, by KL(p_D || p), equation 1 has {Interval(**density[LIKELIHOOD]['kl'])}; "
        "the others minus that: "
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


def compare_other(metrics: dict, name: str) -> str:
    """Hold a variant against equation 1 in the sparsest decile, in a sentence."""
    rows = {points: metrics["others_minus_equation_1"][points][name] for points in POINTS}
    found = (
        f"{row['sparsest']['mean']:.3g} (s.e. {row['sparsest_standard_error']:.2g}), {row['sparsest_is']}, on points "
        f"{points}"
        for points, row in rows.items()
    )
    return f"{name[0].upper()}{name[1:]} minus equation 1, in the sparsest decile: {'; '.join(found)}."


def summarise_verdict(metrics: dict) -> str:
    """Answer the two claims in two sentences, counted from the numbers."""

    def poor(measure: int) -> int:
        """Count the sets of points where equation 1 errs more at low density, in absolute (0) or relative (1) terms."""
        found = [list(metrics["equation_1_sparsest_minus_densest"][points].values())[measure] for points in POINTS]
        return sum(word(Interval(**difference)) == "worse" for difference in found)

    rows = {points: metrics["equation_2_minus_equation_1"][points] for points in POINTS}
    better = [
        f"{name.removeprefix(DENOISING)} on points {points}"
        for points, row in rows.items()
        for name, found in row.items()
        if found["sparsest_is"] == "better"
    ]
    worse = sum(list(row.values())[-1]["sparsest_is"] == "worse" for row in rows.values())
    return (
        f"Maximum likelihood errs more where data are sparse on {poor(0)} of {len(POINTS)} sets of points, relative to "
        f"the data's score on {poor(1)}. Equation 2 does better there with {', '.join(better) or 'no σ tried'}; "
        f"with the largest σ it does worse on {worse} of {len(POINTS)}, as it learns the score of the smoothed data."
    )


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

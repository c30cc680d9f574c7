"""What the errors of `experiments.low_density` say over seeds: means, confidence intervals and paired comparisons."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from experiments.low_density_truth import POINTS, Evaluation, Truth, rms_by_decile

CONFIDENCE = 0.95


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

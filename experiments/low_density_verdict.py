"""The claims of Question 1(d) held against what `experiments.low_density` found: sentences computed from numbers."""

from experiments.low_density_models import DENOISING, LEVELS, LIKELIHOOD, PERSISTENT
from experiments.low_density_statistics import CONFIDENCE, Interval, word
from experiments.low_density_truth import POINTS


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

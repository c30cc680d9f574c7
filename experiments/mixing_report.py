"""How the ends of chains compare with exact samples, how chains mix, and the table of `experiments.mixing`."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key
from rich.table import Table

from dsm import diagnostics, metrics
from experiments import record

EXACT = "exact samples"
Ends = Float[Array, "C 2"]


def comparison(
    clock: record.Clock, key: Key[Array, ""], reference: Ends, compared: int, permutations: int
) -> Callable[[Ends, Ends], dict[str, float]]:
    """Return a function from the ends of chains, and as many exact samples, to their distances.

    All calls share the bandwidth, that of the reference, and the key, so all are projected on the same lines.
    """
    bandwidth = metrics.median_distance(reference[:compared])

    def distances(x: Ends, exact: Ends, key: Key[Array, ""]) -> dict[str, Array]:
        key_test, key_lines = jax.random.split(key)
        result = metrics.mmd_test(
            key_test, x[:compared], exact[:compared], bandwidth=bandwidth, num_permutations=permutations
        )
        return {
            "mmd_squared": result.statistic,
            "mmd_p_value": result.p_value,
            "sliced_wasserstein": metrics.sliced_wasserstein(key_lines, x, exact, num_projections=50),
        }

    compiled = clock.compile(distances, reference, reference, key)
    return lambda x, exact: {name: float(value) for name, value in compiled(x, exact, key).items()}


def diagnose(x: Float[Array, "C T 2"], evaluations: int) -> dict[str, float]:
    """Effective sample size and R-hat of the first coordinate, over the second half of each chain."""
    num_chains, kept = x.shape[:2]
    late = x[:, kept // 2 :, 0]
    used = num_chains * evaluations * late.shape[1] / kept
    return {
        "ess_per_1000_evaluations": 1000 * float(diagnostics.effective_sample_size(late)) / used,
        "split_r_hat": float(diagnostics.split_r_hat(late)),
    }


def show(found: dict[str, dict]) -> None:
    """Print the table."""
    columns = {
        "step_size": "step",
        "acceptance": "accepted",
        "ess_per_1000_evaluations": "ESS / 1000 scores",
        "split_r_hat": "R-hat",
        "mmd_squared": "MMD²",
        "mmd_p_value": "p",
        "sliced_wasserstein": "SW2",
    }
    table = Table("sampler", "on the heavy mode", *columns.values(), title="Two modes of weights 0.8 and 0.2")
    for name, row in found.items():
        share = f"{row['share_on_heavy_mode']:.3f} ± {row['standard_error']:.3f}"
        table.add_row(name, share, *(f"{row[key]:.3g}" if key in row else "" for key in columns))
    record.console.print(table)

"""Every certificate against exact rational arithmetic on the stored floats: `lower <= v <= upper`, as fractions.

`experiments.hostile` makes the MDPs, built to break them; `experiments.certificates` checks the answers. Here a few
MDPs and the solvers that differ most; in the slow test, as in the experiment, all of them.
"""

import numpy as np
import pytest

from experiments import certificates
from experiments.certificates import BATCH, SOLVERS, Batch

FEW = (
    "in blocks",
    "policy iteration",
    "bounds of any v",
    "soft value iteration",
    "pi: direct",
    "pi: bounds of any v",
    "actions, γ = 1: direct",
)
# Cut short, or without a tolerance.
UNFINISHED = [name for name in SOLVERS if "any v" in name or name == "after 3 sweeps"]


@pytest.mark.parametrize(
    ("number", "size", "solvers", "dtype"),
    [
        (100, 100, FEW, "float32"),
        pytest.param(100, 100, FEW, "float64", marks=pytest.mark.slow),
        *(pytest.param(2000, BATCH, tuple(SOLVERS), dtype, marks=pytest.mark.slow) for dtype in certificates.TOL),
    ],
)
def test_enclose_the_exact_values(number, size, solvers, dtype):
    found = [certificates.examine(Batch(dtype, seed, size, size, solvers)) for seed in range(0, number, size)]
    assert [violation for each in found for violation in each.violations] == []
    # The bounds would be right, and useless, if they were always infinite.
    for name in solvers:
        converged, bounded = np.nanmean(np.concatenate([each.measured[name][:, :2] for each in found]), axis=0)
        assert bounded > (0.6 if "γ = 1" in name else 0.98), name
        assert converged > 0.3 or name in UNFINISHED, name

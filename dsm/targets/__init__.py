"""Target distributions with exact log-density, score and sampler, and exact Gaussian smoothing where it exists.

Each is a NamedTuple with `logdensity(x)` and `score(x)` for one x [D], `sample(key, num)` and, of most,
`smooth(sigma)`, `mean()` and `covariance()`; the function of the same name in lower case makes and checks it.
"""

from .bananas import Banana, SmoothedBanana, banana
from .board import Checkerboard, checkerboard
from .curves import Ring, TwoMoons, ring, two_moons
from .foreign import LogProb, from_log_prob
from .funnels import Funnel, funnel
from .mixture import GaussianMixture, eight_gaussians, gaussian, gaussian_mixture, two_modes
from .student import StudentT, student_t
from .wells import DoubleWells, double_wells

__all__ = [
    "Banana",
    "Checkerboard",
    "DoubleWells",
    "Funnel",
    "GaussianMixture",
    "LogProb",
    "Ring",
    "SmoothedBanana",
    "StudentT",
    "TwoMoons",
    "banana",
    "checkerboard",
    "double_wells",
    "eight_gaussians",
    "from_log_prob",
    "funnel",
    "gaussian",
    "gaussian_mixture",
    "ring",
    "student_t",
    "two_modes",
    "two_moons",
]

"""Distances between samples and distributions: is a model right, and did it copy its training data?

Everything here is plain jittable JAX; `jax.jit` the call when it is repeated. Distances between points are
summed differences, one row at a time: memory stays linear in the sample unless a docstring says otherwise, and a copy
has distance exactly 0.
"""

from .floor import Estimate as Estimate
from .floor import denoising_floor as denoising_floor
from .floor import denoising_floor_monte_carlo as denoising_floor_monte_carlo
from .neighbours import coverage as coverage
from .neighbours import nearest_neighbour_ratio as nearest_neighbour_ratio
from .pairwise import energy_distance as energy_distance
from .pairwise import median_distance as median_distance
from .pairwise import mmd as mmd
from .scores import ScoreErrorByDensity as ScoreErrorByDensity
from .scores import fisher_divergence as fisher_divergence
from .scores import score_error_by_density as score_error_by_density
from .scores import score_error_map as score_error_map
from .two_sample import TestResult as TestResult
from .two_sample import classifier_two_sample_test as classifier_two_sample_test
from .two_sample import mmd_test as mmd_test
from .wasserstein import frechet_distance as frechet_distance
from .wasserstein import sliced_wasserstein as sliced_wasserstein

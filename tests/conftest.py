"""Strict settings for every test: 64 bits, no silent broadcasting or promotion, shapes checked, warnings are errors."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import jax
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
# Of one processor, for meshes; whatever says nothing of devices stays on the first.
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# jaxtyping's annotations are documentation in the library and assertions here.
install_import_hook(["dp", "dsm"], "beartype.beartype")

# Derandomised: a failure seen once is seen by everyone.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")

"""Strict settings for every test: 64 bits, no silent broadcasting or promotion, shapes checked, warnings are errors."""

import gc
import os
from importlib.metadata import version
from platform import machine

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# The tests' own processes fill the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Where compiling quickly is asked for, XLA's older emitters take 2/3 of the time. They compute an argument of max again
# where it is differentiated: without fused multiply-adds, to the same last digit. Later versions are without them, and
# end the process at a flag that they do not know.
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") and (version("jaxlib"), machine()) == ("0.10.2", "x86_64"):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX --xla_cpu_parallel_codegen_split_count=1",
    )

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
# Of one processor, for meshes; whatever says nothing of devices stays on the first.
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# What a compiled program says of the lines that it came from is read by nobody here, and takes 7% of the time.
jax.config.update("jax_traceback_in_locations_limit", 0)

# jaxtyping's annotations are documentation in the library and assertions here.
install_import_hook(["dp", "dsm"], "beartype.beartype")

# Derandomised: a failure seen once is seen by everyone.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")

# Tracing makes objects by the million, hardly any of them in cycles.
gc.set_threshold(100_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def _keep_what_is_cached_out_of_the_search_for_garbage():
    """What JAX has traced and compiled stays for the life of the process: without this, every full search visits it."""
    gc.freeze()

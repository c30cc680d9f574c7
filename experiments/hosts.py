"""One program on several hosts, or on several devices of one: joining, and the mesh that shares out a batch."""

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.record import require

HEARTBEAT = 20
"""Seconds without a sign of life after which a process counts as dead, and all others end with an error."""


def join(coordinator: str, processes: int, process: int) -> None:
    """Wait for the other processes; from then on `jax.devices()` are those of all. Comes before anything is computed.

    coordinator: "HOST:PORT" that process 0 can listen at and all others can reach. A process that does not find the
    others within a minute ends with JAX's error. Raises ValueError for a number of processes or of this one that is
    none.
    """
    require(processes >= 1, f"processes must be at least 1, got {processes}")
    require(0 <= process < processes, f"process must be 0 to {processes - 1}, got {process}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT, initialization_timeout=60
    )


def mesh() -> Mesh | None:
    """Return all devices in a row; None where there is one only."""
    devices = jax.devices()
    return Mesh(np.asarray(devices), ("devices",)) if len(devices) > 1 else None

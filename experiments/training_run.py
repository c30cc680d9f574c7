"""The energy that a network and its parameters define."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

import dsm


def energy_of(network: dsm.EnergyMLP, params: Any) -> Callable[..., Array]:
    """Return the function E(x) of a network and its parameters."""
    apply: Any = network.apply
    return lambda x: apply(params, x)

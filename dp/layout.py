"""States divided among the devices of a mesh, as many for each: what lies where, and what all hosts must agree on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Int

# To type checkers jax.Device is no type.
Device = Any


# Static, not data: what is compiled depends on it.
@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
    """The axis of a mesh that states are laid along."""

    mesh: Mesh
    axis: str

    @property
    def devices(self) -> int:
        """D: among how many devices the states are divided."""
        return self.mesh.shape[self.axis]

    def along(self, axis: int) -> NamedSharding:
        """Return the sharding of an array whose axis of that number runs over states."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, self.axis))

    def everywhere(self) -> NamedSharding:
        """Return the sharding of what every device holds."""
        return NamedSharding(self.mesh, PartitionSpec())

    def put(self, x: ArrayLike, sharding: NamedSharding) -> Array:
        """Lay an array that every host has over the devices."""
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

    def parts(self, n: int) -> list[tuple[int, list[Device]]]:
        """Return what is laid on devices of this host: the first state of each part of n, and who holds it."""
        found: dict[int, list[Device]] = {}
        for device, part in self.along(0).addressable_devices_indices_map((n * self.devices,)).items():
            first = part[0].start if part else 0
            found.setdefault(first or 0, []).append(device)
        return sorted(found.items(), key=lambda part: part[0])

    def assemble(self, axis: int, parts: Mapping[Device, Array]) -> Array:
        """Return the array whose parts along an axis lie on the devices of this host, and of the others."""
        shape = list(next(iter(parts.values())).shape)
        shape[axis] *= self.devices
        return jax.make_array_from_single_device_arrays(tuple(shape), self.along(axis), list(parts.values()))

    def agreed(self, facts: Mapping[Device, Int[np.ndarray, " m"]]) -> Int[np.ndarray, " m"]:
        """Return the largest of the numbers that every device knows: hosts that see different parts decide alike."""
        known = {device: jax.device_put(np.asarray(x, np.int32)[None], device) for device, x in facts.items()}
        most = jax.jit(lambda x: jnp.max(x, axis=0), out_shardings=self.everywhere())
        return np.asarray(most(self.assemble(0, known)))

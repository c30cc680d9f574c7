"""Which values a device must be sent: found on the host, part by part, and handed to those who will send them."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from dp.layout import Device
from dp.sharded import Sharded
from dp.successors import Successors


def with_halo(P: Sharded, *, always: bool) -> Sharded:
    """Return P with an exchange of what is read, and no more: `always`, or where that is at most half of all values.

    Lists of all devices have one length, that of the longest: so much room a message has.
    """
    rows, layout = P.rows, P.layout
    if not isinstance(rows, Successors):
        return P
    S, D = P.shape[0], layout.devices
    n = S // D
    read = {}
    for first, device, (state, prob) in _parts(rows):
        seen = np.zeros(S, bool)
        # A pair of probability 0 stands for nothing, and is no reason to send anything.
        seen[state[prob != 0]] = True
        seen[first : first + n] = False
        read[device] = np.flatnonzero(seen)
    lengths = {device: np.bincount(states // n, minlength=D).max(keepdims=True) for device, states in read.items()}
    L = max(1, int(layout.agreed(lengths)[0]))
    if not always and n < 2 * L:
        return P
    wanted, renumbered = {}, {}
    for first, device, (state, prob) in _parts(rows):
        states = read[device]
        sender = states // n
        place = np.arange(len(states)) - np.searchsorted(sender, sender)
        lists = np.zeros((1, D, L), np.int32)
        lists[0, sender, place] = states % n
        number = np.zeros(S, np.int32)
        number[first : first + n] = np.arange(n)
        number[states] = n + sender * L + place
        wanted[device] = jax.device_put(lists, device)
        renumbered[device] = jax.device_put(np.where(prob != 0, number[state], 0), device)
    # wanted[j, i] is what j reads of i; send[i, j] what i sends to j.
    swap = jax.jit(lambda lists: jnp.swapaxes(lists, 0, 1), out_shardings=layout.along(0))
    state = layout.assemble(1, renumbered)
    return Sharded(rows._replace(state=state), layout, swap(layout.assemble(0, wanted)))


def _parts(rows: Successors) -> Iterator[tuple[int, Device, tuple[np.ndarray, np.ndarray]]]:
    """Go through the parts that lie on this host: the first state, the device, and the numbers of its rows."""
    prob = {part.device: part for part in rows.prob.addressable_shards}
    for part in rows.state.addressable_shards:
        yield part.index[1].start or 0, part.device, (np.asarray(part.data), np.asarray(prob[part.device].data))

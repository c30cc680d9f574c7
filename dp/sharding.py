"""An MDP laid over a device mesh by states: every solver runs on it, and says the same.

    mdp = dp.problems.garnet(1_000_000, 4, 4, gamma=0.95, seed=0, dense=False)
    laid = dp.shard(mdp)                             # rows of P and R on all devices, as many states on each
    solution = dp.modified_policy_iteration(laid)    # v, q and policy are laid out likewise
    assert solution.converged

All that a synchronous sweep `v <- max_a R + γ P v` communicates is one exchange of values (`dp.sharded`: gather or
halo), and a few numbers for the certificate. To each of the D devices with n = S / D states come (D - 1) n values of 8
bytes (float32: 4), with a halo (D - 1) L. The chain of a policy is picked where its rows are. Each device holds the A K
successors of its n states (12 bytes each, float32: 8), its part of R, of the mask and of all vectors, and during a
backup all of v, or n + D L values of it.

Either way `P @ v` of a sparse model has the bits that it has on one device, and so has a sweep where n is a multiple of
16; else the compiler may round what is left over from whole vectors differently, by one unit in the last place. Dense
rows, and the inner products of Krylov methods, are summed in an order that depends on the devices. Certificates hold.

Not everything pays. Updates in place go from state to state, and each waits for all devices. Exact evaluation gathers
the chain in one matrix, up to 5000 states.

Several hosts: after `jax.distributed.initialize` the same program runs on each. `jax.devices()` are all of theirs, and
`from_shards` asks every host for the rows of its own devices only. A start or a policy that lies on several hosts is
not checked at the door of a solver. What works on the host needs the whole model on it: `dp.tabulate` and whatever
begins with it, such as average reward, no discount, prioritised sweeping. Call what is no solver inside jit.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, ArrayLike, Int

from dp.halo import with_halo
from dp.layout import Device, Layout
from dp.matrix_free import Steps
from dp.mdp import MDP, require_mdp
from dp.part import checked_rows
from dp.sharded import Full, Sharded
from dp.successors import Ragged, Successors
from dp.validation import check_gamma

Exchange = Literal["auto", "gather", "halo"]


def shard(mdp: MDP, mesh: Mesh | None = None, *, axis: str | None = None, exchange: Exchange = "auto") -> MDP:
    """Lay an MDP over a mesh by states: state s on device s // n of its axis, n = S / D. The numbers stay the same.

    mesh: default all devices, in one axis "states". axis: which axis of the mesh, where it has several; along the
        others everything is repeated.
    exchange: "gather", "halo" (lists of successors only), or "auto": the halo where it moves at most half as much.
    Raises ValueError where D does not divide S, for ragged models and for one that is laid out already.
    Memory: as at the head of this file; on the host the model that was given.
    """
    require_mdp(mdp)
    layout = _layout(mesh, axis, mdp.size, exchange)
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(mdp)):
        raise ValueError("the MDP is traced: lay it out before, outside of jit")
    P = mdp.P
    if isinstance(P, Ragged):
        raise ValueError("states have different numbers of actions: shard dp.as_successors(mdp), which fills them up")
    if isinstance(P, Sharded):
        raise ValueError("the MDP is laid over a mesh already")
    if exchange == "halo" and not isinstance(P, Successors):
        raise ValueError('only lists of successors tell what they read: exchange="gather", or dp.as_successors')
    bare = Sharded(P if isinstance(P, Successors | Steps) else Full(P), layout)
    placed = bare._replace(rows=jax.tree.map(layout.put, bare.rows, bare.shardings()))
    return MDP(
        P=placed if exchange == "gather" else with_halo(placed, always=exchange == "halo"),
        R=layout.put(mdp.R, layout.along(0)),
        gamma=layout.put(mdp.gamma, layout.everywhere()),
        mask=None if mdp.mask is None else layout.put(mdp.mask, layout.along(0)),
    )


def from_shards(
    rows: Callable[[int, int], Iterable[Any]],
    S: int,
    gamma: ArrayLike,
    mesh: Mesh | None = None,
    *,
    axis: str | None = None,
    exchange: Exchange = "auto",
    substochastic: bool = False,
) -> MDP:
    """Build an MDP of S states part by part: a host never holds the whole, only its devices' parts and one more.

    rows: `rows(first, last)` gives what `dp.from_successors` takes, of the states first to last - 1 alone:
        `(state [n, A, K], prob [n, A, K], R [n, A] or [n])`, then, if there are any, mask [n, A] and terminal [n], or
        None for either. It is called once for each part that lies on a device of this host. Successors are numbered
        from 0 to S - 1, and add up where one comes twice. K may differ from part to part, A and the dtype may not.
    gamma, substochastic: as in `dp.make_mdp`. mesh, axis, exchange: as in `shard`.
    Raises ValueError as `dp.from_successors` does, with the numbers that states have in the whole; on several hosts, on
    all of them.
    """
    layout = _layout(mesh, axis, S, exchange)
    gamma, n = check_gamma(gamma), S // layout.devices
    parts: dict[Device, tuple[Array, ...]] = {}
    facts, error = {}, None
    for first, devices in layout.parts(n):
        part = None
        try:
            if error is None:
                part = checked_rows(rows(first, first + n), first, n, S, thin=substochastic)
        except Exception as broken:  # the other hosts wait for this one: they must hear of it
            error = broken
        for device in devices:
            facts[device] = _facts(part)
            if part is not None:
                parts[device] = tuple(jax.device_put(x, device) for x in part)
        del part
    refused, forbids, K, A, fewest, size, smallest = layout.agreed(facts).tolist()
    if error is not None:
        raise error
    if refused:
        raise ValueError("the rows of another host were refused: see what it says")
    if (A, size) != (-fewest, -smallest):
        raise ValueError(
            f"parts must agree: there are {-fewest} to {A} actions, in floats of {-smallest} to {size} bytes"
        )

    def whole(number: int, axis: int) -> Array:
        return layout.assemble(axis, {device: part[number] for device, part in parts.items()})

    for device, (state, prob, *others) in parts.items():
        missing = ((0, K - state.shape[0]), (0, 0), (0, 0))
        parts[device] = jnp.pad(state, missing), jnp.pad(prob, missing), *others
    P = Sharded(Successors(whole(0, 1), whole(1, 1)), layout)
    R, mask = whole(2, 0), whole(3, 0) if forbids else None
    parts.clear()
    if exchange != "gather":
        P = with_halo(P, always=exchange == "halo")
    return MDP(P, R, layout.put(np.asarray(gamma, R.dtype), layout.everywhere()), mask)


def _layout(mesh: Mesh | None, axis: str | None, S: int, exchange: str) -> Layout:
    """Return the layout of S states; ValueError where they do not fit, with the numbers that do."""
    if exchange not in ("auto", "gather", "halo"):
        raise ValueError(f'exchange must be "auto", "gather" or "halo", got {exchange!r}')
    if mesh is None:
        mesh = Mesh(np.asarray(jax.devices()), ("states",))
    names = [str(name) for name in mesh.axis_names]
    if axis is None and len(names) > 1:
        raise ValueError(f"the mesh has the axes {', '.join(names)}: say which with axis=")
    axis = names[0] if axis is None else axis
    if axis not in names:
        raise ValueError(f"axis must be one of {', '.join(names)}, got {axis!r}")
    D = mesh.shape[axis]
    if S < 1 or S % D:
        fits = -(-max(S, 1) // D) * D
        raise ValueError(
            f"{S} states do not divide among {D} devices; {fits} do: {fits - S} more could be terminal, or take a mesh "
            "whose axis divides the number of states"
        )
    # Only what is inside P @ v is spelt out: the rest of a solver is the compiler's to divide.
    return Layout(Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim), axis)


def _facts(part: tuple[np.ndarray, ...] | None) -> Int[np.ndarray, "7"]:
    """Return what all must know of a part: refused, something forbidden, K, and the extremes of A and of the dtype."""
    if part is None:
        return np.asarray([1, 0, 0, 0, 0, 0, 0])
    state, prob, R, allowed = part
    A, size = R.shape[1], prob.itemsize
    return np.asarray([0, not allowed.all(), len(state), A, -A, size, -size])

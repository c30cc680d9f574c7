"""A long solve that survives being killed: it goes on from the last checkpoint, on as many devices as there are then.

    from dp import checkpoint
    solution = checkpoint.solve(mdp, "run", solver=dp.value_iteration, every=100)

A solver runs in chunks of so many iterations, each from the Solution before. After each chunk v and the policy are
written by orbax, into a folder that gets its name when all is there and then a seal (`dp.seal`). So a process that is
killed at any moment leaves whole checkpoints, or one that shows its damage, and at worst the work of one chunk is lost.

The certificate is never stored: it comes from backups made after the restart, and holds for whatever v they began with.

Needs orbax-checkpoint: `pip install 'dsm-dp[checkpoint]'`.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, ArrayLike, Float

from dp import bellman
from dp.checks import require_at_least, require_model, tolerance
from dp.fingerprint import fingerprint
from dp.fixed_point import PATIENCE
from dp.mdp import MDP, Policy, Scalar
from dp.seal import UNSEALED, broken, seal
from dp.solution import Solution
from dp.value_iteration import value_iteration

try:
    import orbax.checkpoint as ocp
except ImportError as error:
    raise ImportError("dp.checkpoint needs orbax-checkpoint: pip install 'dsm-dp[checkpoint]'") from error


class Progress(NamedTuple):
    """What is known between two chunks: where to go on, how many iterations it took, and whether they still help.

    best: the smallest certified gap so far. since: iterations since then.
    """

    start: Any
    iterations: int = 0
    best: float = float("inf")
    since: int = 0


def solve(
    mdp: MDP,
    folder: str | Path,
    *,
    solver: Callable[..., Solution] = value_iteration,
    every: int = 100,
    keep: int = 3,
    start: ArrayLike | Solution | None = None,
    tol: Scalar | None = None,
    max_iters: int = 1_000_000,
) -> Solution:
    """Run a solver in chunks, with a checkpoint in `folder` after each, and go on from there if there is one.

    solver: `solver(mdp, start, tol=, max_iters=) -> Solution`, such as those of `dp`; other arguments by
        `functools.partial`. It may be another than the one that wrote the checkpoint.
    every: iterations of a chunk. Sweeps of value iteration are many and short, evaluations of policy iteration few and
        long: there, 1 to 10. keep: how many checkpoints to keep, at least 2: the newest may be the one that was being
        written. start: where to begin when there is none.
    tol: as in the solver. max_iters: in all, those before a restart included.

    With several processes all call this with the same folder, which all of them see; two runs must not share one. A
    restart may have another number of devices and processes: v is read into the layout of `mdp.R`. Synchronous sweeps
    in the same chunks give the same bits, interrupted or not. A checkpoint takes 16 bytes for a state in float64.

    Returns the Solution of the last chunk, with the iterations of all. Warns where a checkpoint is broken: it is
    deleted and an older one taken. Raises ValueError where none is whole, and where they are of another model, naming
    what differs: a fingerprint of the model is stored with v.
    """
    require_model(mdp, "checkpoint.solve")
    for name, value, least in (("every", every, 1), ("keep", keep, 2), ("max_iters", max_iters, 1)):
        require_at_least(least, value, name)
    tol = tolerance(tol, mdp.R.dtype)
    model = fingerprint(mdp)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=False
    )
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
        progress = _newest(manager, mdp, model) or Progress(start)
        while True:
            chunk = max(1, min(every, max_iters - progress.iterations))
            solution = solver(mdp, progress.start, tol=tol, max_iters=chunk)
            taken = int(solution.iterations)
            progress = _after(progress, solution)
            _save(manager, progress, model)
            # A solver that ends early without its certificate has given up: rounding, or a number that is not finite.
            exhausted = progress.iterations >= max_iters or progress.since >= PATIENCE or taken < chunk
            if bool(solution.converged) or exhausted:
                return solution._replace(iterations=jnp.asarray(progress.iterations, solution.iterations.dtype))


def _after(progress: Progress, solution: Solution) -> Progress:
    taken, gap = int(solution.iterations), float(_gap(solution.lower, solution.upper))
    since = 0 if gap < progress.best else progress.since + taken
    return Progress(solution, progress.iterations + taken, min(gap, progress.best), since)


@jax.jit
def _gap(lower: Float[Array, " S"], upper: Float[Array, " S"]) -> Float[Array, ""]:
    return jnp.max(upper - lower)


def _save(manager: ocp.CheckpointManager, progress: Progress, model: dict[str, Any]) -> None:
    arrays = {"v": progress.start.v, "policy": progress.start.policy}
    policy = {"shape": list(arrays["policy"].shape), "dtype": str(arrays["policy"].dtype)}
    numbers = {name: getattr(progress, name) for name in ("iterations", "best", "since")}
    about = {"model": model, "policy": policy, "numbers": numbers}
    manager.save(
        progress.iterations,
        args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)),
    )
    if jax.process_index() == 0:
        seal(_folder(manager, progress.iterations))


def _newest(manager: ocp.CheckpointManager, mdp: MDP, model: dict[str, Any]) -> Progress | None:
    """Return where the newest whole checkpoint ends, None if there is no checkpoint at all.

    One process looks and tells the others: if each tried, those that can read would wait for one that cannot.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    reasons: list[str] = []
    if jax.process_index() == 0:
        for step in steps:
            reason = broken(_folder(manager, step))
            if reason is None:
                break
            reasons.append(reason)
    damaged = next((reason for reason in reasons if reason != UNSEALED), None)
    verdict = np.asarray([len(reasons), damaged is not None], np.int32)
    passed, lost = map(int, multihost_utils.broadcast_one_to_all(verdict))
    if passed == len(steps) and lost:
        raise ValueError(f"no checkpoint in {manager.directory} is whole: {damaged or 'see what process 0 says'}")
    onwards = f"going on from iteration {steps[passed]}" if passed < len(steps) else "beginning anew"
    for step, reason in zip(steps, reasons, strict=False):
        warnings.warn(
            f"the checkpoint of iteration {step} in {manager.directory} is broken and deleted, {reason}: {onwards}",
            stacklevel=3,
        )
    progress = _read(manager, steps[passed], mdp, model) if passed < len(steps) else None
    for step in steps[:passed]:
        manager.delete(step)
    return progress


def _read(manager: ocp.CheckpointManager, step: int, mdp: MDP, model: dict[str, Any]) -> Progress:
    about: Any = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
    for name, here in model.items():
        if about["model"].get(name) != here:
            raise ValueError(
                f"{manager.directory} holds checkpoints of another model: {name} is {about['model'].get(name)} there "
                f"and {here} here; this one needs another folder"
            )
    R, (shape, dtype) = jnp.asarray(mdp.R), (about["policy"][x] for x in ("shape", "dtype"))
    states = _of_states(R)
    expected = {
        "v": jax.ShapeDtypeStruct((mdp.size,), R.dtype, sharding=states),
        "policy": jax.ShapeDtypeStruct(shape, dtype, sharding=states if shape == [mdp.size] else R.sharding),
    }
    arrays: Any = manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(expected)))["arrays"]
    return Progress(_unproven(mdp, arrays["v"], arrays["policy"]), **about["numbers"])


def _folder(manager: ocp.CheckpointManager, step: int) -> Path:
    return Path(manager.directory) / str(step)


def _of_states(R: Array) -> Sharding:
    """Return the layout of a vector over states beside R: along the same devices."""
    if not isinstance(R.sharding, NamedSharding):
        return R.sharding
    return NamedSharding(R.sharding.mesh, PartitionSpec(*R.sharding.spec[:1]))


@jax.jit
def _unproven(mdp: MDP, v: Float[Array, " S"], policy: Policy) -> Solution:
    """Return values and a policy in the form that solvers start from; it claims nothing."""
    nothing = jnp.full_like(v, jnp.inf)
    return Solution(
        v=v,
        q=bellman.action_values(mdp, v),
        policy=policy,
        lower=-nothing,
        upper=nothing,
        iterations=jnp.asarray(0),
        residual=jnp.max(nothing),
        converged=jnp.asarray(False),
    )

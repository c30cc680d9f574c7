"""Many MDPs as one: a leading axis on every array, to solve them together or to be the stages of a horizon."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dp.mdp import MDP


def stack(mdps: Sequence[MDP]) -> MDP:
    """Put MDPs of one shape along a new leading axis: `stack(mdps).P[i] = mdps[i].P`, and so R, gamma and mask.

    `jax.vmap(solver)(stack(mdps))` solves them all in one program; `finite_horizon(stack(mdps), len(mdps))` takes
    them for the stages of one problem. Where some have a mask, those that have none get one that allows everything.
    Raises ValueError for no MDPs at all, and, naming the index, where shapes or dtypes differ from those of the first.
    """
    if not mdps:
        raise ValueError("stack needs at least one MDP, got none")
    if any(mdp.mask is not None for mdp in mdps):
        mdps = [_with_mask(mdp) for mdp in mdps]
    first = jax.tree.leaves_with_path(mdps[0])
    for i, mdp in enumerate(mdps):
        if jax.tree.structure(mdp) != jax.tree.structure(mdps[0]):
            raise ValueError(
                f"mdps[{i}] has another form than mdps[0], dense or sparse, or rows in other groups: models that "
                "dp.make_mdp made can be stacked, and those that dp.from_successors made"
            )
        for (path, x), y in zip(first, jax.tree.leaves(mdp), strict=True):
            if (np.shape(x), jnp.result_type(x)) != (np.shape(y), jnp.result_type(y)):
                name = jax.tree_util.keystr(path)
                raise ValueError(f"mdps[{i}]{name} is {_form(y)}, but mdps[0]{name} is {_form(x)}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *mdps)


def _with_mask(mdp: MDP) -> MDP:
    return mdp if mdp.mask is not None else mdp._replace(mask=jnp.ones(mdp.R.shape, bool))


def _form(x: jax.Array) -> str:
    return f"{jnp.result_type(x)} of shape {list(np.shape(x))}"

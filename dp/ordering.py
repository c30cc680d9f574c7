"""Another order of the states: where those that lead to each other have close numbers, devices exchange little.

order = dp.narrow_order(mdp)
solution = dp.value_iteration(dp.shard(dp.reorder(mdp, order)))
v = np.empty(mdp.size)
v[order] = solution.v                    # in the numbers that states had before
"""

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import ArrayLike, Int

from dp.mdp import MDP, require_mdp
from dp.sharded import Sharded
from dp.successors import Ragged, Successors
from dp.table import tabulate
from dp.transitions import is_dense
from dp.validation import array


def narrow_order(mdp: MDP) -> Int[np.ndarray, " S"]:
    """Return the states in reverse Cuthill-McKee order, on the host: the old number of each new one.

    The graph has an edge wherever some action leads from one state to the other. A breadth-first search from its rim
    numbers the states layer by layer, so that an edge spans a layer or two, and a halo holds as much on either side.
    A grid has such an order, a random graph has none. Time and memory are those of the table of the model.
    Source: Cuthill and McKee (1969); George and Liu (1981), section 4.3.
    """
    table = tabulate(mdp)
    S = len(table.choices) - 1
    edges = table.owner[table.row], table.indices
    graph = scipy.sparse.csr_matrix((np.ones(len(table.data), bool), edges), (S, S))
    return scipy.sparse.csgraph.reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True)


def reorder(mdp: MDP, order: ArrayLike) -> MDP:
    """Return the MDP whose state i is state `order[i]` of this one; nothing else changes, to the last bit.

    ValueError where order is not each of the S states once, and for ragged and matrix-free models, or laid out ones.
    """
    require_mdp(mdp)
    P, S, order = mdp.P, mdp.size, array(order, "order")
    if not is_dense(P) and not isinstance(P, Successors):
        hint = "before dp.shard" if isinstance(P, Sharded) else "as dp.as_successors(mdp)"
        what = "ragged" if isinstance(P, Ragged) else type(P).__name__
        raise ValueError(f"only arrays and lists of successors can be reordered, not {what} transitions: {hint}")
    if order.shape != (S,) or order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(S)):
        raise ValueError(f"order must be the numbers 0 to {S - 1}, each of them once")
    number = np.empty(S, np.int32)
    number[order] = np.arange(S, dtype=np.int32)
    if isinstance(P, Successors):
        P = Successors(jnp.asarray(number[np.asarray(P.state)[:, order]]), P.prob[:, order])
    else:
        P = P[order][:, :, order]
    return mdp._replace(P=P, R=mdp.R[order], mask=None if mdp.mask is None else mdp.mask[order])

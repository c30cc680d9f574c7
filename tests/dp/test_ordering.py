import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp

SHUFFLED = np.random.default_rng(2).permutation(144)


def grid(*, dense: bool = False) -> dp.MDP:
    return dp.problems.gridworld(12, 12, gamma=0.9, step_reward=-1.0, slip=0.2, terminals=[(0, 0)], dense=dense)


def width(mdp: dp.MDP) -> int:
    """How far apart the numbers are of states of which one leads to the other."""
    table = dp.tabulate(mdp)
    return int(np.abs(table.indices - table.owner[table.row]).max())


def test_a_grid_is_put_in_order_again():
    shuffled = dp.reorder(grid(), SHUFFLED)
    order = dp.narrow_order(shuffled)
    assert_array_equal(np.sort(order), np.arange(144))
    # Row by row a grid has width 12. Diagonal layers, where the search begins in a corner, have up to 12 cells too.
    assert width(grid()) == 12 and width(shuffled) > 100
    assert width(dp.reorder(shuffled, order)) <= 2 * 12


def test_halos_shrink():
    shuffled = dp.reorder(grid(), SHUFFLED)
    before, after = (
        dp.shard(mdp, exchange="halo") for mdp in (shuffled, dp.reorder(shuffled, dp.narrow_order(shuffled)))
    )
    assert after.P.send.shape[-1] <= 16 < 24 < before.P.send.shape[-1]


@pytest.mark.parametrize("dense", [False, True])
def test_a_reordered_model_is_the_same_model(dense):
    mdp = grid(dense=dense)
    there = dp.reorder(mdp, SHUFFLED)
    P, Q = (np.asarray(dp.as_dense(m).P) for m in (mdp, there))
    assert_array_equal(Q, P[SHUFFLED][:, :, SHUFFLED])
    back = dp.reorder(there, np.argsort(SHUFFLED))
    jax.tree.map(assert_array_equal, back, mdp)


@pytest.mark.slow
def test_values_move_with_their_states():
    order = dp.narrow_order(grid())
    found = dp.value_iteration(dp.reorder(grid(), order))
    assert_allclose(found.v, np.asarray(dp.value_iteration(grid()).v)[order], atol=1e-12)


def test_what_is_no_order_is_refused():
    for wrong in (SHUFFLED[1:], np.zeros(144, int), SHUFFLED + 0.0):
        with pytest.raises(ValueError, match="order must be the numbers 0 to 143, each of them once"):
            dp.reorder(grid(), wrong)
    with pytest.raises(ValueError, match=r"not ragged transitions: as dp\.as_successors"):
        dp.reorder(dp.as_choices(grid()), SHUFFLED)
    with pytest.raises(ValueError, match=r"not Sharded transitions: before dp\.shard"):
        dp.reorder(dp.shard(grid()), SHUFFLED)

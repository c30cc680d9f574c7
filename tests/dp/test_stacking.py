"""Many MDPs in one: what stacking keeps, what it fills in, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp.stacking import stack

MASK = np.array([[True, False, True]] * 4)


def test_one_leading_axis_on_every_array(random_mdp):
    mdps = [random_mdp(seed, gamma=gamma) for seed, gamma in enumerate([0.5, 0.9, 0.0])]
    stacked = stack(mdps)
    assert stacked.mask is None
    for i, mdp in enumerate(mdps):
        assert_array_equal(stacked.P[i], mdp.P)
        assert_array_equal(stacked.R[i], mdp.R)
        assert stacked.gamma[i] == mdp.gamma


def test_one_is_enough(random_mdp):
    assert_array_equal(stack([random_mdp(0)]).R, random_mdp(0).R[None])


def test_where_some_have_a_mask_the_others_allow_everything(random_mdp):
    stacked = stack([random_mdp(0), random_mdp(1, mask=MASK), random_mdp(2)])
    assert_array_equal(stacked.mask, [np.ones((4, 3), bool), MASK, np.ones((4, 3), bool)])


def test_all_are_solved_in_one_program(random_mdp):
    mdps = [random_mdp(seed, gamma=0.8, mask=mask) for seed, mask in enumerate([None, MASK, None])]
    together = jax.vmap(dp.value_iteration)(stack(mdps))
    assert together.converged.all()
    for i, mdp in enumerate(mdps):
        alone = dp.value_iteration(mdp)
        assert_allclose(together.v[i], alone.v, rtol=1e-9)
        assert_array_equal(together.policy[i], alone.policy)


def test_stacking_can_be_traced(random_mdp):
    mdp = random_mdp(0)
    gammas = jax.jit(lambda gamma: stack([mdp, mdp._replace(gamma=gamma)]).gamma)(jnp.asarray(0.25))
    assert_array_equal(gammas, [0.9, 0.25])


def test_nothing_to_stack():
    with pytest.raises(ValueError, match="at least one MDP"):
        stack([])


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("mdps[2].P is float64 of shape [3, 2, 3], but mdps[0].P is float64 of shape [4, 3, 4]", {"S": 3, "A": 2}),
        ("mdps[2].P is float32 of shape [4, 3, 4], but mdps[0].P is float64 of", {"dtype": np.float32}),
    ],
)
def test_mdps_that_do_not_fit(random_mdp, message, change):
    with pytest.raises(ValueError, match=re.escape(message)):
        stack([random_mdp(0), random_mdp(1), random_mdp(2, **change)])


def test_leaves_that_do_not_fit(random_mdp):
    mdp = random_mdp(0, mask=MASK)
    for name, leaf in [("R", jnp.zeros((4, 2))), ("gamma", jnp.zeros(2)), ("mask", jnp.ones((4, 3)))]:
        with pytest.raises(ValueError, match=rf"mdps\[1\]\.{name} is .*, but mdps\[0\]\.{name} is"):
            stack([mdp, mdp._replace(**{name: leaf})])

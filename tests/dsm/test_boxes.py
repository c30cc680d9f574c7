"""Reflecting walls against a ball that bounces one wall at a time, and chains that must not leave a box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from dsm import boxes, chains, langevin, underdamped

reflect = jax.jit(lambda box, x: box.reflect(x))


def bounce(x, lower, upper):
    """Where a ball aimed at x lands, and whether it flies the other way: one bounce after the other."""
    turned = False
    while x < lower or x > upper:
        x = 2 * lower - x if x < lower else 2 * upper - x
        turned = not turned
    return x, turned


finite = st.floats(-50, 50)


@given(
    st.lists(st.tuples(finite, st.floats(0.1, 10), st.sampled_from(["both", "low", "high", "none"])), min_size=1).map(
        lambda walls: (walls * 4)[:4]
    ),
    st.lists(finite, min_size=4, max_size=4),
)
def test_reflection_is_bouncing_as_often_as_it_takes(walls, x):
    lower = np.array([low if kind in ("both", "low") else -np.inf for low, _, kind in walls])
    upper = np.array([low + width if kind in ("both", "high") else np.inf for low, width, kind in walls])
    y, turned = reflect(boxes.box(jnp.asarray(lower), jnp.asarray(upper)), jnp.asarray(x))
    for i in range(4):
        place, way = bounce(x[i], lower[i], upper[i])
        assert_allclose(y[i], place, atol=1e-11)
        assert lower[i] <= y[i] <= upper[i]
        # At a wall, to rounding, either way is right.
        if min(place - lower[i], upper[i] - place) > 1e-9:
            assert turned[i] == way


def test_points_inside_stay_to_the_bit():
    x = jnp.array([0.1, 0.3, 1.0, 0.0, np.nextafter(1.0, 0.0)])
    y, turned = boxes.box(0.0, 1.0).reflect(x)
    assert_array_equal(y, x)
    assert not turned.any()


def test_one_box_serves_points_of_any_shape_and_dtype():
    x = jnp.full((2, 3), 1.25, jnp.float32)
    y, turned = boxes.box(0.0, 1.0).reflect(x)
    assert y.dtype == jnp.float32
    assert_array_equal(y, jnp.full((2, 3), 0.75, jnp.float32))
    assert turned.all()


def test_containment_is_of_all_coordinates():
    box = boxes.box(jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0]))
    assert box.contains(jnp.array([1.0, -1e300]))
    assert not box.contains(jnp.array([0.5, 0.1]))
    assert not box.contains(jnp.array([np.nan, -1.0]))


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (1.0, 1.0, r"lower = 1.0, upper = 1.0"),
        (np.nan, 1.0, r"lower = nan, upper = 1.0"),
        (jnp.array([0.0, 2.0]), 1.0, r"lower = 2.0, upper = 1.0 at \(1,\)"),
    ],
)
def test_a_box_without_inside_is_refused(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        boxes.box(lower, upper)


def test_a_point_that_is_not_finite_is_not_folded_into_the_box():
    for box in (boxes.box(0.0, 1.0), boxes.box(0.0, np.inf)):
        assert not np.isfinite(box.reflect(jnp.array([np.nan, np.inf, -np.inf]))[0]).any()


def ends(step, init, x, num_steps):
    run = lambda key, x: chains.run(key, step, init(x), num_steps, thin=num_steps)  # noqa: E731
    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), x.shape[0]), x)


def test_a_random_walk_between_walls_is_uniform():
    # Steps of 0.6 on an interval of 1: bounces of the second kind are common.
    step = lambda key, s: langevin.ula_step(key, s, lambda x: 0.0 * x, step_size=0.18, box=boxes.box(-0.5, 0.5))  # noqa: E731
    state, history = ends(step, langevin.init, jnp.full((5000, 1), 0.4), 30)
    assert stats.kstest(np.asarray(state.x)[:, 0] + 0.5, "uniform").pvalue > 1e-3
    assert not history.infos.diverged.any()


def test_a_truncated_gaussian_has_its_moments():
    h, low, high = 0.01, 0.5, 2.0
    step = lambda key, s: langevin.ula_step(key, s, lambda x: -x, step_size=h, box=boxes.box(low, high))  # noqa: E731
    x = np.asarray(ends(step, langevin.init, jnp.ones((20_000, 1)), 200)[0].x)[:, 0]
    truth = stats.truncnorm(low, high)
    # Besides the sampling error the step has a bias of order h, here below h / 4 in both moments.
    assert abs(x.mean() - truth.mean()) < 4 * truth.std() / np.sqrt(len(x)) + h / 4
    assert abs(x.var() - truth.var()) < 4 * truth.var() * np.sqrt(2 / len(x)) + h / 4
    assert x.min() >= low and x.max() <= high


def test_free_flight_between_mirrors_keeps_its_speed_and_fills_the_box():
    box, score = boxes.box(0.0, jnp.array([1.0, 3.0])), lambda x: 0.0 * x
    init = lambda x: underdamped.underdamped_init(jax.random.key(0), x, score)  # noqa: E731
    fly = lambda key, s: underdamped.baoab_step(key, s, score, step_size=0.9, friction=0.0, box=box)  # noqa: E731
    start = init(jnp.array([0.2, 0.2]))
    last, history = chains.run(jax.random.key(1), fly, start, 200)
    assert_allclose(np.abs(history.states.v), np.abs(np.tile(start.v, (200, 1))), rtol=1e-13)
    assert (np.asarray(history.states.v) < 0).any() and (np.asarray(history.states.v) > 0).any()
    # The flight itself, unfolded: a straight line, reflected.
    straight = np.asarray(start.x) + 0.9 * np.asarray(start.v) * 200
    assert_allclose(last.x, [bounce(straight[0], 0, 1)[0], bounce(straight[1], 0, 3)[0]], atol=1e-11)


@pytest.mark.slow
def test_with_friction_it_fills_the_box_evenly():
    box, score = boxes.box(0.0, jnp.array([1.0, 3.0])), lambda x: 0.0 * x
    keys = jax.random.split(jax.random.key(0), 5000)

    def chain(key):
        key_start, key_run = jax.random.split(key)
        state = underdamped.underdamped_init(key_start, jnp.array([0.2, 0.2]), score)
        step = lambda key, s: underdamped.baoab_step(key, s, score, step_size=0.9, box=box)  # noqa: E731
        return chains.run(key_run, step, state, 40, thin=40)[0]

    state = jax.jit(jax.vmap(chain))(keys)
    x, v = np.asarray(state.x) / np.array([1.0, 3.0]), np.asarray(state.v)
    for i in range(2):
        assert stats.kstest(x[:, i], "uniform").pvalue > 1e-3
        assert stats.kstest(v[:, i], "norm").pvalue > 1e-3

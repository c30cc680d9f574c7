"""What `run` promises whatever the step: the same path however it is cut, where it broke, and in what memory."""

import io
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

import dsm
from dsm import chains, langevin, tempering, underdamped

WELLS = dsm.double_wells(D=2)


def ula_step(key, state):
    return langevin.ula_step(key, state, WELLS.score, step_size=0.05)


def mala_step(key, state):
    return langevin.mala_step(key, state, WELLS.logdensity, step_size=0.1)


def baoab_step(key, state):
    return underdamped.baoab_step(key, state, WELLS.score, step_size=0.2)


def tempering_step(key, state):
    return tempering.tempering_step(
        key, state, WELLS.logdensity, temperatures=jnp.array([1.0, 3.0, 9.0]), step_size=0.1
    )


X = jnp.array([0.3, -0.8])
CASES = {
    "ula": (ula_step, lambda: langevin.init(X)),
    "mala": (mala_step, lambda: langevin.mala_init(X, WELLS.logdensity)),
    "baoab": (baoab_step, lambda: underdamped.underdamped_init(jax.random.key(5), X, WELLS.score)),
    "tempering": (tempering_step, lambda: tempering.tempering_init(jnp.stack([X, -X, 2 * X]), WELLS.logdensity)),
}


def saved_and_loaded(key, state):
    """A key and a state through a file, as one would resume in another process."""
    file = io.BytesIO()
    np.savez(file, key=jax.random.key_data(key), **state._asdict())
    file.seek(0)
    with np.load(file) as loaded:
        arrays = {name: jnp.asarray(loaded[name]) for name in loaded.files}
    return jax.random.wrap_key_data(arrays.pop("key")), type(state)(**arrays)


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=pytest.mark.slow if name in ("tempering", "mala") else ()) for name in CASES]
)
def test_a_hundred_steps_and_a_hundred_more_are_two_hundred(case):
    step, init = CASES[case]
    key, start = jax.random.key(7), init()
    run = jax.jit(lambda key, state, first: chains.run(key, step, state, 100, thin=10, first=first))
    whole, history = jax.jit(lambda key, state: chains.run(key, step, state, 200, thin=10))(key, start)
    middle, early = run(key, start, 0)
    last, late = run(*saved_and_loaded(key, middle), 100)
    chex.assert_trees_all_equal(last, whole)
    kept = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early[:2], late[:2])
    chex.assert_trees_all_equal(kept, history[:2])
    # The same again is the same again.
    chex.assert_trees_all_equal(run(key, start, 0), (middle, early))


def broken_score(x):
    """The score of N(0, 1) beside a counter; nan from when the counter reaches its goal."""
    return jnp.where(x[1] >= x[2], jnp.nan, jnp.stack([-x[0], 10.0 + 0 * x[1], 0 * x[2]]))


@jax.jit
@jax.vmap
def run_beside(key, goal):
    # At temperature 0 and h = 0.1 the counter counts the steps; the noise comes in by hand.
    def step(key, state):
        moved = state.x.at[0].add(0.1 * jax.random.normal(key))
        new, info = langevin.ula_step(key, langevin.init(moved), broken_score, step_size=0.1, temperature=0.0)
        return langevin.LangevinState(jnp.where(info.diverged, state.x, new.x)), info

    return chains.run(key, step, langevin.init(jnp.stack([1.0, 0.0, goal])), 40, thin=5)


def test_a_chain_that_breaks_says_when_stays_where_it_was_and_leaves_its_neighbours_alone():
    keys = jax.random.split(jax.random.key(0), 4)
    state, history = run_beside(keys, jnp.array([1e9, 16.5, 1e9, 2.5]))
    # The counter is 0 before step 0: it passes 16.5 with step 16, and step 17 is the first to fail.
    assert_array_equal(history.diverged_at, [-1, 17, -1, 3])
    assert_allclose(np.asarray(state.x)[:, 1], [40, 17, 40, 3], rtol=1e-12)
    assert_array_equal(history.infos.diverged[1], np.arange(8) >= 3)
    assert np.isfinite(history.states.x).all()
    assert_array_equal(history.states.x[1, 3:], np.tile(state.x[1], (5, 1)))
    well, well_history = run_beside(keys, jnp.full(4, 1e9))
    for i in (0, 2):
        assert_array_equal(history.states.x[i], well_history.states.x[i])
        assert_array_equal(state.x[i], well.x[i])
    assert_array_equal(well_history.diverged_at, -1)


def test_steps_are_counted_from_first():
    score = lambda x: jnp.full_like(x, jnp.nan)  # noqa: E731
    step = lambda key, state: langevin.ula_step(key, state, score, step_size=0.1)  # noqa: E731
    assert int(chains.run(jax.random.key(0), step, langevin.init(X), 4, first=30)[1].diverged_at) == 30


def temporary_bytes(num_steps, num_chains=10_000):
    def run(key, x):
        return chains.run(key, mala_step, langevin.mala_init(x, WELLS.logdensity), num_steps, thin=num_steps)

    keys = jax.eval_shape(lambda key: jax.random.split(key, num_chains), jax.random.key(0))
    x = jax.ShapeDtypeStruct((num_chains, 2), jnp.float64)
    memory = jax.jit(jax.vmap(run)).lower(keys, x).compile().memory_analysis()
    return memory.temp_size_in_bytes, memory.output_size_in_bytes


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_steps():
    few, many = temporary_bytes(1000), temporary_bytes(1_000_000)
    assert few == many
    # A state is 5 numbers; some dozens of it, never a thousand.
    assert many[0] < 100 * 10_000 * 5 * 8


@pytest.mark.slow
def test_a_long_run_of_many_chains_stays_in_that_memory():
    # In this process's peak memory: 300 infos of 10,000 chains and as many states would be 170 MB.
    import resource

    def run(key, x):
        return chains.run(key, ula_step, langevin.init(x), 3000, thin=3000)

    keys, x = jax.random.split(jax.random.key(0), 10_000), jnp.zeros((10_000, 2))
    compiled = jax.jit(jax.vmap(run)).lower(keys, x).compile()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state, history = jax.block_until_ready(compiled(keys, x))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < 3000 * 10_000 * 2 * 8 / 4
    assert np.isfinite(state.x).all() and (history.diverged_at == -1).all()


def gaussian_step(key, state, step_size):
    logdensity = lambda x: -0.5 * jnp.sum(x * x / SCALES.astype(x.dtype) ** 2)  # noqa: E731
    return langevin.mala_step(key, state, logdensity, step_size=step_size)


SCALES = jnp.linspace(0.5, 2.0, 10)


def stationary_state(key, dtype):
    x = SCALES.astype(dtype) * jax.random.normal(key, (10,), dtype)
    return langevin.mala_init(x, lambda x: -0.5 * jnp.sum(x * x / SCALES.astype(x.dtype) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_warming_up_finds_the_step_that_accepts_as_often_as_asked(dtype):
    state = stationary_state(jax.random.key(0), dtype)
    found = chains.warm_up(jax.random.key(1), gaussian_step, state, 1000, step_size=1e-3)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    assert_allclose(found.step_sizes[0], 1e-3, rtol=1e-5)
    h = found.step_size
    step = lambda key, state: gaussian_step(key, state, h)  # noqa: E731
    _, history = chains.run(jax.random.key(2), step, found.state, 2000, thin=2000)
    # The tuned h is itself random: a mean over 2000 correlated steps, and some memory of the start.
    assert abs(float(history.infos.acceptance[0]) - 0.574) < 0.05


def test_many_chains_share_a_step_size_or_find_their_own():
    keys = jax.random.split(jax.random.key(0), 32)
    states = jax.vmap(lambda key: stationary_state(key, jnp.float64))(keys)
    pooled = lambda key, states, h: jax.vmap(gaussian_step, (0, 0, None))(jax.random.split(key, 32), states, h)  # noqa: E731
    shared = chains.warm_up(jax.random.key(1), pooled, states, 300, step_size=5.0, target_acceptance=0.8)
    assert shared.step_size.shape == ()
    assert abs(float(shared.acceptance[-100:].mean()) - 0.8) < 0.02

    def alone(key, state):
        return chains.warm_up(key, gaussian_step, state, 1000, step_size=0.1, target_acceptance=0.8).step_size

    own = jax.jit(jax.vmap(alone))(keys, states)
    assert own.shape == (32,) and len(np.unique(own)) == 32
    # Each is noisier than the one that all decided, and right on average.
    assert abs(float(jnp.log(own).mean() - jnp.log(shared.step_size))) < 0.1


def test_bad_arguments_are_refused_by_name():
    key, state = jax.random.key(0), langevin.init(X)
    with pytest.raises(ValueError, match=r"first = -1"):
        chains.run(key, ula_step, state, 4, first=-1)
    warm = lambda **kw: chains.warm_up(key, mala_step, state, **{"num_steps": 3, "step_size": 0.1, **kw})  # noqa: E731
    with pytest.raises(ValueError, match=r"num_steps = 0"):
        warm(num_steps=0)
    with pytest.raises(ValueError, match=r"step_size = -0.1"):
        warm(step_size=-0.1)
    for target in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"target_acceptance = {target}"):
            warm(target_acceptance=target)


def chains_of(kind, dtype):
    """A step, and the states of 20 chains in the plane."""
    x = jax.random.normal(jax.random.key(2), (20, 2), dtype)
    mixture = jax.tree.map(lambda leaf: leaf.astype(dtype), dsm.eight_gaussians())
    if kind == "mala":
        step = partial(langevin.mala_step, logdensity=mixture.logdensity, step_size=jnp.asarray(0.01, dtype))
        return lambda key, state: step(key, state), jax.vmap(lambda x: langevin.mala_init(x, mixture.logdensity))(x)
    network = dsm.EnergyMLP((16, 16))
    params = network.init(jax.random.key(1), x[0])
    score = mixture.score if kind == "mixture" else dsm.score_of(lambda x: network.apply(params, x))
    step = partial(langevin.ula_step, score=score, step_size=jnp.asarray(0.01, dtype))
    return lambda key, state: step(key, state), langevin.LangevinState(x)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param("mixture", jnp.float32, marks=pytest.mark.slow),
        pytest.param("mixture", jnp.float64, marks=pytest.mark.slow),
        pytest.param("network", jnp.float32, marks=pytest.mark.slow),
        pytest.param("network", jnp.float64, marks=pytest.mark.slow),
        pytest.param("mala", jnp.float32, marks=pytest.mark.slow),
        pytest.param("mala", jnp.float64, marks=pytest.mark.slow),
    ],
)
def test_with_a_tile_a_chain_has_the_same_bits_alone_or_among_many(kind, dtype):
    step, states = chains_of(kind, dtype)
    keys = jax.random.split(jax.random.key(0), 20)

    def run(num):
        few = jax.tree.map(lambda leaf: leaf[:num], states)
        return langevin.run_many(keys[:num], step, few, 20, thin=10, tile=8)

    many = jax.jit(run, static_argnums=0)(20)
    chex.assert_trees_all_equal(jax.jit(run, static_argnums=0)(20), many)
    for num, function in ((1, jax.jit(run, static_argnums=0)), (9, run)):
        chex.assert_trees_all_equal(function(num), jax.tree.map(lambda leaf, num=num: leaf[:num], many))
    # And the same chains as without a tile, but for the last digits.
    chex.assert_trees_all_close(run(20)[0], langevin.run_many(keys, step, states, 20)[0], rtol=1e-4, atol=1e-5)


def test_chains_run_where_they_are_and_do_not_wait_for_each_other():
    shared = NamedSharding(Mesh(jax.devices(), ("chains",)), PartitionSpec("chains"))
    score = lambda x: -x * x  # noqa: E731
    draw = jax.jit(lambda key, x: langevin.sample(key, score, x, step_size=0.01, num_steps=20))
    x = jnp.linspace(0.0, 1.0, 16).reshape(8, 2)
    spread = draw.lower(jax.random.key(0), jax.device_put(x, shared)).compile()
    found = spread(jax.random.key(0), jax.device_put(x, shared))
    assert found.sharding.is_equivalent_to(shared, 2)
    assert_allclose(found, draw(jax.random.key(0), x), rtol=1e-12)
    text = spread.as_text()
    assert "while" in text and not any(word in text for word in ("all-gather", "all-reduce", "collective-permute"))


def test_a_step_that_accepts_all_cannot_be_warmed_up():
    step = lambda key, state, h: langevin.ula_step(key, state, lambda x: -x, step_size=h)  # noqa: E731
    with pytest.raises(ValueError, match="LangevinInfo has no acceptance"):
        chains.warm_up(jax.random.key(0), step, langevin.init(jnp.zeros(1)), 5, step_size=0.1)


def test_run_many_refuses_a_tile_of_none():
    step, states = chains_of("mixture", jnp.float32)
    with pytest.raises(ValueError, match="tile = 0"):
        langevin.run_many(jax.random.split(jax.random.key(0), 20), step, states, 5, tile=0)


@pytest.mark.slow
def test_a_chain_starts_where_the_density_is_positive():
    with pytest.raises(ValueError, match=r"logdensity\(x\) = -inf at the start"):
        langevin.mala_init(jnp.array([9.0, 0.0]), dsm.checkerboard().logdensity)


def test_infos_are_averaged_to_the_last_digit_over_many_steps():
    # A sum in float32 would stop at 2^24; the average of 1, 0, 1, 0, ... must not drift either.
    def step(key, state):
        return state + 1, (state % 2).astype(jnp.float32)

    _, history = jax.jit(
        lambda: langevin.run(jax.random.key(0), step, jnp.zeros((), jnp.int32), 100_000, thin=100_000)
    )()
    np.testing.assert_allclose(history.infos, 0.5, rtol=1e-5)


def test_whole_numbers_in_an_info_are_averaged_too():
    def step(key, state):
        return state + 1, {"count": state, "flag": state == 2}

    _, history = langevin.run(jax.random.key(0), step, jnp.zeros((), jnp.int32), 4, thin=4)
    assert_allclose(history.infos["count"], [1.5])
    assert_array_equal(history.infos["flag"], [True])

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

import dp
from dp import bellman, transitions
from dp.mdp import induce
from dp.sharded import Sharded
from dp.value_iteration import _value_iteration

# 16 states on each device: numbers that are left over from vectors of 8 or 16 may round otherwise.
D, S, A, K = 4, 64, 3, 2
RNG = np.random.default_rng(0)
STATE = (np.arange(S)[:, None, None] + RNG.permuted(np.tile(np.arange(-3, 4), (S, A, 1)), axis=-1)[..., :K]) % S
PROB = RNG.dirichlet(np.ones(K), (S, A))
R = RNG.normal(size=(S, A))
MASK = RNG.random((S, A)) < 0.7
MASK[:, 1] = True
TERMINAL = np.arange(S) == 17
EXCHANGES = "gather", "halo"


@functools.lru_cache
def model(dtype=np.float64, masked: bool = False) -> dp.MDP:
    given = {"mask": MASK, "terminal": TERMINAL} if masked else {}
    return dp.from_successors(STATE, PROB.astype(dtype), R.astype(dtype), 0.9, **given)


@functools.lru_cache
def laid(exchange: str, dtype=np.float64, masked: bool = False) -> dp.MDP:
    return dp.shard(model(dtype, masked), exchange=exchange)


def rows(first: int, last: int, *, at=None, **changed):
    """Give the rows of some states; change[name] = number at the place of the whole model."""
    whole = {"state": STATE.copy(), "prob": PROB.copy(), "R": R.copy()}
    for name, number in changed.items():
        whole[name][at] = number
    return tuple(x[first:last] for x in whole.values())


def bits(x, y) -> None:
    """Compare two results number by number; where v lies does not matter."""
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        assert_array_equal(np.asarray(a), np.asarray(b))


def collectives(f, *args) -> Counter:
    """Count what devices tell each other in a compiled program: the kind, and whether more than a number."""
    text = jax.jit(f).lower(*args).compile().as_text()
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (.*) ({kinds})(?:-start)?\(", text)
    return Counter((kind, "array" if re.search(r"\[\d", shape) else "number") for shape, kind in found)


def test_there_are_devices_to_lay_it_over():
    assert jax.device_count() == D


@pytest.mark.parametrize(
    ("exchange", "masked"),
    [
        ("halo", True),
        *(pytest.param(*given, marks=pytest.mark.slow) for given in [("gather", True), ("gather", False)]),
    ],
)
def test_sweeps_have_the_bits_of_one_device(exchange, masked):
    one, found = (dp.value_iteration(mdp) for mdp in (model(masked=masked), laid(exchange, masked=masked)))
    assert found.converged
    bits(one, found)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_sweeps_in_float32_have_the_bits_of_one_device(exchange):
    one, found = (dp.value_iteration(mdp) for mdp in (model(np.float32), laid(exchange, np.float32)))
    assert found.v.dtype == np.float32 and found.converged
    bits(one, found)


@pytest.mark.slow
def test_bounds_hold_for_a_dense_solution_by_another_solver():
    exact = dp.policy_iteration(dp.as_dense(model(masked=True)), tol=1e-12)
    for solver in (dp.value_iteration, dp.inexact_policy_iteration):
        found = solver(laid("halo", masked=True))
        assert found.converged
        assert (found.lower <= exact.upper).all() and (exact.lower <= found.upper).all()
        assert_allclose(found.v, exact.v, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_chain_of_a_policy_is_swept_with_the_bits_of_one_device(exchange):
    one, found = (dp.modified_policy_iteration(mdp) for mdp in (model(), laid(exchange)))
    assert found.converged
    bits(one, found)


def test_what_a_solver_returns_is_laid_out_by_states():
    found = dp.value_iteration(laid("halo"))
    for x in (found.v, found.q, found.policy, found.lower, found.upper):
        assert x.sharding.is_equivalent_to(laid("halo").P.layout.along(0), x.ndim)
        assert {part.data.shape[0] for part in x.addressable_shards} == {S // D}


@pytest.mark.slow
def test_a_solution_starts_the_next_solver():
    first = dp.value_iteration(laid("halo"))
    again = dp.value_iteration(laid("halo"), first)
    assert again.converged and again.iterations <= 2
    assert_allclose(dp.evaluate(laid("halo"), first.policy, method="sweeps").v, first.v, atol=1e-6)


@pytest.mark.slow
def test_dense_rows_have_the_values_of_one_device_up_to_rounding():
    one = dp.problems.garnet(32, 2, 5, gamma=0.9, seed=3, dense=True)
    found = dp.value_iteration(dp.shard(one))
    assert found.converged
    assert_allclose(found.v, dp.value_iteration(one).v, rtol=1e-13)


@pytest.mark.slow
def test_rows_that_are_computed_and_never_stored():
    def step(s, a, e):
        return jnp.where(e == 0, (s + a + 1) % S, (s * 7 + a) % S), s.astype(float) * 0.01

    one = dp.from_step(step, states=S, actions=2, events=2, gamma=0.9, probability=np.array([0.3, 0.7]))
    bits(dp.value_iteration(one), dp.value_iteration(dp.shard(one)))
    policy = np.arange(S) % 2
    one, found = (
        jax.jit(bellman.sweep)(induce(m, jnp.asarray(policy)), jnp.linspace(0, 1, S)) for m in (one, dp.shard(one))
    )
    bits(one, found)


@pytest.mark.parametrize(("exchange", "kind"), [("gather", "all-gather"), ("halo", "all-to-all")])
def test_a_backup_exchanges_values_once_and_nothing_else(exchange, kind):
    mdp = laid(exchange, masked=True)
    v = dp.value_iteration(mdp).v
    policy = dp.value_iteration(mdp).policy
    assert collectives(bellman.optimality, mdp, v) == {(kind, "array"): 1}
    assert collectives(lambda mdp, v, pi: bellman.sweep(induce(mdp, pi), v), mdp, v, policy) == {(kind, "array"): 1}
    improved = collectives(lambda mdp, v, pi: bellman.improve(bellman.action_values(mdp, v), pi), mdp, v, policy)
    assert improved == {(kind, "array"): 1}


@pytest.mark.slow
@pytest.mark.parametrize(("exchange", "kind"), [("gather", "all-gather"), ("halo", "all-to-all")])
def test_a_solver_exchanges_values_and_single_numbers_only(exchange, kind):
    mdp = laid(exchange)
    solve = functools.partial(_value_iteration, block=1)
    found = collectives(solve, mdp, jnp.zeros(S), None, 1e-6, 1000)
    # Before the loop, in it, and after it; what is known before may be worked out by the compiler.
    assert 1 < found.pop((kind, "array")) <= 3
    assert set(found) == {("all-reduce", "number")}


def test_the_chain_is_made_without_a_word():
    mdp, policy = laid("halo"), dp.value_iteration(laid("halo")).policy
    assert not collectives(induce, mdp, policy)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_device_holds_a_quarter_of_the_model_and_vectors(exchange):
    large = dp.problems.garnet(4000, 4, 4, gamma=0.9, seed=0, dense=False)
    mdp = dp.shard(large, exchange=exchange)
    model_bytes = sum(x.nbytes for x in jax.tree.leaves(large))
    vector = 8 * large.size
    v = jax.device_put(jnp.zeros(large.size), mdp.P.layout.along(0))
    needed = jax.jit(bellman.optimality).lower(mdp, v).compile().memory_analysis()
    lists = 0 if mdp.P.send is None else mdp.P.send.nbytes / D
    # Beside its part: its values, all of v or the halo, and q.
    assert needed.argument_size_in_bytes <= model_bytes / D + vector / D + lists + 64
    q = large.R.nbytes / D
    assert needed.temp_size_in_bytes <= 3 * vector + q + 1024


def test_a_halo_is_what_rows_read():
    mdp = laid("halo")
    # Successors are at most three states away: three values of each neighbour.
    assert mdp.P.send.shape == (D, D, 3)
    n = S // D
    send = np.asarray(mdp.P.send)
    for receiver in range(D):
        mine = slice(receiver * n, (receiver + 1) * n)
        read = set(STATE[mine][PROB[mine] > 0].tolist()) - set(range(S)[mine])
        sent = {s * n + x for s in range(D) if s != receiver for x in send[s, receiver].tolist()}
        assert read <= sent


def test_auto_chooses_the_halo_only_where_it_moves_less():
    assert dp.shard(model()).P.send is not None
    everywhere = dp.problems.garnet(16, 4, 8, gamma=0.9, seed=0, dense=False)
    assert dp.shard(everywhere).P.send is None


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_model_built_part_by_part_is_the_model(exchange):
    asked = []

    def some(first, last):
        asked.append((first, last))
        return (*rows(first, last), MASK[first:last], TERMINAL[first:last])

    mdp = dp.from_shards(some, S, 0.9, exchange=exchange)
    assert asked == [(0, 16), (16, 32), (32, 48), (48, 64)]
    bits(mdp, laid(exchange, masked=True))


@pytest.mark.slow
def test_parts_may_have_different_numbers_of_successors():
    def some(first, last):
        state, prob, R = rows(first, last)
        return (state[..., :1], np.ones((last - first, A, 1)), R) if first == 0 else (state, prob, R)

    prob = PROB.copy()
    prob[: S // D] = [1, 0]
    bits(dp.value_iteration(dp.from_shards(some, S, 0.9)), dp.value_iteration(dp.from_successors(STATE, prob, R, 0.9)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prob": -0.5}, r"prob\[29, 1, 0\] = -0.5 is a negative probability"),
        ({"prob": np.nan}, r"prob\[29, 1, 0\] = nan is not finite"),
        ({"prob": 3.0}, r"P\[29, 1\] sums to 3\.\d+, not to 1"),
        ({"state": 64}, r"state\[29, 1, 0\] = 64 must lie between 0 and 63"),
    ],
)
def test_what_is_wrong_in_a_part_is_named_by_the_number_of_its_state(changed, message):
    with pytest.raises(ValueError, match=message):
        dp.from_shards(lambda a, b: rows(a, b, at=(29, 1, 0), **changed), S, 0.9)


def test_more_that_is_wrong_in_a_part():
    with pytest.raises(ValueError, match=r"R\[29, 1\] = inf is not finite"):
        dp.from_shards(lambda a, b: rows(a, b, at=(29, 1), R=np.inf), S, 0.9)
    with pytest.raises(ValueError, match="state 48 has no allowed action in mask"):
        dp.from_shards(lambda a, b: (*rows(a, b), np.full((16, A), a != 48)), S, 0.9)
    with pytest.raises(ValueError, match=r"prob of states 16 to 31 must have shape \[16, A, K\]"):
        dp.from_shards(lambda a, b: rows(a, b - (a == 16)), S, 0.9)
    with pytest.raises(ValueError, match="parts must agree: there are 2 to 3 actions"):
        dp.from_shards(lambda a, b: [x[:, : A - (a == 16)] for x in rows(a, b)], S, 0.9)
    with pytest.raises(ZeroDivisionError):
        dp.from_shards(lambda a, b: 1 // 0, S, 0.9)


def test_states_that_do_not_divide_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match="7 states do not divide among 4 devices; 8 do: 1 more could be terminal"):
        dp.from_shards(rows, 7, 0.9)
    with pytest.raises(ValueError, match="3 states do not divide among 4 devices; 4 do"):
        dp.shard(dp.problems.space_exploration())


def test_what_cannot_be_laid_out_is_refused(unchecked):
    ragged = dp.as_choices(model())
    with pytest.raises(ValueError, match=re.escape("shard dp.as_successors(mdp)")):
        dp.shard(ragged)
    with pytest.raises(ValueError, match="laid over a mesh already"):
        dp.shard(laid("halo"))
    with pytest.raises(ValueError, match="only lists of successors tell what they read"):
        dp.shard(dp.as_dense(model()), exchange="halo")
    with pytest.raises(ValueError, match='exchange must be "auto", "gather" or "halo"'):
        dp.shard(model(), exchange="all")
    both = Mesh(np.asarray(jax.devices()).reshape(2, 2), ("hosts", "cores"))
    with pytest.raises(ValueError, match="the mesh has the axes hosts, cores: say which"):
        dp.shard(model(), both)
    with pytest.raises(ValueError, match="axis must be one of hosts, cores"):
        dp.shard(model(), both, axis="states")


@pytest.mark.slow
def test_one_axis_of_a_mesh_of_several():
    both = Mesh(np.asarray(jax.devices()).reshape(2, 2), ("hosts", "cores"))
    mdp = dp.shard(model(), both, axis="cores", exchange="halo")
    assert mdp.R.sharding.spec == PartitionSpec("cores") and mdp.P.send.shape[0] == 2
    bits(dp.value_iteration(mdp), dp.value_iteration(model()))
    bits(dp.from_shards(rows, S, 0.9, both, axis="cores", exchange="halo"), mdp)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_rows_in_plain_numbering_are_those_of_the_model(exchange):
    P = laid(exchange).P
    assert isinstance(P, Sharded)
    plain = P.plain()
    real = np.asarray(plain.prob) != 0
    assert_array_equal(np.asarray(plain.state)[real], np.asarray(model().P.state)[real])
    assert_array_equal(dp.as_dense(laid(exchange)).P, dp.as_dense(model()).P)
    state, prob = transitions.successors(P, None, jnp.int32(20), jnp.int32(2))
    assert_array_equal(state, STATE[20, 2])
    assert_array_equal(prob, PROB[20, 2])


@pytest.mark.slow
def test_sweeps_in_place_mean_the_same():
    order = np.random.default_rng(1).permutation(S)
    one, found = (dp.value_iteration(mdp, order=order, block=12) for mdp in (model(), laid("halo")))
    assert found.converged and found.iterations == one.iterations
    assert_allclose(found.v, one.v, atol=1e-9)


@pytest.mark.slow
def test_derivatives_pass_through_the_mesh():
    def worth(R, mdp):
        return dp.value_iteration(mdp._replace(R=R)).v.sum()

    one, found = (jax.grad(worth)(mdp.R, mdp) for mdp in (model(), laid("halo")))
    assert_allclose(found, one, rtol=1e-9)
    # All that the states earn of a reward of 1 everywhere is S / (1 - γ).
    assert_allclose(found.sum(), S / (1 - 0.9), rtol=1e-9)


def test_a_distribution_moves_the_other_way():
    chain, mu = induce(laid("halo"), jnp.zeros(S, int)), jnp.full(S, 1 / S)
    expected = np.zeros(S)
    np.add.at(expected, STATE[:, 0].ravel(), (PROB[:, 0] / S).ravel())
    assert_allclose(jax.jit(lambda P, x: transitions.transpose(P) @ x)(chain.P, mu), expected, rtol=1e-12)

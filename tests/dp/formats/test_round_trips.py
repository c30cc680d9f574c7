"""What is written is read again: every format, random models."""

import string
from collections.abc import Callable

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dp
from dp import formats
from dp.dense import make_mdp
from dp.formats import Model
from dp.sparse import from_choices, from_successors
from dp.table import tabulate

NAMES = st.text(string.ascii_letters + string.digits + "_é=+-.:{}!&(),/#'<]", min_size=1, max_size=4)
REWARDS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, 5e-324])
few = settings(max_examples=60)


@st.composite
def tables(draw, *, whole: bool = False, square: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return P [C, S], the number of choices of each state, and rewards [C]; whole: rows sum to one."""
    S = draw(st.integers(1, 4))
    owned = np.array(draw(st.lists(st.integers(1, 3), min_size=S, max_size=S)))
    owned = np.full(S, owned[0]) if square else owned
    C = int(owned.sum())
    weight = st.lists(st.sampled_from([0, 0, 1, 2, 3, 1e-3, 7]), min_size=S, max_size=S)
    P = np.array(draw(st.lists(weight, min_size=C, max_size=C)), float)
    P[np.arange(C), draw(st.lists(st.integers(0, S - 1), min_size=C, max_size=C))] += 0.5
    P /= P.sum(1, keepdims=True)
    if not whole:
        P *= np.array(draw(st.lists(st.sampled_from([0, 1, 1, 0.3]), min_size=C, max_size=C)))[:, None]
    return P, owned, np.array(draw(st.lists(REWARDS, min_size=C, max_size=C)))


def ragged(P: np.ndarray, owned: np.ndarray, R: np.ndarray, gamma: float = 0.9) -> dp.MDP:
    row, successor = np.nonzero(P)
    indptr = np.append(0, np.cumsum((P > 0).sum(1)))
    return from_choices(
        P[row, successor], successor, indptr, np.append(0, np.cumsum(owned)), R, gamma, substochastic=True
    )


@st.composite
def parts(draw, *, whole: bool = False) -> dict:
    """Return what makes a model, for `built`."""
    P, owned, R = draw(tables(whole=whole))
    S, C = len(owned), len(R)
    members = st.lists(st.booleans(), min_size=S, max_size=S).filter(any).map(lambda x: np.array(x, bool))
    rewards = draw(
        st.dictionaries(NAMES | st.just(""), st.lists(REWARDS, min_size=C, max_size=C).map(np.array), max_size=2)
    )
    actions = draw(st.none() | st.lists(NAMES | st.just(""), min_size=C, max_size=C).map(tuple))
    return {
        "table": (P, owned, next(iter(rewards.values())) if len(rewards) == 1 else np.zeros(C)),
        "initial": draw(members),
        "labels": draw(
            st.dictionaries((NAMES | st.just("two words")).filter(lambda x: x != "init"), members, max_size=3)
        ),
        "rewards": rewards,
        "states": draw(st.none() | st.lists(NAMES | st.just("x=1 & y=2"), min_size=S, max_size=S).map(tuple)),
        # Names that are only numbers say nothing, and are not kept.
        "actions": actions if actions and not all(not name or name.isdigit() for name in actions) else None,
    }


def built(table: tuple, **named) -> Model:
    return Model(mdp=ragged(*table), **named)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two arrays hold the same bits, but for the sign of 0."""
    return a.dtype == b.dtype and np.array_equal(a, b)


def assert_same(a: Model, b: Model) -> None:
    for x, y in zip(tabulate(a.mdp), tabulate(b.mdp), strict=True):
        np.testing.assert_array_equal(x, y)
    assert jax.tree.structure(a.mdp) == jax.tree.structure(b.mdp)
    assert same(np.asarray(a.mdp.R), np.asarray(b.mdp.R)) and same(a.initial, b.initial)
    assert float(a.mdp.gamma) == float(b.mdp.gamma)
    assert set(a.labels) == set(b.labels) and all(same(x, b.labels[name]) for name, x in a.labels.items())
    assert list(a.rewards) == list(b.rewards) and all(same(x, b.rewards[name]) for name, x in a.rewards.items())
    assert a.states == b.states and a.actions == b.actions


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("formats") / "model")


@pytest.mark.slow
@few
@given(parts=parts())
def test_drn(path: str, parts: dict):
    model = built(**parts)
    formats.write_drn(path, model)
    assert_same(model, formats.read_drn(path, gamma=0.9, substochastic=True))


@pytest.mark.slow
@few
@given(parts=parts(whole=True))
def test_drn_of_a_whole_model_needs_no_permission(path: str, parts: dict):
    model = built(**parts)
    formats.write_drn(path, model)
    assert_same(model, formats.read_drn(path, gamma=0.9))


@few
@given(parts=parts(whole=True))
def test_prism(path: str, parts: dict):
    model = built(**parts)
    assert_same(model, formats.read_prism(**formats.write_prism(path, model), gamma=0.9))


@few
@given(parts=parts())
def test_npz(path: str, parts: dict):
    model = built(**parts)
    formats.write_npz(path, model)
    assert_same(model, formats.read_npz(path))


def as_dense(P: np.ndarray, owned: np.ndarray, R: np.ndarray, dtype: type) -> dp.MDP:
    S, A = len(owned), int(owned.max())
    mask = np.arange(A) < owned[:, None]
    table, rewards = np.zeros((S, A, S), dtype), np.zeros((S, A), dtype)
    table[mask], rewards[mask] = P, np.clip(R, -1e9, 1e9)
    return make_mdp(table, rewards, 0.9, mask=mask, substochastic=True)


def as_successors(P: np.ndarray, owned: np.ndarray, R: np.ndarray, dtype: type) -> dp.MDP:
    dense = as_dense(P, owned, R, dtype)
    table = np.asarray(dense.P)
    state = np.broadcast_to(np.arange(table.shape[2]), table.shape)
    return from_successors(state, table, np.asarray(dense.R), 0.9, mask=dense.mask, substochastic=True)


@few
@given(table=tables(), form=st.sampled_from([as_dense, as_successors]), dtype=st.sampled_from([np.float32, np.float64]))
def test_npz_keeps_the_form_and_the_dtype(path: str, table: tuple, form: Callable, dtype: type):
    mdp = form(*table, dtype)
    formats.write_npz(path, mdp)
    found = formats.read_npz(path)
    assert isinstance(found, dp.MDP)
    assert found.P.dtype == found.gamma.dtype == dtype and type(found.P) is type(mdp.P)
    for x, y in zip(tabulate(mdp), tabulate(found), strict=True):
        assert same(x, y)
    assert same(np.asarray(mdp.R), np.asarray(found.R)) and (mdp.mask is None) == (found.mask is None)


@pytest.mark.slow
@few
@given(table=tables(), dense=st.booleans())
def test_quantecon(table: tuple, dense: bool):
    mdp = as_dense(*table, np.float64) if dense else ragged(*table)
    found = formats.from_quantecon(*formats.to_quantecon(mdp), substochastic=True)
    assert jax.tree.structure(mdp) == jax.tree.structure(found)
    for x, y in zip(jax.tree.leaves(mdp), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@few
@given(table=tables(whole=True, square=True), dense=st.booleans())
def test_mdptoolbox(table: tuple, dense: bool):
    mdp = as_dense(*table, np.float64) if dense else ragged(*table)
    found = formats.from_mdptoolbox(*formats.to_mdptoolbox(mdp), 0.9)
    assert jax.tree.structure(mdp) == jax.tree.structure(found)
    for x, y in zip(jax.tree.leaves(mdp), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(x, y)


def test_float32_models_come_back_from_text_in_float32(path: str):
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(5), size=10).astype(np.float32)
    P /= P.sum(1, keepdims=True)
    mdp = ragged(P, np.full(5, 2), rng.normal(size=10).astype(np.float32))
    assert mdp.R.dtype == np.float32
    formats.write_drn(path, mdp)
    model = Model(mdp, np.ones(5, bool), {}, {"": np.asarray(mdp.R)})
    files = formats.write_prism(path + "32", model)
    for found in formats.read_drn(path, dtype=np.float32), formats.read_prism(**files, dtype=np.float32):
        for x, y in zip(tabulate(mdp), tabulate(found.mdp), strict=True):
            assert same(x, y)

"""The exact check of certificates: its arithmetic is exact, its MDPs hostile, and it does find a false claim."""

import json
from fractions import Fraction

import numpy as np
import pytest

import dp
from experiments import certificates, exact
from experiments.certificates import S, Solver, case
from experiments.exact import Answer, Truth

SEEDS = range(40)
DTYPES = ["float32", "float64"]


def above(x: Fraction, dtype: str) -> np.floating:
    """The smallest float above x."""
    nearest = np.dtype(dtype).type(float(x))
    return nearest if Fraction(float(nearest)) > x else np.nextafter(nearest, nearest.dtype.type(np.inf))


def below(x: Fraction, dtype: str) -> np.floating:
    return -above(-x, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_values_solve_the_bellman_equations(dtype):
    for seed in SEEDS:
        mdp, _, actions, pi, _ = case(seed, dtype)
        P, R, gamma = exact.fractions(mdp.P), exact.fractions(mdp.R), Fraction(float(mdp.gamma))
        model = exact.model(mdp)
        v = exact.value(model, pi)
        assert (v == (exact.fractions(pi) * (R + gamma * (P @ v))).sum(1)).all()
        v = exact.value(model, actions)
        assert (v == (R + gamma * (P @ v))[np.arange(S), actions]).all()
        v = exact.optimal(model, actions)
        assert (v == np.where(mdp.mask, R + gamma * (P @ v), -np.inf).max(1)).all()


def test_a_chain_that_does_not_end_has_no_total_reward():
    half = np.array([[[0.5, 0.5]], [[0.5, 0.5]]])

    def total(P):
        return exact.value(exact.model(dp.MDP(P, np.ones((2, 1)), np.float64(1))), np.array([0, 0]))

    assert total(half) is None
    assert total(half * (1 + 2.0**-50)) is None  # (I - P)^{-1} exists, and is no sum of rewards
    assert total(np.array([[[0.0, 1.0]], [[1.0, 0.0]]])) is None
    assert (total(half / 2) == 2).all()
    assert (total(half * (1 - 2.0**-50)) == 2**50).all()


def test_entropy_adds_no_more_than_claimed():
    mdp = dp.MDP(np.full((1, 4, 1), 0.5), np.zeros((1, 4)), np.float64(0.5))
    most = exact.most_entropy(exact.model(mdp), Fraction(1, 3))
    assert np.log(4) / 3 / 0.75 < most < np.log(4) / 3 / 0.75 + 1e-15


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_instances_are_hostile(dtype):
    mdps = [case(seed, dtype).mdp for seed in range(300)]
    rewards = np.abs(np.stack([mdp.R for mdp in mdps]))
    mass = [mdp.P.astype(float).sum(-1)[mdp.mask] for mdp in mdps]
    assert {mdp.P.dtype for mdp in mdps} == {np.dtype(dtype)}
    assert max(mdp.gamma for mdp in mdps) > 0.9998
    assert rewards[rewards > 0].min() < 1e-5 and rewards.max() > 1e5
    assert any((row == 0).any() for row in mass)  # terminal
    assert any(((row > 0) & (row < 0.9)).any() for row in mass)  # missing mass
    assert any((row > 1 + 1e-9).any() for row in mass)  # as much as rounding may add
    assert any(not mdp.mask.all() for mdp in mdps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_unit_in_the_last_place_is_noticed(dtype):
    mdp, _, actions, _, _ = case(7, dtype)
    v = exact.optimal(exact.model(mdp), actions)
    s = int(np.argmax(abs(v)))
    lower, upper = (np.array([f(x, dtype) for x in v]) for f in (below, above))

    def broken(lower, upper, v_of_policy=v):
        return exact.broken_claims(Answer(lower, lower, upper, np.array(False), actions), Truth(v, v), v_of_policy, 1.0)

    assert broken(lower, upper) == []
    raised, sunk = lower.copy(), upper.copy()
    raised[s], sunk[s] = above(v[s], dtype), below(v[s], dtype)
    assert broken(raised, upper) == ["lower <= value", "lower <= value of the policy"]
    assert broken(lower, sunk) == ["value <= upper"]
    assert broken(np.full(S, np.nan), upper)[0] == "lower <= value"
    assert broken(lower, upper, exact.fractions(lower) - 1) == ["lower <= value of the policy"]


def test_converged_is_a_claim_too():
    v = np.array([Fraction(1, 3)], object)

    def broken(lower, middle, upper):
        answer = Answer(*(np.array([x]) for x in (lower, middle, upper)), np.array(True), None)
        return exact.broken_claims(answer, Truth(v, v), None, 0.5)

    assert broken(0.25, 0.3, 0.75) == []
    assert broken(0.25, 0.5, 0.875) == ["upper - lower <= tol"]
    assert broken(0.0, 0.0, 0.5) == ["|v - value| <= tol / 2"]


def test_finite_bounds_on_no_value_are_noticed():
    infinite = np.full(2, np.inf)
    assert exact.broken_claims(Answer(-infinite, infinite, infinite, np.array(False), None), None, None, 1.0) == []
    assert exact.broken_claims(Answer(-infinite, infinite, np.ones(2), np.array(False), None), None, None, 1.0)


def test_small_run(tmp_path):
    found = certificates.main(
        mdps=21, solvers=("after 3 sweeps", "pi: bounds of any v"), workers=1, out=tmp_path / "run"
    )
    metrics = found["metrics"]
    assert metrics["mdps"] == {"float32": 11, "float64": 10}
    assert metrics["answers_checked"] == 42 and metrics["number_of_violations"] == 0
    for dtype in DTYPES:
        for each in metrics["solvers"][dtype].values():
            assert each["answers"] == metrics["mdps"][dtype]
            assert 0 <= each["error_over_half_gap"]["largest"] <= 1
            assert 1 <= each["gap_over_largest_distance"]["median"] <= 2
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"] == metrics
    assert (tmp_path / "run" / "tightness.png").stat().st_size > 10_000


@pytest.mark.slow
def test_processes_find_what_one_finds(tmp_path):
    one, two = (
        certificates.main(mdps=8, solvers=("bounds of any v",), workers=workers, out=tmp_path / f"{workers}")["metrics"]
        for workers in (1, 2)
    )
    assert one["solvers"] == two["solvers"]


def test_a_liar_is_reported_with_its_seeds(tmp_path, monkeypatch):
    def lie(c):
        honest = dp.bounds(c.mdp, c.v)
        return honest._replace(upper=honest.lower)

    monkeypatch.setitem(certificates.SOLVERS, "liar", Solver("v_*", lie))
    with pytest.raises(ValueError, match="claims are false"):
        certificates.main(mdps=4, solvers=("liar",), workers=1, seed=10, out=tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    first = metrics["violations"][0]
    assert (first["claim"], first["solver"], first["dtype"]) == ("value <= upper", "liar", "float32")
    assert first["first_seeds"][0] == 10 and metrics["number_of_violations"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mdps": 1}, "mdps must be at least 2"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"solvers": ("magic",)}, "no solver is called .'magic'.; there are 'solve', 'value iteration'"),
    ],
)
def test_impossible_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        certificates.main(**arguments, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []

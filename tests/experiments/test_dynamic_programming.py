"""The experiments on Sections 2 and 3: they run small, find what they claim, and refuse impossible arguments."""

import jax.numpy as jnp
import numpy as np
import pytest

import dp
from experiments import bellman_equations, bench_batching, bench_solvers, convergence, growth, space_exploration


@pytest.fixture(autouse=True)
def default_settings():
    import jax

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.slow
def test_space_exploration(tmp_path):
    found = space_exploration.main(iterations=3, starts=5, out=tmp_path / "run")["metrics"]
    assert found["claims_that_hold"] == {"float32": 17, "float64": 17}
    assert found["first_proof"] == {"policy iteration, one sweep": 2, "value iteration": 2}
    assert (tmp_path / "run" / "certificates.png").stat().st_size > 10_000


def test_a_wrong_number_would_be_noticed():
    claim = space_exploration.Claim("3(a)", "v", [1, 1, 0], [1.0, 1.0, 1e-300])
    assert not claim.holds


def test_bellman_equations(tmp_path):
    found = bellman_equations.main(policies=5, out=tmp_path / "run")["metrics"]
    assert max(found["largest_errors"].values()) < 1e-12
    assert found["v_star"] == [3.5, 2.5, 0.0]


def test_by_definition_is_the_sum():
    rng = np.random.default_rng(0)
    p, f = rng.random((2, 3, 2, 4)), rng.random((2, 4))
    np.testing.assert_allclose(bellman_equations.by_definition(p, f), np.einsum("satk,tk->sa", p, f))


@pytest.mark.slow
def test_bench_batching(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_batching, "SOLVERS", {"solve": dp.solve})
    found = bench_batching.main(mdps=40, loops=3, out=tmp_path / "run")["metrics"]
    for dtype, tol in (("float64", 1e-6), ("float32", 1e-3)):
        row = found[f"solve, {dtype}"]
        assert row["policies_agree"]
        assert row["largest_difference"] <= row["largest_gap"] <= tol
    assert (tmp_path / "run" / "batching.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="need 1 <= loops <= mdps, got 5 and 4"):
        bench_batching.main(mdps=4, loops=5, out=tmp_path / "run")


@pytest.mark.slow
def test_bench_solvers(tmp_path, monkeypatch):
    some = {"solve": bench_solvers.SOLVERS["solve"], "cut short": lambda mdp: dp.value_iteration(mdp, max_iters=1)}
    monkeypatch.setattr(bench_solvers, "SOLVERS", some)
    found = bench_solvers.main(states=(9,), gammas=(0.9,), out=tmp_path / "run")["metrics"]
    assert len(found["problems"]) == 7
    assert found["times_slower_than_the_best"]["solve"]["worst"] == 1.0
    assert found["times_slower_than_the_best"]["cut short"]["worst"] == "inf"  # not certified
    assert (tmp_path / "run" / "profile.png").stat().st_size > 5000
    for bad in ({"states": (3,)}, {"states": (5000,)}, {"gammas": (1.0,)}, {"patience": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            bench_solvers.main(**bad, out=tmp_path / "run")


@pytest.mark.slow
def test_convergence(tmp_path):
    found = convergence.main(
        states=10,
        sweeps=60,
        starts=3,
        largest_states=100,
        largest_actions=8,
        largest_enumerated=2,
        out=tmp_path / "run",
    )["metrics"]
    corridor = found["in_place"]["sweeps_to_1e-6"]["corridor of 10 states"]
    assert corridor["in place, last to first"] < corridor["out of place"]
    assert found["initial_values"]["value_iteration_sweeps"]["v_* + 100, all wrong by the same"] <= 2
    assert found["enumeration"]["largest_difference"] <= 1e-6
    names = {"initial_values", "in_place", "order", "growth", "enumeration"}
    assert {p.stem for p in (tmp_path / "run").glob("*.png")} == names


def test_enumeration_is_the_maximum_over_all_policies():
    mdp = dp.problems.garnet(3, 2, 2, gamma=0.9, seed=0)
    best, number = growth.enumerate_policies(mdp)
    policies = jnp.stack(jnp.meshgrid(*[jnp.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    values = jnp.stack([dp.evaluate(mdp, policy).v for policy in policies])
    assert number == len(policies)
    np.testing.assert_allclose(best, values.max(axis=0), atol=1e-12)


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (space_exploration.main, {"iterations": 1}, "iterations must be at least 2"),
        (space_exploration.main, {"starts": 0}, "starts must be at least 1"),
        (bellman_equations.main, {"gamma": 1.0}, "gamma must lie in"),
        (bellman_equations.main, {"policies": 0}, "policies must be at least 1"),
        (convergence.main, {"states": 3}, "states must be at least 10"),
        (convergence.main, {"largest_enumerated": 40}, "largest_enumerated must be 2 to 14"),
    ],
)
def test_impossible_arguments(main, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(**arguments, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []

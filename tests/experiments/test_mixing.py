"""Two far modes: the shares that Song and Ermon report, and impossible arguments refused."""

import json

import jax
import jax.numpy as jnp
import pytest

import dsm
from dsm import langevin
from experiments import mixing, mixing_modes, mixing_report, mixing_samplers

TINY = {"chains": 40, "evaluations": 80, "levels": 5, "leapfrog": 5, "temperatures": (1.0, 4.0), "warm_up_steps": 5}
TINY |= {"compared": 20, "permutations": 9}
CHAINS = 2000


@pytest.fixture(autouse=True)
def default_settings():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def within(share, expected, tolerance):
    """4 standard errors of a share of `CHAINS` independent chains, and a tolerance that is told."""
    return abs(share - expected) < 4 * (expected * (1 - expected) / CHAINS) ** 0.5 + tolerance


@pytest.mark.slow
def test_langevin_halves_what_annealing_weighs():
    target = dsm.two_modes()
    start = jax.random.uniform(jax.random.key(0), (CHAINS, 2), minval=-8.0, maxval=8.0)
    plain = jax.jit(lambda x: langevin.sample(jax.random.key(1), target.score, x, step_size=0.05, num_steps=1000))
    assert within(float(mixing_modes.heavy(plain(start)).mean()), mixing_modes.attracted(), 0.005)
    assert round(mixing_modes.attracted(), 2) == 0.51

    def chain(key, x):
        return dsm.annealed_langevin(
            key,
            lambda x, sigma: target.smooth(sigma).score(x),
            x,
            dsm.geometric_sigmas(20.0, 1.0, 10),
            steps_per_level=100,
            step_size=0.05,
            denoise=False,
        )[0]

    x = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(2), CHAINS), start)
    # What is known of 0.78 is two digits.
    assert within(float(mixing_modes.heavy(x).mean()), 0.78, 0.005)


@pytest.mark.slow
def test_the_share_attracted_against_a_count():
    target, x = dsm.two_modes(), jax.random.uniform(jax.random.key(3), (100_000, 2), minval=-8.0, maxval=8.0)
    heavier = jax.vmap(dsm.gaussian([5.0, 5.0], 1.0).logdensity)(x) + jnp.log(0.8) > jax.vmap(target.logdensity)(
        x
    ) - jnp.log(2.0)
    assert abs(float(heavier.mean()) - mixing_modes.attracted()) < 4 * 0.5 / 100_000**0.5


@pytest.mark.slow
def test_writes_the_record_and_the_figures(tmp_path):
    out = tmp_path / "run"
    record = mixing.main(**TINY, out=out)
    assert json.loads((out / "metrics.json").read_text()) == record
    assert {path.name for path in out.iterdir()} == {"metrics.json", "samples.png", "share.png"}
    rows = record["metrics"]["samplers"]
    assert len(rows) == 7
    for row in rows.values():
        assert 0 <= row["share_on_heavy_mode"] <= 1
        assert 0 < row["mmd_p_value"] <= 1
    assert all(
        "split_r_hat" in row
        for name, row in rows.items()
        if name not in (mixing_samplers.ANNEALED, mixing_report.EXACT)
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"chains": 5}, "chains must be at least 10"),
        ({"compared": 41}, "compared must be at most chains = 40"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"baoab_step": -1.0}, "baoab_step must be positive"),
        ({"largest": 1.0}, "largest must be above 1"),
        ({"levels": 7}, "multiple of levels"),
        ({"leapfrog": 0}, "leapfrog must be at least 1"),
        ({"temperatures": (1.0, 0.5)}, "ascend from 1"),
        ({"permutations": 0}, "permutations must be at least 1"),
        ({"warm_up_steps": 0}, "warm_up_steps must be at least 1"),
    ],
)
def test_impossible_arguments_write_nothing(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        mixing.main(**(TINY | bad), out=tmp_path / "new")
    assert not list(tmp_path.iterdir())

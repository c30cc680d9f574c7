"""Evaluating as far as it pays: sweeps, Krylov steps where they crawl, and what happens where those fail."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import dp
from dp import sweeps
from dp.mdp import MRP


def chain(P, seed=0, gamma=0.99):
    return MRP(jnp.asarray(P), jnp.asarray(np.random.default_rng(seed).standard_normal(len(P))), jnp.asarray(gamma))


def test_sweeps_end_when_the_spread_is_what_was_wanted():
    P = np.random.default_rng(1).dirichlet(np.ones(6), 6)
    mrp, v = chain(P), np.zeros(6)
    Tv = np.asarray(mrp.r)
    last, now, crawling = sweeps.while_they_pay(mrp, jnp.asarray(v), jnp.asarray(Tv), wanted=1e-4)
    while np.ptp(Tv - v) > 1e-4:
        v, Tv = Tv, mrp.r + 0.99 * P @ Tv
    assert_allclose(last, v, rtol=1e-14)
    assert_allclose(now, Tv, rtol=1e-14)
    assert not crawling


def test_a_chain_that_goes_in_circles_crawls():
    mrp = chain(np.roll(np.eye(6), 1, axis=1))
    v = jnp.zeros(6)
    *_, crawling = sweeps.while_they_pay(mrp, v, mrp.r, wanted=1e-6, crawl=0.9)
    assert crawling
    found = sweeps.evaluated(mrp, v, mrp.r, method="gmres", forcing=1e-6, tol=1e-6, most=20, eager=jnp.asarray(True))
    assert np.ptp(dp.bellman.sweep(mrp, found) - found) < 1e-5 * np.ptp(mrp.r)


def test_very_fast_sweeps_go_on_to_the_tolerance():
    mrp = chain(0.99 / 6 + 0.01 * np.eye(6))
    left = {}
    for eager in (True, False):
        asked = {"method": "bicgstab", "forcing": 0.5, "tol": 1e-6, "most": 20, "eager": jnp.asarray(eager)}
        found = sweeps.evaluated(mrp, jnp.zeros(6), mrp.r, **asked)
        left[eager] = np.ptp(dp.bellman.sweep(mrp, found) - found)
    assert left[True] <= 1e-6 * (1 - 0.99) / 2
    # One that is not eager stops where it has done what was asked.
    assert 1e-6 < left[False] <= 0.5 * np.ptp(mrp.r)


def test_a_krylov_method_gone_mad_does_no_harm(monkeypatch):
    # A chain in circles, so that Krylov steps are wanted, and a method that makes everything worse.
    monkeypatch.setattr(sweeps, "krylov", lambda mrp, v, **_: -1e5 * v)
    S = 34
    P = np.stack([np.roll(np.eye(S), 1, axis=1), np.roll(np.eye(S), 2, axis=1)], axis=1)
    mdp = dp.make_mdp(P, np.random.default_rng(4).standard_normal((S, 2)), 0.9)
    solution = dp.inexact_policy_iteration(mdp, forcing=0.0123)
    assert solution.converged
    assert_allclose(solution.v, dp.policy_iteration(mdp).v, atol=1e-6)


@pytest.mark.parametrize("form", [dp.as_dense, dp.as_successors])
def test_what_is_kept_apart_is_the_same(form):
    # Larger than what counts as small, so that q is computed in a conditional.
    sparse = dp.problems.garnet(500, 7, 5, gamma=0.9, seed=2, dense=False)
    mdp, v = form(sparse), np.random.default_rng(5).standard_normal(500)
    assert not dp.transitions.is_small(mdp.P)
    state, prob = (np.asarray(x) for x in sparse.P)
    q = np.asarray(mdp.R) + float(mdp.gamma) * (prob * v[state]).sum(0)
    assert_allclose(dp.action_values(mdp, jnp.asarray(v)), q, atol=1e-13)
    assert np.isnan(dp.action_values(mdp._replace(gamma=jnp.asarray(jnp.nan)), jnp.asarray(v))).all()

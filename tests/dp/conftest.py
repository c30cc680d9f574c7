"""What several files of these tests need: random MDPs, and the library without its shape checks."""

from collections.abc import Callable, Iterator

import jaxtyping
import numpy as np
import pytest

import dp


def _random_mdp(seed: int, S: int = 4, A: int = 3, gamma: float = 0.9, dtype: type = np.float64, **sets) -> dp.MDP:
    rng = np.random.default_rng(seed)
    P = rng.exponential(size=(S, A, S)) * (rng.random((S, A, S)) < 0.7) + 0.01
    return dp.make_mdp(
        (P / P.sum(-1, keepdims=True)).astype(dtype), rng.normal(size=(S, A)).astype(dtype), gamma, **sets
    )


@pytest.fixture(scope="session")
def random_mdp() -> Callable[..., dp.MDP]:
    return _random_mdp


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As a user calls the library: without jaxtyping's checks, which would be the first to complain."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

"""Distributions of other libraries, and plain log-densities, as targets."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key


class LogProb(NamedTuple):
    """A target from a function x -> log p(x). Make one with `from_log_prob`.

    It is a pytree without arrays: to jitted functions the distribution is a constant, and another one compiles
    anew.
    """

    log_prob: Partial
    draw: Partial | None
    """(key, num) -> x [num, *shape], or None."""

    def logdensity(self, x: Float[Array, "*shape"]) -> Float[Array, ""]:
        """log p(x), as normalised as the distribution's own.

        Raises ValueError, at trace time, if it is not one number for one x.
        """
        value = self.log_prob(x)
        _require_scalar(jnp.shape(value))
        return value

    def score(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """grad log p(x), by reverse mode."""
        return jax.grad(self.logdensity)(x)

    def sample(self, key: Key[Array, ""], num: int) -> Float[Array, "{num} *shape"]:
        """num independent draws by the distribution's own sampler. `key` is consumed.

        Raises ValueError if it has none.
        """
        if self.draw is None:
            raise ValueError("this target was made from a log-density without a sampler: it cannot be sampled")
        return self.draw(key, num)


def from_log_prob(distribution: Any) -> LogProb:
    """A target from anything with a method log_prob(x), or from a function x -> log p(x).

    A method `sample` is called as NumPyro's, `sample(key, sample_shape=(num,))`, or, where it takes a `seed`, as
    Distrax's, `sample(seed=key, sample_shape=(num,))`. One x is one event: a distribution whose batch is not
    empty gives several numbers for it, and is refused.

    Raises ValueError if there is neither a log_prob nor a function, or if the batch is not empty.
    """
    log_prob: Callable | None = getattr(distribution, "log_prob", distribution if callable(distribution) else None)
    if not callable(log_prob):
        raise ValueError(f"distribution is of type {type(distribution).__name__}: it has no log_prob to call")
    _require_scalar(tuple(getattr(distribution, "batch_shape", ())))
    sample = getattr(distribution, "sample", None)
    draw = None
    if callable(sample):
        name = "seed" if "seed" in inspect.signature(sample).parameters else None
        draw = Partial(_Draw(sample, name))
    return LogProb(Partial(log_prob), draw)


class _Draw(NamedTuple):
    # A NamedTuple, and not a closure: two made from the same distribution are equal, and jit compiles once.
    sampler: Callable
    key_name: str | None

    def __call__(self, key, num):
        if self.key_name is None:
            return self.sampler(key, sample_shape=(num,))
        return self.sampler(**{self.key_name: key}, sample_shape=(num,))


def _require_scalar(shape: tuple[int, ...]) -> None:
    if shape != ():
        raise ValueError(
            f"log_prob of x has shape {shape}: make the last axis an event, for instance with .to_event(1)"
        )

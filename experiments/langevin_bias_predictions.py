"""What ULA samples, predicted in two ways: the targets of `experiments.langevin_bias` on a grid of the line.

For x' = x + h s(x) + sqrt(2 h) eps on a density p of the line, with s = (log p)', the stationary density is

    p_h = p (1 + h c) + O(h^2),    c = (s^2 + 2 s' + E_p[s^2]) / 4.

It follows from E f(x') = f + h L f + h^2 A f + ..., L f = s f' + f'', A f = s^2 f''/2 + s f''' + f''''/2: the terms of
order h^2 in E_{p_h}[E f(x') - f] = 0 ask that E_p[c L f] = -E_p[A f] for every f, and A = L^2/2 - (s s' + s'') f'/2 -
s' f'' with E_p[L^2 f] = 0. By parts, c' = (s'' + s s') / 2. For N(0, v) it says v + h/2, and exact is v / (1 - h/2v).
The other prediction has no order: p_h is the leading eigenvector of the transition kernel on a fine grid.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import dsm

REACH = 9.0
"""Half the length of the grid, in standard deviations of a Gaussian target."""


class Line(NamedTuple):
    """A target on a uniform grid of the line: density, score, and the first-order change of the density per h."""

    x: Float[np.ndarray, " G"]
    p: Float[np.ndarray, " G"]
    score: Float[np.ndarray, " G"]
    change: Float[np.ndarray, " G"]
    """c(x)."""

    @property
    def weight(self) -> float:
        """The distance of neighbours: all integrands vanish at the ends, so sums times it converge fast."""
        return float(self.x[1] - self.x[0])


def targets() -> dict[str, dsm.GaussianMixture]:
    """A Gaussian of variance 1, and two overlapping modes of different weights."""
    return {
        "Gaussian": dsm.gaussian([0.0], 1.0),
        "two modes": dsm.gaussian_mixture([0.6, 0.4], [[-1.0], [1.0]], 0.36),
    }


def on_a_line(target: dsm.GaussianMixture, num: int, reach: float = REACH) -> Line:
    """Evaluate density, score and c = (s^2 + 2 s' + E_p[s^2]) / 4 on [-reach, reach], in float64."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        target = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), target)
        x = jnp.linspace(-reach, reach, num)
        p = np.asarray(jnp.exp(jax.vmap(target.logdensity)(x[:, None])))
        score = jax.vmap(lambda x: target.score(x[None])[0])
        s = np.asarray(score(x))
        slope = np.asarray(jax.vmap(jax.grad(lambda x: target.score(x[None])[0]))(x))
    x = np.asarray(x)
    p = p / p.sum() / (x[1] - x[0])
    information = float(np.sum(p * s**2) * (x[1] - x[0]))
    return Line(x, p, s, (s**2 + 2 * slope + information) / 4)


def stationary(line: Line, h: float) -> Float[np.ndarray, " G"]:
    """The density that x' = x + h s(x) + sqrt(2 h) eps leaves as it is: the eigenvector of the kernel on the grid."""
    kernel = np.exp(-((line.x[:, None] - line.x - h * line.score) ** 2) / (4 * h))
    kernel /= kernel.sum(axis=0)
    # (K - I) p = 0 with one row replaced by the sum of p.
    system = kernel - np.eye(len(line.x))
    system[len(line.x) // 2] = 1.0
    right = np.zeros(len(line.x))
    right[len(line.x) // 2] = 1.0 / line.weight
    return np.linalg.solve(system, right)


def predictions(line: Line, h: float) -> dict[str, dict[str, float]]:
    """Error of E[x^2] and total variation: exact, from the kernel, and to first order in h, from c."""
    change = {"kernel": stationary(line, h) - line.p, "first order": h * line.p * line.change}
    return {
        name: {
            "second_moment": float(np.sum(line.x**2 * d) * line.weight),
            "total_variation": float(np.abs(d).sum() * line.weight / 2),
        }
        for name, d in change.items()
    }

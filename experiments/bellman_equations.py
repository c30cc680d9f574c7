"""Section 2 of the exercise, equation by equation: the library against sums written out over p(s', r | s, a).

python -m experiments.bellman_equations
"""

from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

import dp
from dp.problems.space_exploration import ACTIONS, REWARDS, STATES, dynamics
from experiments import record

S, A = len(STATES), len(ACTIONS)


def by_definition(p: np.ndarray, f: np.ndarray) -> np.ndarray:
    """`Σ_{s',r} p(s', r | s, a) f(s', r)` for every s and a, term by term. p: [S, A, S', K]; f: [S', K]."""
    q = np.zeros(p.shape[:2])
    for s, a, t, k in product(*map(range, p.shape)):
        q[s, a] += p[s, a, t, k] * f[t, k]
    return q


def main(
    *, gamma: float = 0.5, policies: int = 1000, seed: int = 0, out: Path = Path("results/bellman_equations")
) -> dict:
    """Check the identities of Section 2 on Space Exploration, for random stochastic policies.

    Args:
        gamma: discount rate, in [0, 1).
        policies: number of random policies.
        seed: of the policies.
        out: folder for metrics.json and the figure.
    """
    arguments = locals()
    record.require(0 <= gamma < 1, f"gamma must lie in [0, 1), got {gamma}")
    record.require(policies >= 1, f"policies must be at least 1, got {policies}")
    record.require_run(seed, out)

    clock, p = record.Clock(), dynamics()
    reward = np.broadcast_to(REWARDS, (S, len(REWARDS)))
    with jax.enable_x64(True):
        mdp = dp.problems.space_exploration(gamma)
        pi = jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(A), size=(policies, S)))

        def both_values(pi: jax.Array) -> tuple:
            v = dp.evaluate(mdp, pi).v
            return dp.expected_reward(mdp, pi), v, dp.action_values(mdp, v), dp.expectation(mdp, pi, v)

        expected, v, q, T_v = map(np.asarray, clock(jax.vmap(both_values), pi))
        best = dp.policy_iteration(mdp)
        v_star, q_star, T_v_star = map(np.asarray, (best.v, best.q, dp.optimality(mdp, best.v)))

    pi, errors = np.asarray(pi), {}

    def compare(equation: str, left: np.ndarray, right: np.ndarray) -> None:
        errors[equation] = max(errors.get(equation, 0.0), float(np.abs(left - right).max()))

    rewards = by_definition(p, reward)
    for i in range(policies):
        targets = by_definition(p, reward + gamma * v[i][:, None])
        compare("2(a)  E_π[R | s] = Σ_a π(a|s) Σ_{s',r} r p(s',r|s,a)", expected[i], (pi[i] * rewards).sum(1))
        compare("2(a)  v_π(s) = Σ_a π(a|s) q_π(s,a)", v[i], (pi[i] * q[i]).sum(1))
        compare("2(a)  q_π(s,a) = Σ_{s',r} p(s',r|s,a) [r + γ v_π(s')]", q[i], targets)
        compare("2(b)  v_π(s) = Σ_a π(a|s) Σ_{s',r} p(s',r|s,a) [r + γ v_π(s')]", v[i], (pi[i] * targets).sum(1))
        compare("2(b)  the operator of the library, T_π v_π = v_π", T_v[i], v[i])
        compare("2(c)  v_*(s) >= v_π(s), for every π", np.maximum(v[i] - v_star, 0), np.zeros(S))
    targets = by_definition(p, reward + gamma * v_star[:, None])
    compare("2(c)  q_*(s,a) = Σ_{s',r} p(s',r|s,a) [r + γ v_*(s')]", q_star, targets)
    compare("2(c)  v_*(s) = max_a Σ_{s',r} p(s',r|s,a) [r + γ v_*(s')]", v_star, targets.max(1))
    compare("2(c)  the operator of the library, T v_* = v_*", T_v_star, v_star)

    table = Table("equation", "largest error", title=f"Section 2, {policies} random policies, float64")
    for equation, error in errors.items():
        table.add_row(escape(equation), f"{error:.1e}")
    record.console.print(table)
    worst = max(errors.values())
    record.require(worst < 1e-9 / (1 - gamma), f"an identity of Section 2 is off by {worst:.3g}")
    metrics = {"largest_errors": errors, "v_star": v_star, "q_star": q_star}
    return record.write(
        out, arguments=arguments, metrics=metrics, figures={"policies": draw(v, v_star)}, clock=clock, dtype="float64"
    )


def draw(v: np.ndarray, v_star: np.ndarray) -> Figure:
    """Draw the values of random policies, all of them below v_* in both states at once."""
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    ax = figure.subplots()
    ax.plot(*v[:, :2].T, ".", ms=3, alpha=0.5, label="v_π of random policies")
    ax.plot(*v_star[:2], "*", ms=14, color="tab:red", label="v_*")
    ax.set(xlabel="value of F", ylabel="value of L", title="one policy is best in every state")
    ax.legend()
    return figure


if __name__ == "__main__":
    record.command(main)

"""Section 3 of the exercise: every number of it, computed and compared, and what a certificate says at each step.

python -m experiments.space_exploration
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

import dp
from dp.problems.space_exploration import ACTIONS, STATES
from experiments import record

F, L, D = range(3)
CONSERVE = (0, 0, 0)


class Claim(NamedTuple):
    """A statement of the exercise: the question, what is stated, the stated value and the computed one."""

    question: str
    quantity: str
    stated: Any
    computed: Any

    @property
    def holds(self) -> bool:
        """Whether they are equal, to the last bit: every number of Section 3 is a dyadic rational."""
        return self.stated == self.computed


def claims(dtype: str) -> list[Claim]:
    """Compute every number of Section 3 in the given dtype."""
    with jax.enable_x64(dtype == "float64"):
        mdp = dp.problems.space_exploration(gamma=0.5)
        pi = jax.tree.map(np.asarray, dp.policy_iteration_history(mdp, jnp.asarray(CONSERVE), None, num=2, sweeps=1))
        vi = jax.tree.map(np.asarray, dp.value_iteration_history(mdp, None, num=2))
        optimum = jax.tree.map(np.asarray, dp.policy_iteration(mdp))
    assert vi.v.dtype == dtype

    def letters(policy: np.ndarray) -> str:
        return "".join(ACTIONS[a] for a in policy[:D])

    return [
        Claim("3(a)", "v₁, one sweep under 'always conserve'", [1, 1, 0], pi.v[1].tolist()),
        Claim("3(a)", "q₁(F, ·) before the first improvement", [1.5, 2.5], pi.q[1, F].tolist()),
        Claim("3(a)", "q₁(L, ·) before the first improvement", [1.5, -10], pi.q[1, L].tolist()),
        Claim("3(a)", "π₁ at F, L", "EC", letters(pi.policy[1])),
        Claim("3(a)", "v₂, one sweep under π₁", [2.5, 1.5, 0], pi.v[2].tolist()),
        Claim("3(a)", "q₂(F, ·) before the second improvement", [2.25, 3], pi.q[2, F].tolist()),
        Claim("3(a)", "q₂(L, ·) before the second improvement", [2, -10], pi.q[2, L].tolist()),
        Claim("3(a)", "π₂ = π₁ at F, L", "EC", letters(pi.policy[2])),
        Claim("3(a)", "π₂ is optimal: π_* at F, L", "EC", letters(optimum.policy)),
        Claim("3(b)", "candidates for v₁(F)", [1, 2], vi.q[0, F].tolist()),
        Claim("3(b)", "candidates for v₁(L)", [1, -10], vi.q[0, L].tolist()),
        Claim("3(b)", "v₁ of value iteration", [2, 1, 0], vi.v[1].tolist()),
        Claim("3(b)", "candidates for v₂(F)", [2, 2.75], vi.q[1, F].tolist()),
        Claim("3(b)", "candidates for v₂(L)", [1.75, -10], vi.q[1, L].tolist()),
        Claim("3(b)", "v₂ of value iteration", [2.75, 1.75, 0], vi.v[2].tolist()),
        Claim("3(b)", "v₂ has converged", False, bool((vi.v[2] == vi.v[1]).all())),
        Claim("-", "v_*, the fixed point (not stated in the exercise: 7/2, 5/2, 0)", [3.5, 2.5, 0], optimum.v.tolist()),
    ]


class Certificate(NamedTuple):
    """What one more backup of v_k proves: bounds on v_* in F and L, their gap, and whether the policy is optimal."""

    k: int
    v: list[float]
    lower: list[float]
    upper: list[float]
    gap: float
    proven: bool


def certificates(mdp: dp.MDP, v: jax.Array) -> list[Certificate]:
    """Certify each v_k of a history [K, S].

    The greedy policy is proven optimal, up to the rounding of one product, where no other action reaches `lower` when
    it is valued with `upper`: MacQueen's test.
    """

    def certify(v: jax.Array) -> tuple:
        b, policy = dp.bounds(mdp, v), dp.greedy(mdp, v)
        rival = dp.action_values(mdp, b.upper).at[jnp.arange(3), policy].set(-jnp.inf)
        return v, b.lower, b.upper, b.gap, (rival.max(axis=1) < b.lower)[:D].all()

    *columns, gap, proven = map(np.asarray, jax.jit(jax.vmap(certify))(v))
    # Rounded to nine digits, so that a bound prints as 3.5 and not as 3.500000000000001.
    rows = zip(*(np.round(column, 9).tolist() for column in columns), gap.tolist(), proven.tolist(), strict=True)
    return [Certificate(k, *row) for k, row in enumerate(rows)]


def main(
    *, iterations: int = 10, starts: int = 100, seed: int = 0, out: Path = Path("results/space_exploration")
) -> dict:
    """Check every number of Section 3, then say what a certificate says after each iteration.

    Args:
        iterations: how many iterations to certify, at least 2.
        starts: number of random initial values from which v_* is enclosed again.
        seed: of these initial values.
        out: folder for metrics.json and the figure.
    """
    arguments = locals()
    record.require(iterations >= 2, f"iterations must be at least 2, as in the exercise; got {iterations}")
    record.require(starts >= 1, f"starts must be at least 1, got {starts}")
    record.require_run(seed, out)
    clock = record.Clock()

    found = {dtype: claims(dtype) for dtype in ("float32", "float64")}
    with jax.enable_x64(True):
        mdp = dp.problems.space_exploration(gamma=0.5)
        conserve = jnp.asarray(CONSERVE)
        histories = {
            "policy iteration, one sweep": dp.policy_iteration_history(mdp, conserve, None, iterations).v,
            "value iteration": dp.value_iteration_history(mdp, None, iterations).v,
        }
        proofs = {name: certificates(mdp, v) for name, v in histories.items()}
        v0 = jnp.asarray(np.random.default_rng(seed).uniform(-100, 100, (starts, 3)))
        solutions = clock(jax.vmap(dp.value_iteration, (None, 0)), mdp, v0)
        optimum = jnp.asarray([3.5, 2.5, 0.0])
        enclosed = ((solutions.lower <= optimum) & (optimum <= solutions.upper)).all() & solutions.converged.all()

    failed = [f"{dtype} {c.question} {c.quantity}" for dtype, cs in found.items() for c in cs if not c.holds]
    show(found, proofs)
    record.require(not failed, f"these numbers of the exercise were not reproduced: {failed}")
    record.require(bool(enclosed), "a certificate from a random start does not enclose v_*")
    metrics = {
        "claims": [c._asdict() | {"holds": c.holds} for c in found["float64"]],
        "claims_that_hold": {dtype: sum(c.holds for c in cs) for dtype, cs in found.items()},
        "certificates": {name: [c._asdict() for c in rows] for name, rows in proofs.items()},
        "first_proof": {name: next(c.k for c in rows if c.proven) for name, rows in proofs.items()},
        "random_starts_enclosed": starts,
    }
    figures = {"certificates": draw(proofs)}
    return record.write(
        out, arguments=arguments, metrics=metrics, figures=figures, clock=clock, dtype="float32 and float64"
    )


def show(found: dict[str, list[Claim]], proofs: dict[str, list[Certificate]]) -> None:
    """Print the two tables."""
    table = Table("question", "what", "exercise", *found, title="Section 3 of the exercise, γ = 0.5")
    for claim, *others in zip(*found.values(), strict=True):
        verdicts = ["[green]equal[/]" if c.holds else f"[red]{c.computed}[/]" for c in (claim, *others)]
        table.add_row(claim.question, claim.quantity, str(claim.stated), *verdicts)
    record.console.print(table)
    for name, rows in proofs.items():
        table = Table("k", "v_k(F)", "v_k(L)", "v_*(F) in", "v_*(L) in", "policy", title=f"Certified: {name}")
        for c in rows:
            spans = [f"[{c.lower[s]:.6g}, {c.upper[s]:.6g}]" for s in (F, L)]
            verdict = "proven optimal" if c.proven else "could be wrong"
            table.add_row(str(c.k), f"{c.v[F]:.6g}", f"{c.v[L]:.6g}", *map(escape, spans), verdict)
        record.console.print(table)
    record.console.print(
        "The exercise stops policy iteration at k = 2 because the policy repeats. Here the bounds at k = 2 prove that "
        "it is optimal, while its values are still off by 1: a repeated policy alone would prove neither."
    )


def draw(proofs: dict[str, list[Certificate]]) -> Figure:
    """Draw the bounds closing in on v_*, for each state and method."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (name, rows) in zip(axes, proofs.items(), strict=True):
        k = [c.k for c in rows]
        for s, colour in ((F, "tab:blue"), (L, "tab:orange")):
            ax.fill_between(k, [c.lower[s] for c in rows], [c.upper[s] for c in rows], color=colour, alpha=0.25)
            ax.plot(k, [c.v[s] for c in rows], "o-", ms=4, color=colour, label=f"v_k({STATES[s]}), its bounds shaded")
        first = next(c.k for c in rows if c.proven)
        ax.axvline(first, color="grey", lw=1, ls="--", label="policy proven optimal from here")
        ax.set(title=name, xlabel="iteration k")
        ax.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("value")
    return figure


if __name__ == "__main__":
    record.command(main)

"""The exercise's questions, the experiment that answers each, its small setting, and the answer in sentences."""

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments import bellman_equations, convergence, digits, low_density, score_matching, space_exploration


class Chapter(NamedTuple):
    """One experiment in the tour.

    question: which of the exercise's questions it answers. asked: the questions in short.
    run: the experiment; arguments: its small setting. answers: what its metrics say, in sentences, the first for the
    terminal. figures: file name and caption.
    """

    question: str
    asked: str
    run: Callable[..., dict]
    arguments: dict[str, Any]
    answers: Callable[[dict], list[str]]
    figures: dict[str, str]


def score_matching_answers(m: dict) -> list[str]:
    """Answer 1(a) to 1(c)."""
    energy, network, exact = (m["scores"][name] for name in ("energy", "score network", "exact smoothed score"))
    return [
        f"1(c) trained: the learned scores are off the exact smoothed score by {energy['relative_error']:.0%} of its "
        f"size as an energy and {network['relative_error']:.0%} as a score network, in root mean square.",
        f"1(a) With a good score one can sample: Langevin chains that follow the learned energy end at a sliced "
        f"Wasserstein distance of {energy['sliced_wasserstein']:.3f} from exact samples; chains on the exact score at "
        f"{exact['sliced_wasserstein']:.3f}, and fresh exact samples are at "
        f"{m['scores']['fresh exact samples']['sliced_wasserstein']:.3f}, which is the noise of this distance.",
        f"1(b) The gradient of log q_σ(x̃|x) is -(x̃ - x)/σ²: automatic differentiation agrees to a relative "
        f"{m['kernel_score_against_grad']:.0e}. What equation 2 then learns is the score of the noisy data, not of the "
        f"data: the data's own score has a loss {m['scores']['exact data score']['excess_over_floor']:.2f} above the "
        f"least possible value {m['floor_of_equation_2']:.2f}.",
        "1(c) The algorithm is dsm.training.step, with the steps (a) to (e) marked in its code.",
    ]


def digits_answers(m: dict) -> list[str]:
    """Say how good the digits are."""
    real = m["table"]["training half"]
    models = {
        name: row["frechet"]["mean"] for name, row in m["table"].items() if name not in ("training half", "copies")
    }
    better = [name for name, distance in models.items() if distance < m["frechet"]]
    return [
        f"1(c) on real data: digits from noise, Fréchet distance {m['frechet']:.2f} (real digits of the training half "
        f"{real['frechet']['mean']:.2f}), coverage {m['coverage']:.2f}, nearest-neighbour ratio "
        f"{m['nearest_neighbour_ratio']:.2f}.",
        "Fréchet distance and coverage compare with the 797 held-out digits, in the features of a classifier; a "
        "nearest-neighbour ratio near 1 is like new digits, 0 is copying. 'training half' is real data, 'copies' "
        "repeats it, the others are simple densities fitted to it.",
        (f"Better by Fréchet distance in this run: {', '.join(better)}. " if better else "")
        + "This is a short training; the full one (experiments.digits without options, some minutes) aims at a "
        f"distance below {m['goal']['frechet']}, a coverage above {m['goal']['coverage']} and a ratio above "
        f"{m['goal']['nearest_neighbour_ratio']}.",
    ]


def bellman_answers(m: dict) -> list[str]:
    """Answer Section 2."""
    worst = max(m["largest_errors"].values())
    return [
        f"2(a)-(c) every equation holds to {worst:.0e}, against sums written out over p(s', r|s, a), for all random "
        f"policies.",
        "For each equation the largest difference of its two sides, and for the inequality the largest violation:",
    ]


def space_answers(m: dict) -> list[str]:
    """Answer 3(a) and 3(b)."""
    holds, total = m["claims_that_hold"], len(m["claims"])
    pi, vi = m["certificates"].values()
    first = m["first_proof"]["policy iteration, one sweep"]
    return [
        f"3(a) policy iteration: π₂ is optimal, proven at k = {first}. 3(b) value iteration: not converged, gap "
        f"{vi[2]['gap']:.3g}. Of the exercise's {total} numbers {holds['float32']} are reproduced exactly in float32, "
        f"{holds['float64']} in float64.",
        f"3(a) Policy iteration from 'always conserve': v₁ = {pi[1]['v']}, v₂ = {pi[2]['v']}, and π₂ = π₁ = explore at "
        f"F, conserve at L. It is optimal, and the certificate proves it at k = {first}: "
        f"v_*(F) lies in [{pi[first]['lower'][0]:g}, {pi[first]['upper'][0]:g}]. "
        "The repeated policy alone proves nothing.",
        f"3(b) Value iteration: v₁ = {vi[1]['v']}, v₂ = {vi[2]['v']}. The limit is v_* = [3.5, 2.5, 0].",
    ]


def convergence_answers(m: dict) -> list[str]:
    """Answer 3(c)."""
    sweeps = m["initial_values"]["value_iteration_sweeps"]
    corridor = next(rows for name, rows in m["in_place"]["sweeps_to_1e-6"].items() if name.startswith("corridor"))
    seconds = {name: column[-1] for name, column in m["enumeration"]["seconds"].items()}
    orders = next(rows for name, rows in m["order"]["backups_per_state_to_1e-6"].items() if name.startswith("corridor"))
    growth = m["growth"]["|S|"]
    return [
        f"3(c) order matters: in a corridor {reached(corridor['in place, last to first'])} sweeps in place, along the "
        f"flow of value, do what takes {reached(corridor['out of place'])} out of place.",
        "Initial values: value iteration needs, to a certified 1e-6, "
        + "; ".join(f"{n} sweeps from {name}" for name, n in sweeps.items())
        + ". Where no episode ends, a constant error costs nothing: the certificate removes it.",
        "Order, in backups per state to 1e-6: " + ", ".join(f"{name} {reached(n)}" for name, n in orders.items()) + ".",
        "Growth with |S|, to a certified 1e-6: the iterations hardly change ("
        + "; ".join(f"{name} {min(row['iterations'])} to {max(row['iterations'])}" for name, row in growth.items())
        + "), the cost of each one does.",
        f"Enumeration of all {m['enumeration']['policies'][-1]} policies of {m['enumeration']['states'][-1]} states: "
        f"{1e3 * seconds['all |A|^|S| policies']:.3g} ms, value iteration {1e3 * seconds['value iteration']:.3g} ms, "
        "with the same answer.",
    ]


def reached(sweeps: int | None) -> str:
    """Return a number of sweeps as text, or that there were too few of them."""
    return "more than were run" if sweeps is None else str(sweeps)


CHAPTERS = (
    Chapter(
        "1(a)-(c)",
        "Why is score matching appropriate to train a generative model? Simplify equation 2. Suggest an algorithm.",
        score_matching.main,
        {"steps": 2000, "batch_size": 256, "chains": 1000, "langevin_steps": 300},
        score_matching_answers,
        {
            "score_field.png": "The exact score of the noisy data and two learned ones; below, their errors.",
            "density.png": "The density that the learned energy defines, beside the exact one.",
            "samples.png": "Where Langevin chains end.",
        },
    ),
    Chapter(
        "1(c)",
        "The algorithm on real data: 8 x 8 handwritten digits.",
        digits.main,
        {"steps": 2000, "width": 256, "draws": 1},
        digits_answers,
        {"samples.png": "Generated digits beside held-out ones.", "annealing.png": "From noise to digits."},
    ),
    Chapter(
        "1(d)",
        "Does maximum likelihood approximate low-density regions poorly? Is the same expected of equation 2?",
        low_density.main,
        {"seeds": 5, "steps": 500, "sigmas": (0.25, 0.5, 1.0), "num_points": 4000},
        lambda m: [f"1(d) {m['summary']}", *m["verdict"]],
        {
            "error_by_density.png": "Score error by decile of the data's density.",
            "densities.png": "Learned densities of one seed.",
        },
    ),
    Chapter(
        "2(a)-(c)",
        "Relate E_π[R], v_π, q_π, the Bellman expectation equation and the Bellman optimality equation.",
        bellman_equations.main,
        {"policies": 200},
        bellman_answers,
        {"policies.png": "Values of random policies: one policy is best in every state."},
    ),
    Chapter(
        "3(a), (b)",
        "Run two iterations of policy iteration and of value iteration on Space Exploration. Do they converge?",
        space_exploration.main,
        {},
        space_answers,
        {"certificates.png": "Bounds on v_* after each iteration."},
    ),
    Chapter(
        "3(c)",
        "What are some factors that might affect the convergence time of these algorithms?",
        convergence.main,
        {
            "states": 40,
            "sweeps": 300,
            "starts": 50,
            "largest_states": 400,
            "largest_actions": 8,
            "largest_enumerated": 8,
        },
        convergence_answers,
        {
            "initial_values.png": "Initial values and policies.",
            "in_place.png": "Out-of-place against in-place sweeps.",
            "order.png": "Synchronous against asynchronous orders.",
            "growth.png": "Growth with |S| and |A|.",
            "enumeration.png": "All |A|^|S| policies against dynamic programming.",
        },
    ),
)

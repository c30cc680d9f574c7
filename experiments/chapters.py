"""The chapters of the tour: the exercise's questions, the experiment that answers each, and its small setting."""

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments import (
    bellman_equations,
    convergence,
    images,
    langevin_bias,
    low_density,
    mixing,
    objectives,
    score_matching,
    space_exploration,
)
from experiments.answers_dp import bellman_answers, convergence_answers, space_answers
from experiments.answers_dsm import (
    images_answers,
    langevin_bias_answers,
    mixing_answers,
    objectives_answers,
    score_matching_answers,
)


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
        "1(a)",
        "Does following the score sample the density? Two far modes.",
        mixing.main,
        {"chains": 2000, "compared": 500, "permutations": 199},
        mixing_answers,
        {"samples.png": "Where chains end.", "share.png": "Share of chains on the heavy mode as they run."},
    ),
    Chapter(
        "1(a)",
        "Does following the score sample the density? The size of the step.",
        langevin_bias.main,
        {"chains": 4000, "draws": 20, "steps": (0.08, 0.16, 0.32), "grid": 601},
        langevin_bias_answers,
        {"bias.png": "The bias of chains against their step, measured and predicted."},
    ),
    Chapter(
        "1(b), (c)",
        "How does equation 2 compare with the other ways to learn a score?",
        objectives.main,
        {
            "seeds": 1,
            "targets": ("eight Gaussians",),
            "objectives": ("denoising, eq. (2)", "implicit", "sliced", "maximum likelihood"),
            "steps": 1000,
            "dims": (2, 16),
            "sigmas": (0.01, 0.1, 1.0),
        },
        objectives_answers,
        {
            "errors.png": "Errors of the learned scores and densities.",
            "gradient_noise.png": "The noise of the gradient against the scale of the noise and the dimension.",
        },
    ),
    Chapter(
        "1(c)",
        "The algorithm on real data: 8 x 8 handwritten digits.",
        images.main,
        {"steps": 1500, "width": 256, "draws": 1},
        images_answers,
        {"samples.png": "Generated digits beside held-out ones.", "trajectory.png": "From noise to digits."},
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

"""What the experiments with dsm say, in sentences, from their metrics: the first is for the terminal."""


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


def images_answers(m: dict) -> list[str]:
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
        + "This is a short training; the full one (experiments.images without options, some minutes) aims at a "
        f"distance below {m['goal']['frechet']}, a coverage above {m['goal']['coverage']} and a ratio between "
        f"{m['goal']['nearest_neighbour_ratio'][0]} and {m['goal']['nearest_neighbour_ratio'][1]}.",
    ]


def objectives_answers(m: dict) -> list[str]:
    """Say which objective came nearest, and what its gradient costs."""
    first, *rest = m["conclusions"]
    return [f"1(b), (c) one energy by each objective: {first}", *rest]


def mixing_answers(m: dict) -> list[str]:
    """Say which chains weigh two far modes rightly."""
    share = {name: row["share_on_heavy_mode"] for name, row in m["samplers"].items()}
    error = m["samplers"]["Langevin"]["standard_error"]
    alike = [name for name in ("MALA", "BAOAB", "HMC (blackjax)") if abs(share[name] - share["Langevin"]) < 4 * error]
    return [
        f"1(a) Following the score finds the modes, not their weights: of two far modes with weights {m['weight']} and "
        f"{1 - m['weight']:.1f}, plain Langevin chains put {share['Langevin']:.3f} ± {error:.3f} on the heavy one; the "
        f"score draws {m['share_attracted']:.3f} of the starts there. Annealed over noise levels they put "
        f"{share['annealed Langevin']:.2f}.",
        "Share on the heavy mode after as many evaluations of the score: "
        + ", ".join(f"{name} {value:.3f}" for name, value in share.items() if name != "exact samples")
        + f". Of as many exact samples {share['exact samples']:.3f} are there.",
        *([f"Not to be told from plain Langevin chains: {', '.join(alike)}."] if alike else []),
    ]


def langevin_bias_answers(m: dict) -> list[str]:
    """Say how the bias of ULA grows with its step."""
    gaussian = m["Gaussian"]
    largest, exact = gaussian["measured"]["ULA"][-1], gaussian["predicted"][-1]["kernel"]
    fit = gaussian["slopes"]["total_variation"]["ULA"]
    order = "" if fit is None else f", and the total variation grows as h^({fit[0]:.2f} ± {fit[1]:.2f})"
    return [
        f"1(a) x + h s(x) + √(2h) ε samples p only as h goes to 0: on N(0, 1), at the largest step, E[x²] is off by "
        f"{largest['second_moment']:.3f} ± {largest['second_moment_se']:.3f} (predicted {exact['second_moment']:.3f})"
        f"{order}.",
        "The prediction is exact: the stationary density of the chain's kernel on a grid. MALA, which accepts or "
        "refuses each step, has no bias at any h; BAOAB is exact for E[x²] of a Gaussian.",
    ]

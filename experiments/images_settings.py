"""Settings of `experiments.images` that depend on data set, network and sampler, and the refusal of what cannot be."""

import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import tyro

from experiments.images_model import Kind, Sampler
from experiments.record import require

T = TypeVar("T")
Chosen = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: chosen)")]
"""An argument that `complete` chooses where it is None; --help says so."""


class Network(NamedTuple):
    """What differs between networks, where the command line does not say."""

    width: int
    num_blocks: int
    batch_size: int
    learning_rate: float
    ema_decay: float


class Preset(NamedTuple):
    """What differs between data sets, where the command line does not say."""

    network: Kind
    steps: int
    noise_mean: float
    noise_std: float
    sampler: Sampler
    checkpoints: int
    num_samples: int
    draws: int


U_NET = Network(width=32, num_blocks=1, batch_size=64, learning_rate=2e-3, ema_decay=0.9995)
PERCEPTRON = Network(width=512, num_blocks=3, batch_size=128, learning_rate=1e-3, ema_decay=0.999)
NETWORKS: dict[Kind, Network] = {"mlp": PERCEPTRON, "unet": U_NET, "energy-unet": U_NET}
# A perceptron is enough for 64 pixels. Of 784 it learns 3000 images by heart before it draws others: a U-Net, whose
# layers are the same everywhere, does not. What is seen in a large image is decided at larger scales of noise.
# Noise along the way (churn) corrects some of what a network of an hour's training gets wrong.
DIGITS = Preset("mlp", 3000, -0.5, 1.2, "heun", checkpoints=20, num_samples=797, draws=4)
MNIST = Preset("unet", 26_000, 0.2, 1.4, "churn", checkpoints=50, num_samples=2000, draws=2)
FASHION = MNIST._replace(steps=33_000)
# Levels and churn.
SAMPLERS: dict[Sampler, tuple[int, float]] = {"heun": (32, 0.0), "churn": (40, 40.0), "flow": (32, 0.0)}
SAMPLERS |= dict.fromkeys(("annealed", "predictor-corrector", "reverse-sde"), (200, 0.0))
PRESETS = {"digits": DIGITS, "mnist": MNIST, "fashion": FASHION, "idx": FASHION}


def complete(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the command with every None replaced that stands for a default."""
    preset = PRESETS[arguments["data_set"]]._asdict()
    network = NETWORKS[arguments["network"] or preset["network"]]._asdict()
    levels, churn = SAMPLERS[arguments["sampler"] or preset["sampler"]]
    out = Path("results/images") / arguments["data_set"]
    defaults = preset | network | {"levels": levels, "churn": churn, "out": out}
    return arguments | {name: value for name, value in defaults.items() if arguments[name] is None}


def check(arguments: dict[str, Any]) -> None:
    """Refuse what cannot be, by name."""
    least = {"steps": 1, "batch_size": 1, "width": 1, "num_blocks": 1, "levels": 2, "checkpoints": 1}
    for name, low in (least | {"num_samples": 64, "draws": 1, "split_seed": 0}).items():
        require(arguments[name] >= low, f"{name} must be at least {low}, got {arguments[name]}")
    for name in ("learning_rate", "clip", "noise_std", "sigma_min"):
        require(0 < arguments[name] < math.inf, f"{name} must be positive and finite, got {arguments[name]}")
    low, high = arguments["sigma_min"], arguments["sigma_max"]
    require(low < high < math.inf, f"sigma_max must be finite and above sigma_min, got {high}")
    require(0 <= arguments["ema_decay"] < 1, f"ema_decay must be in [0, 1), got {arguments['ema_decay']}")
    require(math.isfinite(arguments["noise_mean"]), f"noise_mean must be finite, got {arguments['noise_mean']}")
    churn, churns = arguments["churn"], arguments["sampler"] == "churn"
    require(0 <= churn < math.inf, f"churn must be finite and not negative, got {churn}")
    require((churn > 0) == churns, f"churn above 0 and --sampler churn go together, got {churn}")
    require(arguments["classes"] or arguments["guidance"] is None, "guidance needs --classes")
    likelihood = arguments["likelihood"]
    require(likelihood == 0 or likelihood >= 2, f"likelihood must be 0 or at least 2, got {likelihood}")
    require(
        arguments["dequantise"] or likelihood == 0, "likelihood needs --dequantise: pixels of whole numbers have none"
    )
    unet = arguments["network"] != "mlp"
    require(not unet or arguments["width"] % 2 == 0, f"width must be a multiple of 2, got {arguments['width']}")
    many = arguments["processes"] != 1 or arguments["process"] != 0
    require(arguments["coordinator"] is not None or not many, "several processes need a --coordinator")

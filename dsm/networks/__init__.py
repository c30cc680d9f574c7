"""Networks for energies and scores, for one example; parameters take the dtype of the x of `init`.

Those with a `num_classes` take a label as well, and those with a `dtype` compute their layers in it, bfloat16 for
instance: parameters, and all that is done to x and sigma outside the layers, have at least the precision of float32.
"""

from .layers import silu
from .perceptrons import ConditionalEnergyMLP, EnergyMLP, ScoreMLP
from .unet import EnergyUNet, ScoreUNet

__all__ = ["ConditionalEnergyMLP", "EnergyMLP", "EnergyUNet", "ScoreMLP", "ScoreUNet", "silu"]

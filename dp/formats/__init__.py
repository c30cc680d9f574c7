"""Models from and to the files and arrays of others: Storm, PRISM, Gymnasium, quantecon, pymdptoolbox, and npz."""

from dp.formats.drn import read_drn as read_drn
from dp.formats.drn_writer import write_drn as write_drn
from dp.formats.gymnasium import from_gymnasium as from_gymnasium
from dp.formats.gymnasium import initial_distribution as initial_distribution
from dp.formats.mdptoolbox import from_mdptoolbox as from_mdptoolbox
from dp.formats.mdptoolbox import to_mdptoolbox as to_mdptoolbox
from dp.formats.model import Model as Model
from dp.formats.npz import read_npz as read_npz
from dp.formats.npz import write_npz as write_npz
from dp.formats.prism import read_prism as read_prism
from dp.formats.prism_writer import write_prism as write_prism
from dp.formats.quantecon import from_quantecon as from_quantecon
from dp.formats.quantecon import to_quantecon as to_quantecon

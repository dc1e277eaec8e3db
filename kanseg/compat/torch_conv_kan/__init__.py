"""torch-conv-kan (github.com/IvanDrokin/torch-conv-kan, MIT) on kanseg: its layer and net names,
its functions, its checkpoints.

from kanseg.compat import torch_conv_kan as tck

layer = tck.KANConv2DLayer(16, 32, 3, padding=1)  # calls as there
layer.load_state_dict(tck.convert_state_dict(torch.load("theirs.pth"), layer))

Code moves over by replacing `from kan_convs import ...`, `from kans import ...` and `from models
import ...` by imports from here; a checkpoint of a network, or of a net of your own built of these
layers, is converted in one call, `net.load_state_dict(tck.convert_state_dict(theirs, net))`.
"""

from kanseg.compat.torch_conv_kan import convolutions, flat, networks
from kanseg.compat.torch_conv_kan.convert import convert_state_dict
from kanseg.compat.torch_conv_kan.convolutions import *  # noqa: F403 - its __all__
from kanseg.compat.torch_conv_kan.flat import *  # noqa: F403 - its __all__
from kanseg.compat.torch_conv_kan.layouts import convert_layer
from kanseg.compat.torch_conv_kan.networks import *  # noqa: F403 - its __all__
from kanseg.compat.torch_conv_kan.parts import L1
from kanseg.compat.torch_conv_kan.rounding import use_original_rounding
from kanseg.layers.regularization import NoiseInjection

__all__ = [
    "L1",
    "NoiseInjection",
    "convert_layer",
    "convert_state_dict",
    "use_original_rounding",
    *convolutions.__all__,
    *flat.__all__,
    *networks.__all__,
]

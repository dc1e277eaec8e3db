"""The layers and networks of torch-conv-kan (github.com/IvanDrokin/torch-conv-kan, MIT) under their
original names and signatures, and a converter for its checkpoints.

    from kanseg.compat import torch_conv_kan as tck

    layer = tck.KANConv2DLayer(16, 32, 3, padding=1)  # the original call
    layer.load_state_dict(tck.convert_state_dict(torch.load("original.pth"), layer))

To move code over, import from this package instead of `kan_convs`, `kans` and `models`.
`convert_state_dict` converts the checkpoint of a layer, of a network, or of your own network built
from these layers.
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

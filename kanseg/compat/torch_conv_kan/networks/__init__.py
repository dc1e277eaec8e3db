"""The networks of torch-conv-kan under their names and signatures, one file per architecture.

Import from `kanseg.compat.torch_conv_kan`.
"""

from kanseg.compat.torch_conv_kan.networks import (
    densekanets,
    reskanets,
    simple_nets,
    u2kanets,
    ukanets,
    vggkans,
)
from kanseg.compat.torch_conv_kan.networks.densekanets import *  # noqa: F403 - its __all__
from kanseg.compat.torch_conv_kan.networks.reskanets import *  # noqa: F403 - its __all__
from kanseg.compat.torch_conv_kan.networks.simple_nets import *  # noqa: F403 - its __all__
from kanseg.compat.torch_conv_kan.networks.u2kanets import *  # noqa: F403 - its __all__
from kanseg.compat.torch_conv_kan.networks.ukanets import *  # noqa: F403 - its __all__
from kanseg.compat.torch_conv_kan.networks.vggkans import *  # noqa: F403 - its __all__

__all__ = [
    *densekanets.__all__,
    *reskanets.__all__,
    *simple_nets.__all__,
    *u2kanets.__all__,
    *ukanets.__all__,
    *vggkans.__all__,
]

"""The health of the layers of a trained network on images."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from kanseg.layers.inspection.health import LayerHealth, measure_health
from kanseg.models.operations import preserve_state

__all__ = ["LayerHealth", "network_health"]


def network_health(network: nn.Module, batches: Iterable[Tensor]) -> list[LayerHealth]:
    """Inputs off the grid, flat domain maps, dead and nearly linear functions of every layer, with
    advice.

    The network runs in evaluation mode, and is afterwards as it was. A layer that no image reaches
    is left out.

    Args:
        network: any module with KAN layers.
        batches: images (B, C, H, W) as the network gets them. 4096 values per channel and batch
            are used.
    """
    with preserve_state(network, training=False):
        return measure_health(network, batches)

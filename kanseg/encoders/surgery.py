"""Encoders changed after they were built, by the structure of their stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from kanseg.layers.surgery import dilate

POOLS = (nn.MaxPool2d, nn.AvgPool2d)


@torch.no_grad()
def layers_that_read(stages: Iterable[nn.Module], in_channels: int) -> list[nn.Module]:
    """The layers that are handed the image itself, of stages that run one after the other.

    There may be several, such as the two paths of a residual block; the first stages may be
    Identities.
    """
    found: list[nn.Module] = []
    for module in stages:
        layers = list(_layers(module))
        like = next((p for p in module.parameters()), torch.empty(0))
        image = torch.zeros(1, in_channels, 32, 32, dtype=like.dtype, device=like.device)

        def note(layer: nn.Module, arguments: tuple, image: Tensor = image) -> None:
            if arguments and arguments[0] is image:
                found.append(layer)

        hooks = [layer.register_forward_pre_hook(note) for layer in layers]
        training = {m: m.training for m in module.modules()}
        try:
            after = module.eval()(image)
        finally:
            for hook in hooks:
                hook.remove()
            for m, mode in training.items():
                m.training = mode
        if after is not image:
            break
    return found


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Convolutions, and layers that know by themselves how to read other channels."""
    if isinstance(module, nn.Conv2d) or hasattr(module, "set_in_channels"):
        yield module
        return
    for child in module.children():
        yield from _layers(child)


def dilate_stage(stage: nn.Module, *, rate: int) -> None:
    """Take the halving out of a stage, whose input has pixels `rate` times as dense as it was made
    for.

    What halves is a pool directly in the stage's Sequential, or else its strided convolutions;
    pools further inside belong to blocks that bring the size back themselves. Up to the halving
    taps are `rate` apart, behind it 2 * rate.
    """
    pools = (
        [i for i, child in enumerate(stage) if isinstance(child, POOLS)]
        if isinstance(stage, nn.Sequential)
        else []
    )
    if len(pools) == 1:
        for i, child in enumerate(stage):
            for conv in _convs(child):
                dilate(conv, rate if i < pools[0] else 2 * rate)
        stage[pools[0]] = nn.Identity()
        return
    halving = [conv for conv in _convs(stage) if max(conv.stride) > 1]
    if pools or not halving:
        raise ValueError(
            "a stage can be dilated that has one pool, or no pool and strided convolutions, got"
            f" {stage}"
        )
    behind = False
    for conv in _convs(stage):
        strided = max(conv.stride) > 1
        behind = behind or strided
        dilate(conv, rate if strided or not behind else 2 * rate)
        conv.stride = (1, 1)


def _convs(module: nn.Module) -> list[nn.Conv2d]:
    """In the order in which they were put into the module: that in which blocks use them."""
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]

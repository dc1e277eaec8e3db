"""Changes to existing encoders: finding the first layers, dilation instead of halving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from kanseg.layers.surgery import dilate

POOLS = (nn.MaxPool2d, nn.AvgPool2d)


@torch.no_grad()
def layers_that_read(stages: Iterable[nn.Module], in_channels: int) -> list[nn.Module]:
    """Find the layers that read the image, for stages that run one after the other.

    There may be several, such as the two paths of a residual block; the first stages may be
    Identities.
    """
    found: list[nn.Module] = []
    for module in stages:
        layers = list(_layers(module))
        like = next(module.parameters(), torch.empty(0))
        image = torch.zeros(1, in_channels, 32, 32, dtype=like.dtype, device=like.device)

        def before_forward(layer: nn.Module, arguments: tuple, image: Tensor = image) -> None:
            if arguments and arguments[0] is image:
                found.append(layer)

        hooks = [layer.register_forward_pre_hook(before_forward) for layer in layers]
        training = {m: m.training for m in module.modules()}
        try:
            output = module.eval()(image)
        finally:
            for hook in hooks:
                hook.remove()
            for m, mode in training.items():
                m.training = mode
        if output is not image:
            break
    return found


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Convolutions, and layers with a method `set_in_channels`."""
    if isinstance(module, nn.Conv2d) or hasattr(module, "set_in_channels"):
        yield module
        return
    for child in module.children():
        yield from _layers(child)


def dilate_stage(stage: nn.Module, *, rate: int) -> None:
    """Remove the halving of a stage whose input is `rate` times as large as it was built for.

    A stage is halved by one pool directly in its Sequential, or else by strided convolutions; pools
    further inside belong to blocks that restore the size. Convolutions get dilation `rate` up to
    the halving, and 2 * rate after it.
    """
    pools = []
    if isinstance(stage, nn.Sequential):
        pools = [i for i, child in enumerate(stage) if isinstance(child, POOLS)]
    if len(pools) == 1:
        for i, child in enumerate(stage):
            if i == pools[0]:
                stage[i] = nn.Identity()
                rate = 2 * rate
            for conv in _convs(child):
                dilate(conv, rate)
        return
    strided = [conv for conv in _convs(stage) if max(conv.stride) > 1]
    if pools or not strided:
        raise ValueError(
            "only stages with one pool, or with strided convolutions and no pool, can be dilated,"
            f" got {stage}"
        )
    # Strided convolutions of one stage (both paths of a residual block) read the same input.
    is_after_stride = False
    for conv in _convs(stage):
        if max(conv.stride) > 1:
            is_after_stride = True
            dilate(conv, rate)
        elif is_after_stride:
            dilate(conv, 2 * rate)
        else:
            dilate(conv, rate)
        conv.stride = (1, 1)


def _convs(module: nn.Module) -> list[nn.Conv2d]:
    """Convolutions in the order of registration, which is the order in which blocks use them."""
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]

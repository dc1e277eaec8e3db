"""Convolutions changed after they were built: for images of other channels, or dilated instead of
strided.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kanseg.layers.fused.plain import CONVOLUTIONS, is_plain_tensor

# The linear parts of KANConv and KANLinear.
_MAPS = ("squeeze", "basis_conv", "basis_linear", "base_conv", "base_linear", "expand")


def source_channels(old: int, new: int) -> Tensor:
    """Which of the old channels each of the new ones takes its state from: i mod old, (new,)."""
    return torch.arange(new) % old


@torch.no_grad()
def for_channels(weight: nn.Parameter, old: int, new: int) -> nn.Parameter:
    """Weights (O, old * K, *kernel) for `new` channels, K each: (O, new * K, *kernel).

    One channel gets the sum over the old ones: a gray image then gives what it gave when it was
    repeated for each of them. More get the old ones in turn, times old / new, so that the output
    keeps its size. As timm and segmentation_models.pytorch do.
    """
    each = weight.detach().unflatten(1, (old, -1))
    taken = (
        each.sum(1, keepdim=True)
        if new == 1
        else each[:, source_channels(old, new).to(each.device)] * (old / new)
    )
    return nn.Parameter(taken.flatten(1, 2), requires_grad=weight.requires_grad)


def check_changeable(layer: nn.Module) -> None:
    """ValueError where the weights are made from others (pruned, parametrized), or a part of a KAN
    layer is no plain convolution or matrix any more (LoRA, quantization, FSDP).
    """
    _check_not_made(layer)
    for name in _MAPS:
        part = getattr(layer, name, None)
        if part is not None and type(part) not in (*CONVOLUTIONS, nn.Linear, nn.Identity):
            raise ValueError(
                f"{name} was replaced by a {type(part).__name__}: put the plain layer back first,"
                " then change the layer"
            )
        weight = getattr(part, "weight", None)
        if weight is not None and (weight.is_meta or not is_plain_tensor(weight)):
            raise ValueError(
                f"the weights of {name} are not here (offloaded or sharded): gather them first,"
                " then change the layer"
            )


def check_drawable(layer: nn.Module) -> None:
    """ValueError where new weights of a KAN layer would go nowhere: made from others (pruned,
    parametrized), inside a wrapper, or spread over processes.
    """
    _check_not_made(layer)
    check_has_weights(layer)
    if not all(is_plain_tensor(parameter) for parameter in layer.parameters()):
        raise ValueError(
            "the weights are sharded or quantized: draw them before that, or load them from a"
            " state dict"
        )


def check_has_weights(layer: nn.Module) -> None:
    """ValueError where a map of a KAN layer has no weight of its own (LoRA, quantization)."""
    for name in _MAPS:
        part = getattr(layer, name, None)
        if name in ("squeeze", "expand") or part is None:
            continue
        if not isinstance(getattr(part, "weight", None), Tensor):
            raise ValueError(
                f"{name} was replaced by a {type(part).__name__}, which has no weight of its own:"
                " put the plain layer back first"
            )


def _check_not_made(layer: nn.Module) -> None:
    for module in layer.modules():
        made = any(name.endswith(("_orig", "_g")) for name in module._parameters)
        if made or parametrize.is_parametrized(module):
            raise ValueError(
                "the weights are parametrized or pruned: remove that first, then change the layer"
            )


def set_conv_channels(conv: nn.Module, old: int, new: int) -> None:
    """Give a convolution over old * K channels the weights for new * K."""
    if conv.groups != 1:
        raise ValueError(
            "only a layer of one group can read another number of channels, got one of"
            f" {conv.groups} groups"
        )
    check_changeable(conv)
    conv.in_channels = conv.in_channels // old * new
    conv.weight = for_channels(conv.weight, old, new)


def dilate(conv: nn.Module, rate: int) -> None:
    """Move the taps of a convolution `rate` times as far apart; its output keeps its size.

    Raises:
        ValueError: a kernel of even size, or a padding other than half of it: then no dilation
            keeps the size.
    """
    if rate == 1:
        return
    reach = tuple(d * rate * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    if conv.padding != "same":
        padding = (
            (0,) * len(reach) if conv.padding == "valid" else tuple(p * rate for p in conv.padding)
        )
        if any(2 * p != r for p, r in zip(padding, reach, strict=True)):
            raise ValueError(
                f"{conv} cannot be dilated: it needs a kernel of odd size and a padding of half"
                " of it"
            )
        conv.padding = padding
    conv.dilation = tuple(d * rate for d in conv.dilation)
    conv._reversed_padding_repeated_twice = [
        p for r in reversed(reach) for p in (r // 2, r - r // 2)
    ]  # what other padding modes pad by

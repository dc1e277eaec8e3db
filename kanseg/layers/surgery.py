"""Changes to existing convolutions: the number of input channels, dilation instead of stride."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kanseg.layers.fused.plain import CONVOLUTIONS, is_plain_tensor

# Names of the convolutions and linear layers inside KANConv and KANLinear.
_LINEAR_PARTS = ("squeeze", "basis_conv", "basis_linear", "base_conv", "base_linear", "expand")


def source_channels(old: int, new: int) -> Tensor:
    """Index of the old channel that each new channel is copied from: i mod old, (new,)."""
    return torch.arange(new) % old


@torch.no_grad()
def adapt_weight(weight: nn.Parameter, old: int, new: int) -> nn.Parameter:
    """Adapt weights for `old` input channels to `new` ones: (O, old * K, *kernel) -> (O, new * K,
    *kernel).

    A single channel gets the sum of the old weights, so that a gray image has the same output as
    when it was repeated. More channels repeat the old weights, times old / new, which keeps the
    scale of the output. timm and segmentation_models.pytorch do the same.
    """
    old_weights = weight.detach().unflatten(1, (old, -1))
    if new == 1:
        new_weights = old_weights.sum(1, keepdim=True)
    else:
        source = source_channels(old, new).to(old_weights.device)
        new_weights = old_weights[:, source] * (old / new)
    return nn.Parameter(new_weights.flatten(1, 2), requires_grad=weight.requires_grad)


def check_changeable(layer: nn.Module) -> None:
    """Raise ValueError if the weights of a layer cannot be replaced.

    This is so for pruned and parametrized weights, and for parts that were replaced by other
    modules (LoRA, quantization, FSDP).
    """
    _check_not_parametrized(layer)
    for name in _LINEAR_PARTS:
        part = getattr(layer, name, None)
        if part is not None and type(part) not in (*CONVOLUTIONS, nn.Linear, nn.Identity):
            raise ValueError(
                f"{name} was replaced by a {type(part).__name__}: put the plain layer back first,"
                " then change the layer"
            )
        weight = getattr(part, "weight", None)
        if weight is None:
            continue
        # Without the hook of accelerate, a network on the meta device is one without memory.
        is_offloaded = weight.is_meta and hasattr(part, "_hf_hook")
        if is_offloaded or not is_plain_tensor(weight):
            raise ValueError(
                f"the weights of {name} are offloaded or sharded: gather them first, then change"
                " the layer"
            )


def check_can_reset(layer: nn.Module) -> None:
    """Raise ValueError if the weights of a KAN layer cannot be reset: pruned, parametrized,
    wrapped, sharded or quantized weights.
    """
    _check_not_parametrized(layer)
    check_has_weights(layer)
    if not all(is_plain_tensor(parameter) for parameter in layer.parameters()):
        raise ValueError(
            "the weights are sharded or quantized: reset them before sharding or quantization, or"
            " load them from a state dict"
        )


def check_has_weights(layer: nn.Module) -> None:
    """Raise ValueError if a part of a KAN layer has no weight of its own (LoRA, quantization)."""
    for name in _LINEAR_PARTS:
        part = getattr(layer, name, None)
        if name in ("squeeze", "expand") or part is None:
            continue
        if not isinstance(getattr(part, "weight", None), Tensor):
            raise ValueError(
                f"{name} was replaced by a {type(part).__name__}, which has no weight of its own:"
                " put the plain layer back first"
            )


def _check_not_parametrized(layer: nn.Module) -> None:
    for module in layer.modules():
        # torch's pruning and its old weight norm store the original weights under these names.
        has_originals = any(name.endswith(("_orig", "_g")) for name in module._parameters)
        if has_originals or parametrize.is_parametrized(module):
            raise ValueError(
                "the weights are parametrized or pruned: remove that first, then change the layer"
            )


def set_conv_channels(conv: nn.Module, old: int, new: int) -> None:
    """Change a convolution over old * K input channels to new * K, with adapted weights."""
    if conv.groups != 1:
        raise ValueError(
            "the number of input channels can be changed with groups=1 only, got"
            f" groups={conv.groups}"
        )
    check_changeable(conv)
    conv.in_channels = conv.in_channels // old * new
    conv.weight = adapt_weight(conv.weight, old, new)


def dilate(conv: nn.Module, rate: int) -> None:
    """Multiply the dilation of a convolution by `rate`; its output keeps its size.

    Raises:
        ValueError: an even kernel size, or a padding other than half of the kernel: then the size
            would change.
    """
    if rate == 1:
        return
    dilation = tuple(d * rate for d in conv.dilation)
    # Number of pixels that the padding of both sides must add on each axis.
    total_padding = [d * (k - 1) for d, k in zip(dilation, conv.kernel_size, strict=True)]
    if conv.padding != "same":
        padding = (0,) * len(dilation)
        if conv.padding != "valid":
            padding = tuple(p * rate for p in conv.padding)
        if [2 * p for p in padding] != total_padding:
            raise ValueError(
                f"{conv} cannot be dilated: it needs an odd kernel size and a padding of half the"
                " kernel"
            )
        conv.padding = padding
    conv.dilation = dilation
    # torch's list for padding modes other than zeros: (before, after) of each axis, last axis first
    conv._reversed_padding_repeated_twice = []
    for total in reversed(total_padding):
        conv._reversed_padding_repeated_twice += [total // 2, total - total // 2]

"""What each channel adds to the logits of each pixel: exact, not an approximation.

A logit of a segmentation network is a sum over the input channels of its last convolution:

    logit_n = bias_n + sum_c contribution_nc,    contribution_nc = conv_n(phi_nc(x_c))

where phi is the identity for a plain convolution, and the functions of the edges for a KAN
convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.layers import KANConv2d
from kanseg.models.operations import preserve_state
from kanseg.utils.errors import InputError

TOLERANCE = 1e-4  # of the sum of the contributions, relative to the largest logit above 1
# What may follow the convolution: the identity, or an interpolation, which is linear.
LINEAR = (nn.Identity, nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)


class Attribution(NamedTuple):
    """Contributions of channels to logits: `contributions.sum(2) + bias[:, None, None]` are the
    logits.

    Args:
        contributions: (B, N, C, H, W), of each input channel of the last convolution to the logit
            of each class.
        bias: (N,), the same for all pixels.
        logits: (B, N, H, W).
    """

    contributions: Tensor
    bias: Tensor
    logits: Tensor


@torch.no_grad()
def attribute(
    network: nn.Module, images: Tensor, *, classes: Sequence[int] | None = None
) -> Attribution:
    """Split the logits of a segmentation network into the contributions of the input channels of
    its last convolution.

    Args:
        network: a `SegmentationModel` whose head is a convolution, plain or KAN, perhaps followed
            by an upsampling.
        images: (B, C, H, W), as the network gets them.
        classes: indices of logits; by default all. The contributions take N times C times the
            memory of a map, so large images are best explained one class at a time.

    Raises:
        InputError: the logits are not such a sum; the message says why.

    Example:
        >>> found = attribute(network, images, classes=[1])
        >>> strongest = found.contributions.abs().mean(dim=(0, 1, 3, 4)).argmax()
    """
    conv, after = _last_convolution(network)
    inputs: list[Tensor] = []
    hook = conv.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        with preserve_state(network, training=False):
            logits = network(images)
            if isinstance(logits, tuple):  # a classification head beside the masks
                logits = logits[0]
            if classes is None:
                classes = range(logits.shape[1])
            contributions, bias = _by_channel(conv, inputs[0], torch.tensor(list(classes)))
            for module in after:
                maps = module(contributions.flatten(0, 2).unsqueeze(1))
                contributions = maps.squeeze(1).unflatten(0, contributions.shape[:3])
    finally:
        hook.remove()
    logits = logits[:, list(classes)]
    error = (contributions.sum(dim=2) + bias[:, None, None] - logits).abs().max()
    if not error <= TOLERANCE * logits.abs().max().clamp_min(1):
        raise InputError(
            "the contributions of the channels do not add up to the logits (they differ by"
            f" {float(error):.2g}): the head does more than its convolution; use Grad-CAM"
        )
    return Attribution(contributions, bias, logits)


def _last_convolution(network: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """The last convolution of the head, and the linear modules after it."""
    head = getattr(network, "segmentation_head", None)
    if head is None:
        raise InputError(
            f"{type(network).__name__} has no segmentation head, whose logits could be split into"
            " contributions; use Grad-CAM"
        )
    modules = [head]
    if isinstance(head, nn.Sequential):
        modules = list(head)
    after: list[nn.Module] = []
    while modules and isinstance(modules[-1], LINEAR):
        after.insert(0, modules.pop())
    if not modules or not isinstance(modules[-1], (nn.Conv2d, KANConv2d)):
        raise InputError(
            f"the head {type(head).__name__} does not end with a convolution, so that its logits"
            " are no sum over channels; use Grad-CAM"
        )
    return modules[-1], after


def _by_channel(conv: nn.Module, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions (B, N, C, H, W) of the channels of x to some outputs of a convolution, and the
    bias (N,) of these outputs.
    """
    if isinstance(conv, nn.Conv2d):
        bias = x.new_zeros(len(classes))
        if conv.bias is not None:
            bias = conv.bias[classes]
        return _convolve_apart(conv, x, x.shape[1], classes), bias
    _check_is_sum(conv)
    total = 0
    if conv.basis is not None:
        values = conv.basis(x).flatten(1, 2)
        total = total + _convolve_apart(conv.basis_conv, values, x.shape[1], classes)
    if conv.base_conv is not None:
        base = conv.base_activation(x)
        total = total + _convolve_apart(conv.base_conv, base, x.shape[1], classes)
    if isinstance(conv.norm, nn.Identity):
        return total, x.new_zeros(len(classes))
    # A batch norm in evaluation is a factor and a constant for each output.
    bias = conv.norm(x.new_zeros(1, conv.out_channels, 1, 1)).flatten()
    factor = conv.norm(x.new_ones(1, conv.out_channels, 1, 1)).flatten() - bias
    return total * factor[classes][:, None, None, None], bias[classes]


def _convolve_apart(conv: nn.Conv2d, x: Tensor, channels: int, classes: Tensor) -> Tensor:
    """Convolve each channel of x (B, C * K, H, W), with its K functions, on its own: (B, N, C, H',
    W').
    """
    if conv.groups != 1:
        raise InputError("the head has groups of channels; its logits are not split; use Grad-CAM")
    weight = conv.weight[classes].unflatten(1, (channels, -1)).transpose(0, 1)
    apart = F.conv2d(
        x, weight.flatten(0, 1), None, conv.stride, conv.padding, conv.dilation, groups=channels
    )
    return apart.unflatten(1, (channels, -1)).transpose(1, 2)


def _check_is_sum(conv: KANConv2d) -> None:
    """Raise InputError if the output of a KAN convolution is not a sum over its input channels."""
    if not isinstance(conv.activation, nn.Identity):
        reason = "an activation follows the sum over the channels"
    elif not isinstance(conv.norm, (nn.Identity, nn.BatchNorm2d)):
        reason = f"{type(conv.norm).__name__} follows the sum over the channels"
    elif not isinstance(conv.squeeze, nn.Identity):
        reason = "its bottleneck (inner_channels) mixes the channels before the functions"
    else:
        return
    raise InputError(
        f"the logits of this KAN head are no sum over channels: {reason}; use Grad-CAM"
    )

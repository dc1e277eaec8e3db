"""Classifiers with flat KANs, for small images of one size: the pixels alone, or something plain
or local before the KAN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from kanseg.encoders import scaled
from kanseg.layers.blocks import Conv
from kanseg.layers.parts import activation_module
from kanseg.models.classification import CLASSIFIERS, FlatClassifier, Linear, checked_image_size
from kanseg.models.flat import KAN, activation_where_plain

Size = Sequence[int] | None


@CLASSIFIERS.register("kan")
def kan_classifier(
    in_channels: int,
    classes: int,
    *,
    linear: Linear,
    image_size: Size = None,
    hidden: Sequence[int] = (10,),
    width: float = 1.0,
    activation: str | None = "silu",
) -> FlatClassifier:
    """A flat KAN of the pixels (Liu et al. 2024, arXiv:2404.19756); with basis "none" the
    perceptron of the same widths (see `KAN`).

    `hidden` lists the nodes of the hidden layers, `width` is a factor on all of them (what `match`
    solves).
    """
    height, wide = checked_image_size(image_size, classes)
    nodes = [in_channels * height * wide, *_nodes(hidden, width), classes]
    return FlatClassifier(
        nn.Flatten(),
        KAN(nodes, linear=linear, activation=activation),
        in_channels=in_channels,
        image_size=(height, wide),
    )


@CLASSIFIERS.register("hybrid")
def hybrid(
    in_channels: int,
    classes: int,
    *,
    linear: Linear,
    image_size: Size = None,
    linear_widths: Sequence[int] = (64,),
    hidden: Sequence[int] = (),
    width: float = 1.0,
    activation: str | None = "silu",
) -> FlatClassifier:
    """Plain linear layers of `linear_widths` nodes, an activation after each, then a flat KAN with
    `hidden` nodes; `width` scales both lists.
    """
    height, wide = checked_image_size(image_size, classes)
    nodes = [in_channels * height * wide, *_nodes(linear_widths, width, "linear_widths")]
    front: list[nn.Module] = [nn.Flatten()]
    for a, b in zip(nodes[:-1], nodes[1:], strict=True):
        front += [nn.Linear(a, b), activation_module(activation)]
    head = KAN([nodes[-1], *_nodes(hidden, width), classes], linear=linear, activation=activation)
    return FlatClassifier(
        nn.Sequential(*front), head, in_channels=in_channels, image_size=(height, wide)
    )


@CLASSIFIERS.register("conv_kan")
def conv_kan(
    in_channels: int,
    classes: int,
    *,
    linear: Linear,
    plain: Conv,
    image_size: Size = None,
    hidden: Sequence[int] = (10,),
    width: float = 16,
) -> FlatClassifier:
    """Two stages of a plain 3x3 convolution and a maximum of 2x2 pixels (`width` and twice as many
    channels), then a flat KAN.

    `activation` is that of the convolutions; between layers without functions stands SiLU.
    """
    height, wide = checked_image_size(image_size, classes)
    channels = [in_channels, scaled(width, 1), scaled(width, 2)]
    front: list[nn.Module] = []
    for a, b in zip(channels[:-1], channels[1:], strict=True):
        front += [plain(a, b, 3, padding=1), nn.MaxPool2d(2, ceil_mode=True)]
    entries = channels[-1] * -(-height // 4) * -(-wide // 4)
    head = KAN([entries, *_nodes(hidden, 1.0), classes], linear=linear)
    return FlatClassifier(
        nn.Sequential(*front, nn.Flatten()),
        head,
        in_channels=in_channels,
        image_size=(height, wide),
    )


@CLASSIFIERS.register("local_kan")
def local_kan(
    in_channels: int,
    classes: int,
    *,
    linear: Linear,
    local: Callable[..., nn.Module],
    image_size: Size = None,
    kernel_size: int = 4,
    stride: int | None = None,
    width: float = 4,
    head: str = "linear",
    hidden: Sequence[int] = (),
    activation: str | None = "silu",
) -> FlatClassifier:
    """A locally connected KAN layer of `width` outputs per patch (`KANLocal2d`), then a linear
    head, or with head="kan" a flat KAN.

    `stride` is the kernel size by default: patches side by side. Without functions an activation
    follows the local layer.
    """
    size = checked_image_size(image_size, classes)
    if head not in ("linear", "kan"):
        raise ValueError(f"head must be 'linear' or 'kan', got {head!r}")
    if head == "linear" and len(hidden):
        raise ValueError(f"hidden={list(hidden)} is of the KAN head: give head='kan' too")
    first = local(in_channels, scaled(width, 1), kernel_size, stride, image_size=size)
    entries = first.out_channels * first.output_size[0] * first.output_size[1]
    top = (
        nn.Linear(entries, classes)
        if head == "linear"
        else KAN([entries, *_nodes(hidden, 1.0), classes], linear=linear, activation=activation)
    )
    front = nn.Sequential(first, activation_where_plain(first.functions, activation), nn.Flatten())
    return FlatClassifier(front, top, in_channels=in_channels, image_size=size)


def _nodes(widths: Sequence[int], factor: float, name: str = "hidden") -> list[int]:
    """Numbers of nodes times the factor; ValueError for anything but a list of positive numbers,
    and a positive factor.
    """
    if (
        not isinstance(widths, Sequence)
        or isinstance(widths, str)
        or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in widths)
    ):
        raise ValueError(
            f"{name} must list positive numbers of nodes, such as [5, 5], or nothing, got"
            f" {widths!r}"
        )
    if not 0 < factor < float("inf"):
        raise ValueError(f"width, a factor on the numbers of nodes, must be positive, got {factor}")
    return [scaled(n, factor) for n in widths]

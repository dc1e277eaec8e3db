"""Classifiers with flat KANs for small images of one size, on the pixels or after plain or local
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from kanseg.encoders import scaled
from kanseg.layers.blocks import Conv
from kanseg.layers.parts import activation_module
from kanseg.models.classification import (
    CLASSIFIERS,
    FlatClassifier,
    Linear,
    checked_image_size,
    is_positive_integer,
)
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
    """A flat KAN on the pixels (Liu et al. 2024, arXiv:2404.19756); with basis "none" the
    perceptron of the same widths (see `KAN`).

    `hidden` lists the nodes of the hidden layers; `width` is a factor on all of them, which `match`
    solves for.
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
    """Plain linear layers with `linear_widths` nodes and activations, then a flat KAN with `hidden`
    nodes; `width` scales both lists.
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
    """Two stages of a plain 3x3 convolution and a 2x2 max pool (`width` and 2 * `width` channels),
    then a flat KAN.

    The option `activation` applies to the convolutions; flat layers without functions use SiLU.
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
    """A locally connected KAN layer with `width` outputs per patch (`KANLocal2d`), then a linear
    head, or a flat KAN for head="kan".

    `stride` is the kernel size by default (adjacent patches). With basis "none" an activation
    follows the local layer.
    """
    size = checked_image_size(image_size, classes)
    if head not in ("linear", "kan"):
        raise ValueError(f"head must be 'linear' or 'kan', got {head!r}")
    if head == "linear" and len(hidden):
        raise ValueError(f"hidden={list(hidden)} needs head='kan'")
    first = local(in_channels, scaled(width, 1), kernel_size, stride, image_size=size)
    entries = first.out_channels * first.output_size[0] * first.output_size[1]
    if head == "linear":
        head_module = nn.Linear(entries, classes)
    else:
        nodes = [entries, *_nodes(hidden, 1.0), classes]
        head_module = KAN(nodes, linear=linear, activation=activation)
    front = nn.Sequential(first, activation_where_plain(first.functions, activation), nn.Flatten())
    return FlatClassifier(front, head_module, in_channels=in_channels, image_size=size)


def _nodes(widths: Sequence[int], factor: float, name: str = "hidden") -> list[int]:
    """Numbers of nodes times the factor.

    Raises:
        ValueError: not a list of positive integers, or a factor that is not positive.
    """
    is_list = isinstance(widths, Sequence) and not isinstance(widths, str)
    if not is_list or not all(is_positive_integer(n) for n in widths):
        raise ValueError(
            f"{name} must be a list of positive numbers of nodes, such as [5, 5] or [], got"
            f" {widths!r}"
        )
    if not 0 < factor < float("inf"):
        raise ValueError(f"width, a factor on the numbers of nodes, must be positive, got {factor}")
    return [scaled(n, factor) for n in widths]

"""Maps over an image that a page shows: what the network predicts, where it looked, and what the
channels of its head contribute.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kanseg.explain.attribution import attribute
from kanseg.explain.saliency import grad_cam, occlusion
from kanseg.utils.errors import InputError
from kanseg.utils.html import image_url
from kanseg.utils.language import translate

CHANNELS = 4  # of the head, whose contributions are shown: the strongest
# Of matplotlib: values from 0 on, and values around 0.
SEQUENTIAL, DIVERGING = "inferno", "RdBu_r"


class Heatmap(NamedTuple):
    """A map over an image.

    Args:
        title: what it shows.
        caption: how to read its colors.
        url: a PNG in its colors, a `data:` URL.
    """

    title: str
    caption: str
    url: str


def saliency_maps(
    network: nn.Module,
    image: Tensor,
    label: int,
    *,
    layers: Sequence[str],
    occlude: bool = False,
) -> list[Heatmap]:
    """Grad-CAM of a class in some layers, and on request its occlusion map.

    Args:
        network: segmentation network or classifier.
        image: (1, C, H, W), as the network gets it.
        label: index of the class.
        layers: names of layers for Grad-CAM.
        occlude: whether to hide parts of the image, which runs the network 64 times.
    """
    maps = []
    for layer in layers:
        caption = translate(
            "Bright: this part of the layer speaks for the class. The scale is relative: 1 is the"
            " largest value of this map."
        )
        url = heatmap_url(grad_cam(network, image, layer, label)[0])
        maps.append(Heatmap(translate("Grad-CAM in {layer}", layer=layer), caption, url))
    if occlude:
        values = occlusion(network, image, label)[0]
        limit = float(values.abs().max())
        caption = translate(
            "Red: without this part of the image the score of the class falls, by at most {limit}."
            " Blue: it rises.",
            limit=f"{limit:.2g}",
        )
        url = heatmap_url(values, limit=limit)
        maps.append(Heatmap(translate("Occlusion of the image"), caption, url))
    return maps


def contribution_maps(network: nn.Module, image: Tensor, logit: int) -> list[Heatmap]:
    """What the strongest channels of the head add to a logit, strongest first; all on one scale.

    Args:
        network: segmentation network whose head is one convolution.
        image: (1, C, H, W), as the network gets it.
        logit: its index.

    Raises:
        InputError: the logits are not a sum over channels, see `attribute`.
    """
    contributions = attribute(network, image, classes=[logit]).contributions[0, 0].cpu()
    # The spread over the pixels: a constant contribution is no more than a part of the bias.
    spread = contributions.flatten(1).std(dim=1)
    strongest = spread.argsort(descending=True)[:CHANNELS].tolist()
    limit = float(contributions[strongest].abs().max())
    caption = translate(
        "Red: the channel speaks for the class, blue: against it, by up to {limit}. The"
        " contributions of all {count} channels and the bias add up to the logit of each pixel.",
        limit=f"{limit:.2g}",
        count=len(contributions),
    )
    maps = []
    for rank, channel in enumerate(strongest, 1):
        title = translate("Contribution {rank}: channel {channel}", rank=rank, channel=channel)
        maps.append(Heatmap(title, caption, heatmap_url(contributions[channel], limit=limit)))
    return maps


def heatmap_url(values: Tensor, *, limit: float | None = None) -> str:
    """A `data:` URL of a PNG of values (H, W) in colors.

    Args:
        values: from 0 to 1, or with a limit from -limit to limit.
        limit: of the colors around 0.
    """
    from matplotlib import colormaps

    name = SEQUENTIAL
    if limit is not None:
        values = values / (2 * max(limit, 1e-12)) + 0.5
        name = DIVERGING
    indices = (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(indices, mode="P")
    image.putpalette(colormaps[name](np.arange(256), bytes=True)[:, :3].tobytes())
    return _url(image)


def rgb_url(image: np.ndarray) -> str:
    """A `data:` URL of a PNG of an image (H, W, 3) uint8."""
    return _url(Image.fromarray(image))


def _url(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return image_url(stream.getvalue(), "png")


def logit_of_class(label: int, num_logits: int) -> int:
    """The logit of a class; InputError for the background of a binary network, which has none."""
    if num_logits > 1:
        return label
    if label == 1:
        return 0
    raise InputError("the background of a binary network has no logit of its own")

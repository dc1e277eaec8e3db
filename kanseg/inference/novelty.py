"""Novelty maps: where the functions of a network get inputs that they did not get in training.

The novelty of a pixel is the share of the functions whose input there lies outside the range of
their inputs on reference images, such as those of the training. Each layer counts alike: its map of
shares is upsampled to the image, and the maps are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.data.io.images import decode_image
from kanseg.inference.ensemble import Ensemble
from kanseg.inference.exported import ExportedNetwork
from kanseg.inference.predictor import Predictor
from kanseg.inference.segmenter import Segmenter
from kanseg.layers.grids import call_before_layers, evenly_chosen
from kanseg.layers.inspection.health import named_kan_layers
from kanseg.utils.errors import InputError
from kanseg.utils.iteration import evenly

TAIL = 0.001  # share of the reference inputs that may lie below their range, and above
SAMPLES = 512  # inputs per channel and reference image
MAX_REFERENCES = 64  # images
Ranges = dict[str, tuple[Tensor, Tensor]]


def input_ranges(network: nn.Module, batches: Iterable[Tensor]) -> Ranges:
    """The range of the inputs of each layer with functions: name -> lowest and highest (C,) per
    channel, without the 0.1 % at either end.

    Args:
        network: any module with KAN layers.
        batches: images (B, C, H, W) as the network gets them. 512 inputs per channel and batch are
            used, drawn evenly and always the same.

    Raises:
        InputError: a network without such layers, or no images.
    """
    layers = named_kan_layers(network)
    if not layers:
        raise InputError(
            "novelty needs layers with learned functions, and this network has none (basis none,"
            " functions that were pruned, or formulas)"
        )
    seen: dict[nn.Module, list[Tensor]] = {}

    def add(layer: nn.Module, layer_input: Tensor) -> None:
        inputs = layer.basis.mapped(layer.basis_input(layer_input)).transpose(0, 1).flatten(1)
        seen.setdefault(layer, []).append(evenly_chosen(inputs, SAMPLES))

    for batch in batches:
        call_before_layers(network, batch, layers.values(), add)
    ranges = {}
    for name, layer in layers.items():
        if layer in seen:
            ordered = torch.cat(seen[layer], dim=1).sort(dim=1).values
            tail = int(ordered.shape[1] * TAIL)
            ranges[name] = ordered[:, tail], ordered[:, -1 - tail]
    if not ranges:
        raise InputError("novelty needs reference images that reach the learned functions")
    return ranges


def novelty(network: nn.Module, images: Tensor, ranges: Ranges) -> Tensor:
    """The share of the functions whose input is outside its range, at each pixel.

    Args:
        network: the one that the ranges are of.
        images: (B, C, H, W) as the network gets them.
        ranges: of `input_ranges`.

    Returns:
        (B, H, W), 0 to 1.
    """
    layers = named_kan_layers(network)
    names = {layers[name]: name for name in ranges}
    maps = []

    def add(layer: nn.Module, layer_input: Tensor) -> None:
        inputs = layer.basis.mapped(layer.basis_input(layer_input))
        if inputs.dim() == 4:  # vectors and tokens have no place in the image
            lo, hi = (limit[:, None, None] for limit in ranges[names[layer]])
            share = ((inputs < lo) | (inputs > hi)).float().mean(dim=1, keepdim=True)
            size = images.shape[-2:]
            maps.append(F.interpolate(share, size=size, mode="bilinear", align_corners=False))

    call_before_layers(network, images, names, add)
    if not maps:
        raise InputError("novelty needs layers with functions of maps; this network has none")
    return torch.cat(maps, dim=1).mean(dim=1)


class _Novelty(nn.Module):
    """A network whose output is the novelty, as the logit that a predictor makes a probability."""

    def __init__(self, network: nn.Module, ranges: Ranges):
        super().__init__()
        self.network, self.ranges = network, ranges

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(novelty(self.network, images, self.ranges)).unsqueeze(1)


def novelty_segmenter(segmenter: Segmenter, references: Sequence[Path]) -> Segmenter:
    """A segmenter whose `probabilities` (1, H, W) are novelty maps: it runs in the same tiles and
    at the same size as another one.

    Args:
        segmenter: a `Predictor` of a checkpoint, or an `Ensemble` of them, whose maps are averaged.
        references: files of images like those of the training; 64 of them are used, evenly spaced.

    Raises:
        InputError: an exported file, whose layers are hidden; networks without functions; images
            that cannot be read.
    """
    if isinstance(segmenter, Ensemble):
        return Ensemble([novelty_segmenter(member, references) for member in segmenter.members])
    if isinstance(segmenter.model, ExportedNetwork):
        raise InputError("novelty needs the layers of a network: give the run, no exported file")
    chosen = evenly(references, MAX_REFERENCES)
    batches = (_reference(segmenter, path) for path in chosen)
    ranges = input_ranges(segmenter.model, batches)
    return Predictor(
        _Novelty(segmenter.model, ranges),
        segmenter.preprocess,
        classes=["novelty"],
        colors=[(255, 255, 255)],
        task="multilabel",
        tile=segmenter.tile,
        overlap=segmenter.overlap,
        batch_size=segmenter.batch_size,
        device=segmenter.device,
    )


def _reference(predictor: Predictor, path: Path) -> Tensor:
    """An image as the network gets it, (1, C, h, w); with tiles its center, as large as a tile."""
    values = predictor.preprocess.scale(decode_image(path), name=str(path))
    if predictor.tile is not None:
        values = center(values, predictor.tile)
    return predictor.preprocess.normalize(values)[None].to(predictor.device)


def center(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The center of an image (H, W, C), at most `size` (h, w)."""
    top, left = (max(0, have - want) // 2 for have, want in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]]

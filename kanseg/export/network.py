"""The network that is exported: preprocessing, trained network and output in one graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.data.preprocess import Preprocess
from kanseg.inference.exported import logits_of
from kanseg.inference.predictor import decide, to_probabilities
from kanseg.layers.activation import with_frozen_activations

OUTPUTS = ("logits", "probabilities", "labels")


class Deployed(nn.Module):
    """Images (B, C, H, W) float32 in [0, 1] -> output of the images' own size.

    A network that was trained on resized images sees them at that size, and its probabilities are
    scaled back, as `Predictor` does; its logits are then those of the probabilities that were
    scaled back.

    Args:
        model: normalized images -> logits (B, N, H, W), or (B, N) of a classifier.
        preprocess: of the training.
        task: "binary", "multiclass", "multilabel" or "classification".
        output: "logits" (B, N, H, W); "probabilities" (B, classes, H, W); "labels", uint8 (B, H,
            W), of a multilabel task (B, N, H, W) of 0 and 1, of a classifier int64 (B,).
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess, task: str, output: str = "logits"):
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        self.model = with_frozen_activations(model)
        self.preprocess, self.task, self.output = preprocess, task, output
        for name in ("mean", "std"):
            self.register_buffer(
                name,
                torch.tensor(getattr(preprocess, name), dtype=torch.float32).reshape(1, -1, 1, 1),
            )

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(self.prepared(images))
        logits = (logits[0] if isinstance(logits, tuple) else logits).float()
        if self.preprocess.resize is not None and self.task != "classification":
            small = to_probabilities(logits, self.task)
            logits = logits_of(
                F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False),
                self.task,
            )
        if self.output == "logits":
            return logits
        probabilities = to_probabilities(logits, self.task)
        if self.output == "probabilities":
            return probabilities
        return (
            probabilities.argmax(dim=1)
            if self.task == "classification"
            else decide(probabilities, self.task)
        )

    def prepared(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> (B, C, H', W') resized, with the gamma, normalized."""
        step = self.preprocess
        if step.resize is not None:
            images = resized(images, step.resize, step.interpolation)
        if step.gamma != 1.0:
            images = images.clamp(0, 1) ** step.gamma
        return (images - self.mean) / self.std


def resized(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """(B, C, H, W) -> (B, C, *size) as `kanseg.data.preprocess.resize_image` does it with floats:
    bilinear, or by area where that shrinks.
    """
    if interpolation == "linear":
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    sources = images.shape[-2:]
    # The sizes are unknown while the graph is made, so that the choice is one between matrices of
    # the same shape.
    height, width = (torch.scalar_tensor(source) for source in sources)
    shrinks, both = height * width > size[0] * size[1], (height >= size[0]) & (width >= size[1])
    rows, columns = (
        torch.where(
            both,
            area_weights(*pair),
            torch.where(shrinks, mixed_weights(*pair), linear_weights(*pair)),
        ).to(images.dtype)
        for pair in zip(sources, size, strict=True)
    )
    return rows @ images @ columns.T


def area_weights(source: int, target: int) -> Tensor:
    """(target, source) float64: the share of each old pixel in each new one; rows sum to 1."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    pixels = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp_min(0) * target / source


def linear_weights(source: int, target: int) -> Tensor:
    """(target, source) float64: the two neighbors of each new pixel's center; rows sum to 1."""
    pixels = torch.arange(source, dtype=torch.float64)
    centers = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp_min(
        0
    )
    centers = torch.minimum(centers, pixels[-1])
    return (1 - (centers[:, None] - pixels).abs()).clamp_min(0)


def mixed_weights(source: int, target: int) -> Tensor:
    """(target, source) float64: what OpenCV takes for area on both sides when one of them grows
    (`resize` in its imgproc/src/resize.cpp).
    """
    pixels, place = (
        torch.arange(source, dtype=torch.float64),
        torch.arange(target, dtype=torch.float64),
    )
    first = torch.floor(place * source / target)
    share = place + 1 - (first + 1) * target / source
    share = torch.where(share <= 0, 0.0, share - torch.floor(share))[:, None]
    second = torch.minimum(first + 1, pixels[-1])
    return (1 - share) * (pixels == first[:, None]) + share * (pixels == second[:, None])

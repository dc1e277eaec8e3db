"""The network that is exported: preprocessing, trained network and output in one graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.data.preprocess import Preprocess
from kanseg.export.activations import with_frozen_activations
from kanseg.inference.exported import logits_of
from kanseg.inference.predictor import decide, to_probabilities

OUTPUTS = ("logits", "probabilities", "labels")


class Deployed(nn.Module):
    """A network with its preprocessing: images (B, C, H, W) float32 in [0, 1] -> output of the same
    height and width.

    If the network was trained on resized images, the images are resized, and the probabilities are
    resized back, as `Predictor` does; logits are then computed from these probabilities.

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
            values = torch.tensor(getattr(preprocess, name), dtype=torch.float32)
            self.register_buffer(name, values.reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(self.prepared(images))
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        logits = logits.float()
        if self.preprocess.resize is not None and self.task != "classification":
            small = to_probabilities(logits, self.task)
            size = images.shape[-2:]
            probabilities = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
            logits = logits_of(probabilities, self.task)
        if self.output == "logits":
            return logits
        probabilities = to_probabilities(logits, self.task)
        if self.output == "probabilities":
            return probabilities
        if self.task == "classification":
            return probabilities.argmax(dim=1)
        return decide(probabilities, self.task)

    def prepared(self, images: Tensor) -> Tensor:
        """Resize images (B, C, H, W) in [0, 1], apply gamma and normalize -> (B, C, H', W')."""
        step = self.preprocess
        if step.resize is not None:
            images = resized(images, step.resize, step.interpolation)
        if step.gamma != 1.0:
            images = images.clamp(0, 1) ** step.gamma
        return (images - self.mean) / self.std


def resized(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize images (B, C, H, W) to (B, C, *size) as `kanseg.data.preprocess.resize_image` does:
    bilinear, or by area if the image shrinks.
    """
    if interpolation == "linear":
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    sources = images.shape[-2:]
    # Sizes are unknown during tracing, so the graph selects between matrices of the same shape.
    height, width = torch.scalar_tensor(sources[0]), torch.scalar_tensor(sources[1])
    area_shrinks = height * width > size[0] * size[1]
    both_shrink = (height >= size[0]) & (width >= size[1])
    matrices = []
    for source, target in zip(sources, size, strict=True):
        weights = torch.where(
            area_shrinks, mixed_weights(source, target), linear_weights(source, target)
        )
        weights = torch.where(both_shrink, area_weights(source, target), weights)
        matrices.append(weights.to(images.dtype))
    rows, columns = matrices
    return rows @ images @ columns.T


def area_weights(source: int, target: int) -> Tensor:
    """(target, source) float64: share of each old pixel in each new one; rows sum to 1."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    pixels = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp_min(0) * target / source


def linear_weights(source: int, target: int) -> Tensor:
    """(target, source) float64: the two neighbors of each new pixel's center; rows sum to 1."""
    pixels = torch.arange(source, dtype=torch.float64)
    centers = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5
    centers = torch.minimum(centers.clamp_min(0), pixels[-1])
    return (1 - (centers[:, None] - pixels).abs()).clamp_min(0)


def mixed_weights(source: int, target: int) -> Tensor:
    """(target, source) float64: the weights of OpenCV's INTER_AREA if one side shrinks and the
    other grows (`resize` in its imgproc/src/resize.cpp).
    """
    pixels = torch.arange(source, dtype=torch.float64)
    new_pixels = torch.arange(target, dtype=torch.float64)
    first = torch.floor(new_pixels * source / target)
    share = new_pixels + 1 - (first + 1) * target / source
    share = torch.where(share <= 0, 0.0, share - torch.floor(share))[:, None]
    second = torch.minimum(first + 1, pixels[-1])
    return (1 - share) * (pixels == first[:, None]) + share * (pixels == second[:, None])

"""Verify an exported file against the PyTorch network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.data.io.images import decode_image
from kanseg.data.preprocess import Preprocess, resize_image
from kanseg.inference.exported import ExportedNetwork
from kanseg.inference.files.inputs import find_images
from kanseg.inference.predictor import decide, to_probabilities

SIZES = ((63, 61), (128, 160))
BATCHES = (1, 3)
CROP = 256


@dataclass(frozen=True)
class Agreement:
    """How far an exported file agrees with the network, over all images.

    Args:
        probability: largest absolute difference of a probability; None for a file that outputs
            labels.
        differing: share of the pixels (of a classifier, images) whose label differs.
        pixels: number of them.
        batches: "BxHxW" of every batch.
    """

    probability: float | None
    differing: float
    pixels: int
    batches: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"batches": list(self.batches)}


def read_images(folder: str | None, preprocess: Preprocess, count: int) -> list[np.ndarray]:
    """Images for the check: (H, W, channels) float32 in [0, 1].

    At most `count` images of a folder, evenly chosen, at the size of `preprocess.resize`, or
    cropped at the center to at most CROP pixels per side. Without a folder they are generated.
    """
    if folder is None:
        return [_generated(seed, preprocess.channels) for seed in range(count)]
    found = find_images(folder)
    chosen = [found[int(i)] for i in np.linspace(0, len(found) - 1, min(count, len(found)))]
    return [_read(path, preprocess) for path in chosen]


def expected(
    model: nn.Module, preprocess: Preprocess, task: str, images: Sequence[np.ndarray]
) -> Tensor:
    """Probabilities (B, classes, H, W) of the trained network for images of one size, with the
    preprocessing of the training (OpenCV) and without any code of the export.
    """
    preprocess_floats = replace(preprocess, floats=True)
    batch = torch.stack([preprocess_floats(image) for image in images])
    with torch.no_grad():
        values = to_probabilities(model(batch), task)
    size = images[0].shape[:2]
    if values.dim() == 2 or values.shape[-2:] == size:
        return values
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)


def compare(
    network: ExportedNetwork,
    model: nn.Module,
    preprocess: Preprocess,
    images: Sequence[np.ndarray],
    *,
    batch: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Agreement:
    """Run the file and the network on images in several sizes and batches.

    Args:
        network: from `open_exported`.
        model: the trained network, in evaluation mode, on the CPU.
        preprocess: of its training.
        images: (H, W, C) float32 in [0, 1].
        batch: the only batch size that the file takes.
        image_size: the only size that it takes.
    """
    task, output = network.description["labels"]["task"], network.description["output"]
    sizes = [image_size] if image_size else [*SIZES, preprocess.resize or (96, 96)]
    counts = [batch] if batch else BATCHES
    largest, differing, pixels, batches = 0.0, 0, 0, []
    for size, group in _batches(images, sizes, counts):
        batches.append("x".join(map(str, (len(group), *size))))
        truth = expected(model, preprocess, task, group)
        given = network(torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2).contiguous())
        distance, differs = _difference(given, truth, output, task)
        largest = max(largest, distance)
        differing += int(differs.sum())
        pixels += differs.numel()
    probability = None if output == "labels" else largest
    return Agreement(probability, differing / pixels, pixels, tuple(batches))


def _difference(given: Tensor, truth: Tensor, output: str, task: str) -> tuple[float, Tensor]:
    """The largest difference of a probability (infinity for NaN), and a mask of the labels that
    differ.
    """
    if output == "labels":
        return 0.0, given != _labels(truth, task)
    values = to_probabilities(given, task) if output == "logits" else given
    if values.shape != truth.shape:
        raise ValueError(
            f"the file gives {tuple(values.shape)} where the network gives {tuple(truth.shape)}"
        )
    distance = torch.nan_to_num((values - truth).abs(), nan=torch.inf).max().item()
    return distance, _labels(values, task) != _labels(truth, task)


def _labels(probabilities: Tensor, task: str) -> Tensor:
    if task == "classification":
        return probabilities.argmax(dim=1)
    return decide(probabilities, task)


def _batches(
    images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], counts: Sequence[int]
) -> Iterator[tuple[tuple[int, int], list[np.ndarray]]]:
    """A batch of every size and count; the images are used in turns."""
    turns = itertools.cycle(images)
    for size in sizes:
        for count in counts:
            yield size, [resize_image(next(turns), size) for _ in range(count)]


def _generated(seed: int, channels: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spots = rng.random((9, 9, channels), dtype=np.float32)
    image = cv2.resize(spots, (160, 128), interpolation=cv2.INTER_CUBIC).reshape(128, 160, channels)
    return np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1).astype(np.float32)


def _read(path: Path, preprocess: Preprocess) -> np.ndarray:
    image = preprocess.scale(decode_image(path), name=str(path))
    encoded = replace(preprocess, gamma=1.0).encode(image)
    if preprocess.resize is not None:
        return encoded
    top, left = (max(0, (side - CROP) // 2) for side in encoded.shape[:2])
    return np.ascontiguousarray(encoded[top : top + CROP, left : left + CROP])

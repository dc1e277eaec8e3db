"""Verify an exported file against the PyTorch model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
from kanseg.utils.errors import InputError
from kanseg.utils.iteration import progress_bar

SIZES = ((63, 61), (128, 160))
BATCHES = (1, 3)
CROP = 256


@dataclass(frozen=True)
class Agreement:
    """How well an exported file agrees with the network, over all images.

    Args:
        probability: largest absolute difference of a probability; None for a file that outputs
            labels.
        differing: share of the pixels (of a classifier, images) whose label differs.
        pixels: number of pixels (of a classifier, images).
        batches: "BxHxW" of every batch.
    """

    probability: float | None
    differing: float
    pixels: int
    batches: tuple[str, ...]


def read_images(
    folder: str | None,
    preprocess: Preprocess,
    count: int,
    *,
    log: Callable[[str], None] = print,
) -> list[np.ndarray]:
    """Read images for the check: (H, W, channels) float32 in [0, 1].

    Files that cannot be read are reported and skipped.

    Args:
        folder: images, or None to generate some. Images are resized to `preprocess.resize`, or
            center-cropped to at most CROP pixels per side.
        preprocess: of the training.
        count: at most so many images, evenly spaced over the folder.
        log: receives a line for each file that cannot be read.

    Raises:
        InputError: the folder has no images, or none of them can be read.
    """
    if folder is None:
        return [_generate_image(seed, preprocess.channels) for seed in range(count)]
    images, paths = [], find_images(folder)
    for index in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int):
        try:
            images.append(_read_image(paths[index], preprocess))
        except InputError as error:
            log(f"warning: skipped: {error}")
    if not images:
        raise InputError(f"{folder}: none of the images can be read")
    return images


def expected(
    model: nn.Module, preprocess: Preprocess, task: str, images: Sequence[np.ndarray]
) -> Tensor:
    """Probabilities (B, classes, H, W) of the trained network for images of one size.

    Uses the preprocessing of the training (OpenCV), and none of the exported code.
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
    """Run the file and the network on images in several sizes and batch sizes.

    Args:
        network: from `open_exported`.
        model: the trained network, in evaluation mode, on the CPU.
        preprocess: of the training.
        images: (H, W, C) float32 in [0, 1].
        batch: the fixed batch size of the file; None if it takes any.
        image_size: the fixed (H, W) of the file; None if it takes any.
    """
    task, output = network.description["labels"]["task"], network.description["output"]
    sizes = [*SIZES, preprocess.resize or (96, 96)]
    if image_size is not None:
        sizes = [image_size]
    batch_sizes = BATCHES if batch is None else (batch,)
    largest, differing, pixels, batches = 0.0, 0, 0, []
    source = itertools.cycle(images)
    cases = list(itertools.product(sizes, batch_sizes))
    for size, count in progress_bar(cases, title="check", unit="batch"):
        group = [resize_image(image, size) for image in itertools.islice(source, count)]
        batches.append("x".join(map(str, (len(group), *size))))
        probabilities = expected(model, preprocess, task, group)
        result = network(torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2).contiguous())
        distance, differs = _difference(result, probabilities, output, task)
        largest = max(largest, distance)
        differing += int(differs.sum())
        pixels += differs.numel()
    probability = None if output == "labels" else largest
    return Agreement(probability, differing / pixels, pixels, tuple(batches))


def _difference(
    result: Tensor, probabilities: Tensor, output: str, task: str
) -> tuple[float, Tensor]:
    """Compare the result of a file with the probabilities of the network.

    Returns:
        (largest difference of a probability, infinity for NaN; bools of the labels that differ).
    """
    labels = _labels(probabilities, task)
    if output == "labels":
        return 0.0, result != labels
    if output == "logits":
        result = to_probabilities(result, task)
    if result.shape != probabilities.shape:
        raise ValueError(
            f"the file gives {tuple(result.shape)} where the network gives"
            f" {tuple(probabilities.shape)}"
        )
    distance = torch.nan_to_num((result - probabilities).abs(), nan=torch.inf).max().item()
    return distance, _labels(result, task) != labels


def _labels(probabilities: Tensor, task: str) -> Tensor:
    if task == "classification":
        return probabilities.argmax(dim=1)
    return decide(probabilities, task)


def _generate_image(seed: int, channels: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spots = rng.random((9, 9, channels), dtype=np.float32)
    image = cv2.resize(spots, (160, 128), interpolation=cv2.INTER_CUBIC).reshape(128, 160, channels)
    return np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1).astype(np.float32)


def _read_image(path: Path, preprocess: Preprocess) -> np.ndarray:
    image = preprocess.scale(decode_image(path), name=str(path))
    encoded = replace(preprocess, gamma=1.0).encode(image)
    if preprocess.resize is not None:
        return encoded
    height, width = encoded.shape[:2]
    top, left = max(0, (height - CROP) // 2), max(0, (width - CROP) // 2)
    return np.ascontiguousarray(encoded[top : top + CROP, left : left + CROP])

"""Whether an exported file computes what the trained network computes."""

from __future__ import annotations

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
CUT = 256


@dataclass(frozen=True)
class Agreement:
    """An exported file beside the network, over all images shown.

    Args:
        probability: largest absolute difference of a probability; None for a file that gives
            labels.
        differing: share of the pixels (of a classifier, images) whose label differs.
        pixels: how many there were.
        batches: "BxHxW" of what was shown.
    """

    probability: float | None
    differing: float
    pixels: int
    batches: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"batches": list(self.batches)}


def read_images(folder: str | None, preprocess: Preprocess, count: int) -> list[np.ndarray]:
    """(H, W, channels) float32 in [0, 1]: at most `count` images of a folder, evenly chosen, or
    made ones of soft spots where there is none.

    They have the size of `preprocess.resize`; without one their middle is taken, at most CUT on a
    side.
    """
    if folder is None:
        return [_made(seed, preprocess.channels) for seed in range(count)]
    found = find_images(folder)
    chosen = [found[int(i)] for i in np.linspace(0, len(found) - 1, min(count, len(found)))]
    return [_read(path, preprocess) for path in chosen]


def expected(
    model: nn.Module, preprocess: Preprocess, task: str, images: Sequence[np.ndarray]
) -> Tensor:
    """Probabilities (B, classes, H, W) of images of one size: the trained network, its own
    preprocessing (OpenCV), nothing of the export.
    """
    step = replace(
        preprocess, floats=True
    )  # the images are values already, whatever the files of the training held
    batch = torch.stack([step(image) for image in images])
    with torch.no_grad():
        values = to_probabilities(model(batch), task)
    size = images[0].shape[:2]
    return (
        values
        if values.dim() == 2 or values.shape[-2:] == size
        else F.interpolate(values, size=size, mode="bilinear", align_corners=False)
    )


def compare(
    network: ExportedNetwork,
    model: nn.Module,
    preprocess: Preprocess,
    images: Sequence[np.ndarray],
    *,
    batch: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Agreement:
    """Show images, scaled to several sizes and in several batches, to the file and to the
    network.

    Args:
        network: from `open_exported`.
        model: the trained network, in evaluation mode, on the CPU.
        preprocess: of its training.
        images: (H, W, C) float32 in [0, 1].
        batch: the only batch that the file takes.
        image_size: the only size that it takes.
    """
    task = network.description["labels"]["task"]
    largest, differing, pixels, shown = 0.0, 0, 0, []
    for shape, group in _batches(
        images,
        [image_size] if image_size else [*SIZES, preprocess.resize or (96, 96)],
        [batch] if batch else BATCHES,
    ):
        shown.append("x".join(map(str, (len(group), *shape))))
        truth = expected(model, preprocess, task, group)
        given = network(torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2).contiguous())
        distance, different = _difference(given, truth, network.description["output"], task)
        largest, differing, pixels = (
            max(largest, distance),
            differing + int(different.sum()),
            pixels + different.numel(),
        )
    return Agreement(
        None if network.description["output"] == "labels" else largest,
        differing / pixels,
        pixels,
        tuple(shown),
    )


def _difference(given: Tensor, truth: Tensor, output: str, task: str) -> tuple[float, Tensor]:
    """The largest difference of a probability, and where labels differ; whatever is not finite
    differs by infinity.
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
    return probabilities.argmax(dim=1) if task == "classification" else decide(probabilities, task)


def _batches(
    images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], counts: Sequence[int]
) -> Iterator[tuple[tuple[int, int], list[np.ndarray]]]:
    """Every size with every count; the images take turns."""
    place = 0
    for size in sizes:
        for count in counts:
            yield (
                size,
                [resize_image(images[(place + i) % len(images)], size) for i in range(count)],
            )
            place += count


def _made(seed: int, channels: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spots = rng.random((9, 9, channels), dtype=np.float32)
    image = cv2.resize(spots, (160, 128), interpolation=cv2.INTER_CUBIC).reshape(128, 160, channels)
    return np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1).astype(np.float32)


def _read(path: Path, preprocess: Preprocess) -> np.ndarray:
    image = preprocess.scale(decode_image(path), name=str(path))
    encoded = replace(preprocess, gamma=1.0).encode(image)
    if preprocess.resize is not None:
        return encoded
    top, left = (max(0, (side - CUT) // 2) for side in encoded.shape[:2])
    return np.ascontiguousarray(encoded[top : top + CUT, left : left + CUT])

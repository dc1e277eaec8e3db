"""A predictor on samples -> scores, at the size that the network sees or at that of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kanseg.data import (
    IGNORE_INDEX,
    LabelSpec,
    Sample,
    SegmentationDataset,
    read_label,
    read_sample_image,
)
from kanseg.data.formats.listing import index_images
from kanseg.data.io.images import image_mode, read_mask_values
from kanseg.data.preprocess import resize_mask
from kanseg.inference.predictor import Predictor, decide
from kanseg.metrics import SegmentationMetrics, SurfaceOptions
from kanseg.utils.errors import InputError


def evaluate_samples(
    predictor: Predictor,
    samples: Sequence[Sample],
    info: LabelSpec,
    *,
    full_size: bool = False,
    surface: SurfaceOptions | None = None,
    inside: Path | None = None,
) -> SegmentationMetrics:
    """Predict every sample and compare it with its mask.

    Args:
        predictor: the network.
        samples: images with masks.
        info: what the masks mean.
        full_size: compare at the size of the files instead of the size that the network sees.
        surface: measure surface distances and boundary IoU too; a spacing is that of the files.
        inside: folder of masks, NAME.png and so on, outside of which (value 0) pixels are ignored,
            such as the field of view of a fundus camera.

    Raises:
        InputError: a sample without such a mask, or one of another size than its image.
    """
    fields = None if inside is None else fields_of_view(inside, samples)
    dataset = SegmentationDataset(samples, info, predictor.preprocess)
    metrics = SegmentationMetrics(info.classes, info.task, surface=surface)
    for index, sample in enumerate(tqdm(samples, desc="evaluate", leave=False, disable=None)):
        probabilities, label = (
            _at_full_size(predictor, sample, info)
            if full_size
            else _at_network_size(predictor, dataset, index)
        )
        if fields is not None:
            label = torch.where(
                torch.from_numpy(_field(fields[sample], sample, label.shape[-2:])),
                label,
                IGNORE_INDEX,
            )
        spacings = [scaled_spacing(sample, label.shape[-2:], surface)] if surface else None
        predicted = decide(probabilities, predictor.task).long()
        metrics.update(
            predicted[None], label[None], probabilities=probabilities[None], spacings=spacings
        )
    return metrics


def _at_full_size(predictor: Predictor, sample: Sample, info: LabelSpec) -> tuple[Tensor, Tensor]:
    """Probabilities (N, H, W) and the label map int64."""
    probabilities = predictor.probabilities(read_sample_image(sample), name=str(sample.image))
    return probabilities, torch.from_numpy(read_label(sample, info).astype(np.int64))


def _at_network_size(
    predictor: Predictor, dataset: SegmentationDataset, index: int
) -> tuple[Tensor, Tensor]:
    item = dataset[index]
    return predictor.predict_tensor(item["image"]), item["mask"]


def fields_of_view(folder: Path, samples: Sequence[Sample]) -> Mapping[Sample, Path]:
    """The mask in the folder that has the name of each sample; InputError for samples
    without one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of masks to evaluate inside")
    found = index_images(folder)
    missing = [sample.name for sample in samples if sample.name not in found]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(samples)} images have no mask to evaluate inside"
            f" (the first: {missing[0]})"
        )
    return {sample: found[sample.name] for sample in samples}


def _field(path: Path, sample: Sample, shape: Sequence[int]) -> np.ndarray:
    """The mask of a sample at (height, width) `shape`, bools."""
    values = read_mask_values(path)
    values = (values if values.ndim == 2 else values.any(axis=2)) > 0
    size = image_mode(sample.image)[1]
    if values.shape != size:
        raise InputError(
            f"{path}: the mask is {values.shape[1]}x{values.shape[0]} and the image"
            f" {size[1]}x{size[0]} pixels"
        )
    return resize_mask(values.astype(np.uint8), shape) > 0


def scaled_spacing(
    sample: Sample, shape: Sequence[int], surface: SurfaceOptions
) -> tuple[float, float]:
    """The (row, column) spacing of a sample's pixels when it is seen at (height, width) `shape`;
    pixels stay pixels where no spacing is given.
    """
    if surface.spacing is None:
        return 1.0, 1.0
    height, width = image_mode(sample.image)[1]
    return surface.spacing[0] * height / shape[0], surface.spacing[1] * width / shape[1]

"""Score a segmentation network during training, or a `Predictor` on the samples of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

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
from kanseg.evaluation.loop import eval_mode, evaluate, gather_images
from kanseg.inference.predictor import Predictor, crop, decide, to_probabilities
from kanseg.inference.segmenter import check_finite_output
from kanseg.inference.sliding_window import merge_rows, sliding_window
from kanseg.metrics import SegmentationMetrics, SurfaceOptions
from kanseg.utils.errors import InputError


def evaluate_network(
    model: nn.Module,
    dataset: SegmentationDataset,
    accelerator: Accelerator,
    *,
    tile: Sequence[int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    title: str = "evaluate",
    surface: SurfaceOptions | None = None,
) -> SegmentationMetrics:
    """Score a network that is being trained, at its input size.

    The scores do not depend on the batch size and the number of processes.

    Args:
        model: images (B, C, H, W) -> logits.
        dataset: without augmentation.
        accelerator: device, precision and processes.
        tile: (h, w); larger images are predicted in overlapping tiles. None for whole images.
        batch_size: images, or tiles, per batch.
        workers: processes that load samples.
        title: of the progress bar.
        surface: measure surface distances and boundary IoU too; its spacing is that of the files.
    """
    task = dataset.label_spec.task
    network = accelerator.unwrap_model(model)
    metrics = SegmentationMetrics(dataset.label_spec.classes, task, surface=surface)

    def predict(batch: dict[str, Tensor]) -> Tensor:
        with accelerator.autocast():
            return predict_probabilities(
                network, batch["image"], tile, task=task, batch_size=batch_size
            )

    samples_per_batch = 1  # padding images to one size would change the predictions
    if dataset.one_size:
        samples_per_batch = batch_size
    with eval_mode(network):
        evaluate(
            predict,
            dataset,
            partial(update_metrics, metrics, dataset.samples, task=task),
            batch_size=samples_per_batch,
            workers=workers,
            accelerator=accelerator,
            title=title,
        )
    gather_images(metrics, accelerator)
    return metrics


def evaluate_samples(
    predictor: Predictor,
    samples: Sequence[Sample],
    label_spec: LabelSpec,
    *,
    full_size: bool = False,
    surface: SurfaceOptions | None = None,
    inside: Path | str | None = None,
) -> SegmentationMetrics:
    """Score a predictor on samples.

    Args:
        predictor: the network.
        samples: images with masks.
        label_spec: what the mask values mean.
        full_size: compare at the size of the files instead of the input size of the network.
        surface: measure surface distances and boundary IoU too; its spacing is that of the files.
        inside: folder of masks NAME.png, such as the field of view of a fundus camera; pixels
            outside (value 0) are ignored.

    Raises:
        InputError: a sample without such a mask, or one of another size than its image.
    """
    fields = None
    if inside is not None:
        fields = fields_of_view(Path(inside), samples)
    metrics = SegmentationMetrics(label_spec.classes, label_spec.task, surface=surface)

    def predict_file(batch: dict[str, Tensor]) -> Tensor:
        sample = samples[int(batch["index"])]
        image = read_sample_image(sample)
        return predictor.probabilities(image, name=str(sample.image))[None]

    def predict_resized(batch: dict[str, Tensor]) -> Tensor:
        return predictor.predict_tensor(batch["image"][0])[None]

    update = partial(update_metrics, metrics, samples, task=predictor.task, fields=fields)
    if full_size:
        evaluate(predict_file, MaskDataset(samples, label_spec), update)
    else:
        evaluate(
            predict_resized, SegmentationDataset(samples, label_spec, predictor.preprocess), update
        )
    return metrics


class MaskDataset(Dataset):
    """Masks at the size of their files: {"mask": (H, W) or multilabel (N, H, W), "index": int}."""

    def __init__(self, samples: Sequence[Sample], label_spec: LabelSpec):
        self.samples, self.label_spec = samples, label_spec

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        mask = read_label(self.samples[index], self.label_spec)
        return {"mask": torch.from_numpy(mask.astype(np.int64)), "index": index}


def update_metrics(
    metrics: SegmentationMetrics,
    samples: Sequence[Sample],
    probabilities: Tensor,
    target: Tensor,
    indices: Sequence[int],
    *,
    task: str,
    fields: Mapping[Sample, Path] | None = None,
) -> None:
    """Add predicted samples to the metrics.

    Args:
        metrics: updated in place.
        samples: of the data set.
        probabilities: (B, N, H, W).
        target: (B, H, W), or (B, N, H, W) of a multilabel task.
        indices: of the B samples in `samples`.
        task: "binary", "multiclass" or "multilabel".
        fields: mask files outside of which pixels are ignored (`fields_of_view`).

    Raises:
        InputError: probabilities that are not finite, or a field of another size than its image.
    """
    check_finite_output(probabilities, lambda number: samples[indices[number]].name)
    shape = target.shape[-2:]
    if fields is not None:
        for number, index in enumerate(indices):
            field = read_field(fields[samples[index]], samples[index], shape)
            target[number].masked_fill_(~torch.from_numpy(field).to(target.device), IGNORE_INDEX)
    spacings = None
    if metrics.surface is not None:
        spacings = [scaled_spacing(samples[index], shape, metrics.surface) for index in indices]
    labels = decide(probabilities, task).long()
    metrics.update(labels, target, indices, probabilities=probabilities, spacings=spacings)


def predict_probabilities(
    model: nn.Module,
    images: Tensor,
    tile: Sequence[int] | None = None,
    *,
    task: str,
    batch_size: int,
) -> Tensor:
    """Predict preprocessed images (B, C, H, W): probabilities (B, N, H, W) float32.

    Images larger than `tile` (h, w) are predicted in tiles, `batch_size` at once.
    """
    shape = images.shape[-2:]
    if tile is None or (shape[0] <= tile[0] and shape[1] <= tile[1]):
        return to_probabilities(model(images), task)

    def predict(tiles: Tensor) -> Tensor:
        return to_probabilities(model(tiles), task)

    readers = [partial(crop, image) for image in images]
    chunks = sliding_window(predict, readers, shape, tile=tile, overlap=0.5, batch_size=batch_size)
    return merge_rows(chunks, shape[0])


def predict_labels(
    model: nn.Module,
    images: Tensor,
    tile: Sequence[int] | None = None,
    *,
    task: str,
    batch_size: int,
) -> Tensor:
    """Predict preprocessed images (B, C, H, W): class indices int64 (B, H, W), or of a multilabel
    task 0 and 1 (B, N, H, W). The arguments are those of `predict_probabilities`.
    """
    probabilities = predict_probabilities(model, images, tile, task=task, batch_size=batch_size)
    return decide(probabilities, task).long()


def fields_of_view(folder: Path, samples: Sequence[Sample]) -> Mapping[Sample, Path]:
    """Find the mask NAME.* of each sample in a folder.

    Raises:
        InputError: no such folder, or samples without a mask.
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


def read_field(path: Path, sample: Sample, shape: Sequence[int]) -> np.ndarray:
    """Read the mask of the field of view of a sample as bools, resized to (height, width) `shape`.

    Raises:
        InputError: the mask and the image have different sizes.
    """
    values = read_mask_values(path)
    if values.ndim == 3:
        values = values.any(axis=2)
    size = image_mode(sample.image)[1]
    if values.shape != size:
        raise InputError(
            f"{path}: the mask is {values.shape[0]}x{values.shape[1]} and the image"
            f" {size[0]}x{size[1]} pixels (height x width)"
        )
    return resize_mask((values > 0).astype(np.uint8), shape) > 0


def scaled_spacing(
    sample: Sample, shape: Sequence[int], surface: SurfaceOptions
) -> tuple[float, float]:
    """Return the (row, column) spacing of the pixels of a sample that is resized to (height, width)
    `shape`; (1, 1) if no spacing is given.
    """
    if surface.spacing is None:
        return 1.0, 1.0
    height, width = image_mode(sample.image)[1]
    return surface.spacing[0] * height / shape[0], surface.spacing[1] * width / shape[1]

"""Mean IoU of a network or an exported file on splits of its data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from kanseg.config import DataConfig
from kanseg.data import LabelSpec, Preprocess, Sample, open_data
from kanseg.evaluation.segmentation import evaluate_samples
from kanseg.inference.predictor import Predictor
from kanseg.utils.errors import InputError

Labeled = tuple[list[Sample], LabelSpec]


def labeled(data: DataConfig, split: Sequence[str]) -> Labeled:
    """Open some splits of a data set: their samples, and the meaning of the mask values.

    Raises:
        InputError: the splits have no images.
    """
    opened = open_data(data, log=lambda line: None)
    samples = opened.samples(split)
    if not samples:
        raise InputError(f"{data.root}: split {', '.join(split)} has no images")
    return samples, opened.label_spec


def mean_iou(
    network: nn.Module,
    preprocess: Preprocess,
    description: dict[str, Any],
    samples: Sequence[Sample],
    label_spec: LabelSpec,
) -> float:
    """Mean IoU over the classes, over all pixels, at the size of the files.

    Args:
        network: takes preprocessed images.
        preprocess: of the training, or `remaining_preprocess(description)` for an exported file.
        description: of the checkpoint or the file.
        samples: images and masks.
        label_spec: meaning of the mask values.
    """
    labels, tile = description["labels"], description.get("tile")
    predictor = Predictor(
        network,
        preprocess,
        classes=labels["classes"],
        colors=labels["palette"],
        task=labels["task"],
        tile=tuple(tile) if tile else None,
        batch_size=1,
        device="cpu",
    )
    metrics = evaluate_samples(predictor, samples, label_spec, full_size=True)
    return float(metrics.compute()["mean_iou"])

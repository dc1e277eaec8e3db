"""Scores of a network on a split of its data set, at the size of the files, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from kanseg.config import DataConfig
from kanseg.data import LabelSpec, Preprocess, Sample, open_data, read_label, read_sample_image
from kanseg.inference.predictor import Predictor
from kanseg.metrics import SegmentationMetrics
from kanseg.utils.errors import InputError

Labeled = tuple[list[Sample], LabelSpec]


def labeled(data: DataConfig, split: Sequence[str]) -> Labeled:
    """The samples of some splits; InputError where there are none."""
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
    info: LabelSpec,
) -> float:
    """Mean IoU over the classes, all pixels of all images together.

    Args:
        network: what preprocessed images are shown to.
        preprocess: what is done before it; `outside(description)` for an exported one.
        description: of the checkpoint or the file.
        samples: images and masks.
        info: what the masks mean.
    """
    predictor = predictor_of(network, preprocess, description)
    metrics = SegmentationMetrics(info.classes, info.task)
    for sample in tqdm(samples, desc="score", leave=False, disable=None):
        predicted, label = (
            predictor(read_sample_image(sample), name=str(sample.image)),
            read_label(sample, info),
        )
        metrics.update(
            torch.from_numpy(predicted).long()[None], torch.from_numpy(label).long()[None]
        )
    return float(metrics.compute()["mean_iou"])


def predictor_of(
    network: nn.Module, preprocess: Preprocess, description: dict[str, Any]
) -> Predictor:
    """A `Predictor` on the CPU."""
    labels, tile = description["labels"], description.get("tile")
    where = {
        "classes": labels["classes"],
        "colors": labels["palette"],
        "task": labels["task"],
        "tile": tile and tuple(tile),
    }
    return Predictor(network, preprocess, **where, batch_size=1, device="cpu")

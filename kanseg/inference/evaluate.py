"""A checkpoint on a split of a data set -> scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kanseg.config import Config
from kanseg.data import LabelInfo, Sample, check_samples, read_image, read_label
from kanseg.data.preprocess import resize_mask
from kanseg.errors import InputError
from kanseg.inference.predictor import Predictor
from kanseg.metrics import SegmentationMetrics
from kanseg.training.run import open_data


def evaluate_checkpoint(
    checkpoint: str | Path,
    split: str | Sequence[str],
    *,
    root: str | None = None,
    full_size: bool = False,
    flips: int = 1,
    batch_size: int = 8,
    device: str | None = None,
) -> dict[str, Any]:
    """The scores of `SegmentationMetrics.compute` on one split or several together.

    Args:
        checkpoint: checkpoint or run folder.
        split: names of splits.
        root: folder of the data set; by default the one of the training.
        full_size: compare at the size of the mask files instead of the size that the network sees.
        flips, batch_size, device: as of Predictor.

    Raises:
        InputError: no such checkpoint, data set or split; faulty samples, all of them named.
    """
    folder = Path(checkpoint) / "best" if (Path(checkpoint) / "best").is_dir() else Path(checkpoint)
    predictor = Predictor.from_checkpoint(folder, flips=flips, batch_size=batch_size, device=device)
    config = Config.from_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    data = config.data if root is None else replace(config.data, root=root, prepare=None)
    opened = open_data(data)
    if len(opened.info.classes) != len(predictor.classes):
        theirs, ours = ", ".join(opened.info.classes), ", ".join(predictor.classes)
        raise InputError(f"{data.root}: its classes ({theirs}) are not as many as the checkpoint's ({ours})")
    samples = opened.samples(split)
    faults = check_samples(samples, opened.info).faults
    if faults or not samples:
        raise InputError("\n".join(faults) or f"{data.root}: split {split} has no pictures")
    return _measure(predictor, samples, opened.info, full_size)


def _measure(predictor: Predictor, samples: Sequence[Sample], info: LabelInfo, full_size: bool) -> dict[str, Any]:
    metrics = SegmentationMetrics(info.classes)
    resize = None if full_size else predictor.preprocess.resize
    for sample in tqdm(samples, desc="evaluate", leave=False, disable=None):
        image, label = read_image(sample.image), read_label(sample, info)
        if resize is not None:
            image, label = predictor.preprocess.scale(image, name=str(sample.image)), resize_mask(label, resize)
        predicted = predictor(image, name=str(sample.image))
        metrics.update(torch.from_numpy(predicted).long()[None], torch.from_numpy(label).long()[None])
    return metrics.compute()

"""What a network does to a few pictures, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from kanseg.data import SegmentationDataset
from kanseg.data.drawing import viewable
from kanseg.data.images import read_image
from kanseg.inference.evaluate import predicted_labels
from kanseg.training.pictures import sample_cells, sheet


def evenly(total: int, count: int) -> list[int]:
    """At most `count` indices, evenly over range(total), the first and the last among them."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(count, total))})


@torch.no_grad()
def preview(model: nn.Module, dataset: SegmentationDataset, *, count: int, tile: Sequence[int] | None, device: torch.device) -> np.ndarray:
    """`count` samples, always the same, as rows of image | truth | prediction | error: (H, W, 3) uint8."""
    was_training = model.training
    model.eval()
    rows, names = [], []
    for index in evenly(len(dataset), count):
        item, sample = dataset[index], dataset.samples[index]
        predicted = predicted_labels(model, item["image"][None].to(device), tile, task=dataset.info.task, batch_size=4)[0].cpu().numpy()
        image = dataset.preprocess.scale(read_image(sample.image), name=str(sample.image))
        rows.append(sample_cells(viewable(image), item["mask"].numpy(), predicted, dataset.info.colours))
        names.append(sample.name)
    model.train(was_training)
    return sheet(rows, names, dataset.info.classes, dataset.info.colours)

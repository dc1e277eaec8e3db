"""Predictions of a few samples as one image, for TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from kanseg.data import SegmentationDataset
from kanseg.visualization.panels import evenly, predicted_cells, sample_grid


def preview(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    count: int,
    tile: Sequence[int] | None,
    device: torch.device,
) -> np.ndarray:
    """Draw `count` samples, always the same, as rows of image | ground truth | prediction |
    error: (H, W, 3) uint8.
    """
    chosen = evenly(range(len(dataset)), count)
    cells = predicted_cells(model, dataset, chosen, tile=tile, device=device)
    rows, names = [], []
    for index in chosen:
        rows.append(cells[index])
        names.append(dataset.samples[index].name)
    spec = dataset.label_spec
    return sample_grid(rows, names, spec.classes, spec.colors)

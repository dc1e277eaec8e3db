"""Predictions of a few samples as one image, for trackers."""

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
    """`count` samples, always the same, as rows of image | truth | prediction | error: (H, W, 3)
    uint8.
    """
    chosen = evenly(range(len(dataset)), count)
    cells = predicted_cells(model, dataset, chosen, tile=tile, device=device)
    return sample_grid(
        [cells[i] for i in chosen],
        [dataset.samples[i].name for i in chosen],
        dataset.label_spec.classes,
        dataset.label_spec.colors,
    )

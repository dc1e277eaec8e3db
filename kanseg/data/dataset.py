"""Samples -> tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanseg.data.folder import Sample
from kanseg.data.image_sources import ImageSource
from kanseg.data.images import image_mode, read_image
from kanseg.data.info import LabelInfo
from kanseg.data.labels import read_label
from kanseg.data.preprocess import Preprocess, resize_mask
from kanseg.data.transforms import Augmentation, sample_seed


class SegmentationDataset(Dataset):
    """Items are {"image": (C, H, W) float32, "mask": (H, W) int64 with 255 = ignored, "index": int}.

    An item is asked for by (epoch, index), or by index for epoch 0; its random numbers depend on (seed, epoch, index) only.

    Args:
        samples: what to read.
        info: what the mask values mean.
        preprocess: scaling and normalisation, shared with prediction.
        augmentation: None for evaluation.
        seed: of the augmentation.
    """

    def __init__(self, samples: Sequence[Sample], info: LabelInfo, preprocess: Preprocess, *, augmentation: Augmentation | None = None, seed: int = 0):
        self.samples = list(samples)
        self.info = info
        self.preprocess = preprocess
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def one_size(self) -> bool:
        """Whether all pictures, before augmentation, have the same size (by their headers)."""
        return self.preprocess.resize is not None or len({image_mode(sample.image)[1] for sample in self.samples}) <= 1

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.samples[index]
        image = self.preprocess.scale(read_image(sample.image), name=str(sample.image))
        mask = read_label(sample, self.info)
        if self.preprocess.resize is not None:
            mask = resize_mask(mask, self.preprocess.resize)
        if self.augmentation is not None:
            image, mask = self.augmentation(image, mask, sample_seed(self.seed, epoch, index), name=str(sample.image))
        return {"image": self.preprocess.normalise(image), "mask": torch.from_numpy(mask.astype(np.int64)), "index": index}


def channel_statistics(source: Sequence[Sample] | ImageSource, preprocess: Preprocess, *, at_most: int = 256) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (at most 256, evenly chosen) pictures, in [0, 1] after the gamma."""
    chosen = (source[int(i)] for i in np.linspace(0, len(source) - 1, min(at_most, len(source))))
    count, total, square = 0, np.zeros(preprocess.channels), np.zeros(preprocess.channels)
    for item in chosen:
        image, name = (read_image(item.image), str(item.image)) if isinstance(item, Sample) else (item[0], item[2])
        values = preprocess.encode(preprocess.scale(image, name=name)).reshape(-1, preprocess.channels).astype(np.float64)
        count += len(values)
        total += values.sum(axis=0)
        square += (values**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 1e-6))
    return tuple(round(float(v), 6) for v in mean), tuple(round(float(v), 6) for v in std)

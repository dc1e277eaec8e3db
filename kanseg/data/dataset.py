"""Samples -> tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanseg.data.collate import finish, raw_image
from kanseg.data.label_spec import LabelSpec
from kanseg.data.labels import read_label
from kanseg.data.preprocess import Preprocess, resize_mask
from kanseg.data.sample import Sample, read_sample_image, sample_image_mode
from kanseg.data.transforms import Augmentation, sample_seed


class SegmentationDataset(Dataset):
    """Items are {"image": (C, H, W) float32, "mask": (H, W) or multilabel (N, H, W) int64 with 255
    = ignored, "index": int}.

    An item is asked for by (epoch, index), or by index for epoch 0; its random numbers depend on
    (seed, epoch, index) only.

    Args:
        samples: what to read.
        info: what the mask values mean.
        preprocess: scaling and normalization, shared with prediction.
        augmentation: None for evaluation.
        seed: of the augmentation.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        info: LabelSpec,
        preprocess: Preprocess,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        self.samples = list(samples)
        self.info = info
        self.preprocess = preprocess
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def one_size(self) -> bool:
        """Whether all images, before augmentation, have the same size (by their headers)."""
        return (
            self.preprocess.resize is not None
            or len({sample_image_mode(sample)[1] for sample in self.samples}) <= 1
        )

    def raw(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        """The item before its bytes become numbers (`raw_image`): "mask" uint8."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.samples[index]
        decoded = read_sample_image(sample)
        image = self.preprocess.scale(decoded, name=str(sample.image))
        mask = read_label(sample, self.info, image=decoded)
        if self.preprocess.resize is not None:
            mask = resize_mask(mask, self.preprocess.resize)
        if self.augmentation is not None:
            image, mask = self.augmentation(
                image, mask, sample_seed(self.seed, epoch, index), name=str(sample.image)
            )
        return {
            "image": raw_image(image, self.preprocess),
            "mask": torch.from_numpy(np.require(mask, requirements=["C", "W"])),
            "index": index,
        }

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        return finish(self.raw(key), self.preprocess)

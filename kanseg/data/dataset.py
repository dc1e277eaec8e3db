"""Datasets of PyTorch: load samples as tensors."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanseg.data.label_spec import LabelSpec
from kanseg.data.labels import read_label
from kanseg.data.preprocess import Preprocess, resize_mask
from kanseg.data.sample import Sample, read_sample_image, sample_image_mode
from kanseg.data.transforms import Augmentation, sample_seed

T = TypeVar("T", bound="ImageDataset")


class ImageDataset(Dataset, ABC):
    """Base class of the datasets: preprocessing, and the seed of the augmentation.

    An item is `dataset[epoch, index]`, whose random numbers depend only on (seed, epoch, index), or
    `dataset[index]`, as a plain DataLoader asks for it, which draws them anew at every call. Then
    they come from torch's generator, as those of torchvision's transforms do: `torch.manual_seed`
    makes an epoch reproducible, for the same number of workers, and workers that persist draw on.

    Args:
        preprocess: scaling and normalization, shared with prediction.
        seed: of the augmentation.
    """

    def __init__(self, preprocess: Preprocess, seed: int):
        self.preprocess = preprocess
        self.seed = seed
        self.normalizes = True

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]: ...

    def position(self, key: int | tuple[int, int]) -> int:
        """Return the index of an item from 0 on; as in all sequences of Python, -1 is the last.

        Raises:
            IndexError: there is no such item.
        """
        index = key[1] if isinstance(key, tuple) else key
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range: there are {len(self)} samples")
        return index % len(self)

    def augmentation_seed(self, key: int | tuple[int, int]) -> int:
        """Return the seed of the random numbers of an item."""
        if isinstance(key, tuple):
            epoch = key[0]
        else:
            epoch = int(torch.randint(2**31, (), device="cpu"))
        return sample_seed(self.seed, epoch, self.position(key))

    def without_normalization(self: T) -> T:
        """Return a view of the dataset whose 8-bit images are uint8 (H, W, C), and masks uint8.

        Workers send a quarter of the bytes to the main process; `kanseg.data.loader` normalizes
        the images on the device.
        """
        view = copy.copy(self)
        view.normalizes = False
        return view

    def to_tensor(self, image: np.ndarray) -> Tensor:
        """Normalize a scaled image: (H, W, C) -> (C, H, W) float32. Without normalization, uint8
        stays (H, W, C).
        """
        if self.normalizes or image.dtype != np.uint8:
            return self.preprocess.normalize(image)
        return torch.from_numpy(np.require(image, requirements=["C", "W"]))


class SegmentationDataset(ImageDataset):
    """Images with masks as tensors: items are {"image": (C, H, W) float32, "mask": int64 (H, W), or
    (N, H, W) for a multilabel task, "index": int}; mask values of 255 are ignored.

    Args:
        samples: files to read.
        label_spec: meaning of the mask values.
        preprocess: scaling and normalization, shared with prediction.
        augmentation: None for evaluation.
        seed: of the augmentation.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        label_spec: LabelSpec,
        preprocess: Preprocess,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        super().__init__(preprocess, seed)
        self.samples = list(samples)
        self.label_spec = label_spec
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def one_size(self) -> bool:
        """True if all images, before augmentation, have the same size (by their headers)."""
        if self.preprocess.resize is not None:
            return True
        return len({sample_image_mode(sample)[1] for sample in self.samples}) <= 1

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        index = self.position(key)
        sample = self.samples[index]
        name = str(sample.image)
        decoded = read_sample_image(sample)
        image = self.preprocess.scale(decoded, name=name)
        mask = read_label(sample, self.label_spec, image=decoded)
        if self.preprocess.resize is not None:
            mask = resize_mask(mask, self.preprocess.resize)
        if self.augmentation is not None:
            seed = self.augmentation_seed(key)
            image, mask = self.augmentation(image, mask, seed, name=name)
        target = torch.from_numpy(np.require(mask, requirements=["C", "W"]))
        if self.normalizes:
            target = target.long()
        return {"image": self.to_tensor(image), "mask": target, "index": index}

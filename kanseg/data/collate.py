"""The way of samples out of the processes that read them: as few bytes as they are, which become
numbers where the network is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from kanseg.data.preprocess import Preprocess


class RawItems(Dataset):
    """The samples of a data set as its `raw` gives them, for a DataLoader with `collate`.

    Args:
        dataset: items are `finish(dataset.raw(key), dataset.preprocess)`; of one without `raw` the
            items themselves, images as floats, are handed over.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self._read = getattr(dataset, "raw", dataset.__getitem__)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor | int]:
        return self._read(key)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        """The samples of a batch; where some are bytes and some are numbers, as 8-bit and 16-bit
        images are, all become numbers here.
        """
        items = [self._read(key) for key in keys]
        preprocess = getattr(self.dataset, "preprocess", None)
        if preprocess is None or len({item["image"].dtype for item in items}) < 2:
            return items
        return [item | {"image": _normalized(item["image"], preprocess)} for item in items]

    def finish(
        self, batch: dict[str, Any], device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """The batch that the items themselves would make, its images and masks on the device."""
        return finish(batch, getattr(self.dataset, "preprocess", None), device)


def raw_image(image: np.ndarray, preprocess: Preprocess) -> Tensor:
    """A scaled image (H, W, C): of bytes as it is, uint8; of other values normalized, (C, H, W)
    float32.
    """
    return (
        torch.from_numpy(np.require(image, requirements=["C", "W"]))
        if image.dtype == np.uint8
        else preprocess.normalize(image)
    )


def _normalized(image: Tensor, preprocess: Preprocess) -> Tensor:
    return preprocess.normalize_bytes(image) if image.dtype == torch.uint8 else image


def collate(items: Sequence[dict[str, Tensor | int]]) -> dict[str, Tensor | list[int]]:
    """Raw items -> a raw batch; numbers stay a list, since a tensor more is a file descriptor more
    for the other process.
    """
    columns = {key: [item[key] for item in items] for key in items[0]}
    return {
        key: column if isinstance(column[0], int) else default_collate(column)
        for key, column in columns.items()
    }


def finish(
    raw: dict[str, Any], preprocess: Preprocess | None, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """A raw item or batch -> the item or batch: "image" (..., C, H, W) normalized float32, "mask"
    int64, both on the device; lists become int64 tensors.
    """
    result = {
        key: torch.tensor(value) if isinstance(value, list) else value for key, value in raw.items()
    }
    for key in ("image", "mask"):
        if key in raw:
            result[key] = raw[key].to(device, non_blocking=True)
    if result["image"].dtype == torch.uint8 and preprocess is not None:
        result["image"] = preprocess.normalize_bytes(result["image"])
    if "mask" in raw:
        result["mask"] = result["mask"].long()
    return result

"""DataLoaders for training and evaluation.

Workers return uint8 images and masks, a quarter of the bytes of float32; `to_device` normalizes
them on the device.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from kanseg.data.preprocess import Preprocess
from kanseg.utils.errors import InputError


def make_loader(
    dataset: Dataset, *, workers: int = 0, indices: Sequence[int] | None = None, **options: Any
) -> DataLoader:
    """Return a DataLoader of uint8 images; call `to_device` on each batch. A dataset with
    augmentation needs a sampler of (epoch, index).

    Args:
        dataset: `SegmentationDataset`, `ClassificationDataset`, or any other, whose items are
            loaded unchanged.
        workers: processes that load samples.
        indices: samples to load; all by default.
        options: of `torch.utils.data.DataLoader`.
    """
    preprocess = getattr(dataset, "preprocess", None)
    if hasattr(dataset, "without_normalization"):
        dataset = dataset.without_normalization()
    if indices is not None:
        dataset = torch.utils.data.Subset(dataset, indices)
    return DataLoader(
        dataset,
        num_workers=workers,
        worker_init_fn=leave_signals_to_main_process,
        collate_fn=partial(collate, preprocess=preprocess),
        # A loader draws a number whenever it starts. It has a generator of its own, so that a
        # resumed run, which starts it once more, draws the same numbers for everything else.
        generator=torch.Generator(),
        **options,
    )


def collate(
    items: Sequence[dict[str, Tensor | int]], preprocess: Preprocess | None = None
) -> dict[str, Tensor | list[int]]:
    """Collate items into a batch. Integers stay a list: each tensor costs a worker a file
    descriptor.

    If a batch has both uint8 images and normalized floats (in a data set of 8-bit and 16-bit
    images), the uint8 images are normalized here.
    """
    columns: dict[str, list[Any]] = {key: [item[key] for item in items] for key in items[0]}
    images = columns.get("image", [])
    if preprocess is not None and len({image.dtype for image in images}) > 1:
        columns["image"] = [normalize(image, preprocess) for image in images]
    batch = {}
    for key, column in columns.items():
        if not isinstance(column[0], int):
            column = default_collate(column)
        batch[key] = column
    return batch


def to_device(
    batch: dict[str, Any], device: torch.device | str, preprocess: Preprocess | None
) -> dict[str, Tensor]:
    """Move a batch to the device and normalize it there.

    "image" becomes (B, C, H, W) float32, "mask" int64; lists of integers become int64 tensors on
    the CPU.
    """
    result = dict(batch)
    for key, value in batch.items():
        if isinstance(value, list):
            result[key] = torch.tensor(value)
    if "image" in batch:
        image = batch["image"].to(device, non_blocking=True)
        if preprocess is not None:
            image = normalize(image, preprocess)
        result["image"] = image
    if "mask" in batch:
        result["mask"] = batch["mask"].to(device, non_blocking=True).long()
    return result


def normalize(image: Tensor, preprocess: Preprocess) -> Tensor:
    """Normalize uint8 (..., H, W, C) to (..., C, H, W) float32; floats are normalized already."""
    if image.dtype != torch.uint8:
        return image
    return preprocess.normalize_bytes(image)


@contextmanager
def unwrap_worker_errors() -> Iterator[None]:
    """Remove the traceback that torch adds to the message of an InputError in a worker."""
    try:
        yield
    except InputError as error:
        if "Original Traceback" not in str(error):
            raise
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None


def leave_signals_to_main_process(_: int) -> None:
    """Ignore SIGINT (Ctrl-C) and SIGTERM in a worker (`worker_init_fn`). They reach the whole
    process group; only a SIGTERM of the main process ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()


def _exit_on_sigterm_of_parent() -> None:
    # The main process terminates its workers when it exits, and joins them: a worker that ignored
    # this signal would block it forever.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

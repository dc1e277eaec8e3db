"""DataLoaders for training and evaluation.

Workers return uint8 images and masks, a quarter of the bytes of float32; `to_device` normalizes
them on the device of the network.
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
    """A DataLoader of uint8 images; call `to_device` on each batch.

    Args:
        dataset: `SegmentationDataset`, `ClassificationDataset`, or any other, whose items are
            loaded as they are.
        workers: processes that read.
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
        # A loader draws a number whenever it starts: from a generator of its own, so that a
        # resumed run, which starts it once more, has the same numbers for everything else.
        generator=torch.Generator(),
        **options,
    )


def collate(
    items: Sequence[dict[str, Tensor | int]], preprocess: Preprocess | None = None
) -> dict[str, Tensor | list[int]]:
    """Items -> a batch. Integers stay a list: each tensor costs a worker a file descriptor.

    In a data set of 8-bit and 16-bit images, bytes and normalized floats can meet in a batch; the
    bytes are normalized here then.
    """
    columns: dict[str, list[Any]] = {key: [item[key] for item in items] for key in items[0]}
    images = columns.get("image", [])
    if preprocess is not None and len({image.dtype for image in images}) > 1:
        columns["image"] = [normalize(image, preprocess) for image in images]
    batch = {}
    for key, column in columns.items():
        batch[key] = column if isinstance(column[0], int) else default_collate(column)
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
        result["image"] = image if preprocess is None else normalize(image, preprocess)
    if "mask" in batch:
        result["mask"] = batch["mask"].to(device, non_blocking=True).long()
    return result


def normalize(image: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 (..., H, W, C) -> normalized (..., C, H, W) float32; floats are normalized already."""
    return preprocess.normalize_bytes(image) if image.dtype == torch.uint8 else image


@contextmanager
def unwrap_worker_errors() -> Iterator[None]:
    """Reduce the InputError of a worker to its message: torch puts a traceback around it."""
    try:
        yield
    except InputError as error:
        if "Original Traceback" not in str(error):
            raise
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None


def leave_signals_to_main_process(_: int) -> None:
    """`worker_init_fn`: ignore SIGINT (Ctrl-C) and SIGTERM, which reach the whole process group,
    unless the main process sends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()


def _exit_on_sigterm_of_parent() -> None:
    # At its exit the main process terminates its workers and joins them: one that ignored this
    # signal would block it forever.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

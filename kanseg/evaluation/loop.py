"""The evaluation loop of training, `kanseg evaluate` and export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset

from kanseg.data.loader import make_loader, to_device, unwrap_worker_errors
from kanseg.utils.iteration import progress_bar


@torch.no_grad()
def evaluate(
    predict: Callable[[dict[str, Tensor]], Tensor],
    dataset: Dataset,
    update: Callable[[Tensor, Tensor, list[int]], None],
    *,
    target: str = "mask",
    batch_size: int = 1,
    workers: int = 0,
    accelerator: Accelerator | None = None,
    title: str = "evaluate",
) -> None:
    """Predict every sample of a dataset, and update metrics with the predictions.

    With several processes, each takes every n-th sample; `gather_images` merges their metrics.

    Args:
        predict: batch (`kanseg.data.loader.to_device`) -> predictions (B, ...).
        dataset: its items have the target, "index" and what `predict` needs; no augmentation.
        update: called with (predictions, target on the same device, indices of the samples).
        target: key of the target in an item.
        batch_size: samples per batch.
        workers: processes that load samples.
        accelerator: device and processes; by default the CPU and this process.
        title: of the progress bar.
    """
    rank, world_size, device = 0, 1, torch.device("cpu")
    show = True
    if accelerator is not None:
        rank, world_size = accelerator.process_index, accelerator.num_processes
        device = accelerator.device
        show = accelerator.is_main_process
    indices = range(rank, len(dataset), world_size)
    loader = make_loader(dataset, indices=indices, batch_size=batch_size, workers=workers)
    preprocess = getattr(dataset, "preprocess", None)
    with unwrap_worker_errors():
        for batch in progress_bar(loader, title=title, show=show):
            batch = to_device(batch, device, preprocess)
            predicted = predict(batch)
            update(predicted, batch[target].to(predicted.device), batch["index"].tolist())


def gather_images(metrics: Any, accelerator: Accelerator) -> None:
    """Merge the metrics of all processes, in every process.

    Args:
        metrics: `SegmentationMetrics`, or others with `per_image` and `merge`.
        accelerator: the processes.
    """
    if accelerator.num_processes > 1:
        for images in gather_object([metrics.per_image]):
            metrics.merge(images)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode within the context; restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

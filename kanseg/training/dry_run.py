"""What a network is tried with before the run folder is opened: a batch as small as they come, a
batch as large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import memory
from torch import Tensor, nn
from torch.utils.data import Dataset

from kanseg.layers import Penalty
from kanseg.models.operations import left_as_found
from kanseg.training.batches import BatchPlan
from kanseg.training.task import Task
from kanseg.utils.errors import InputError

SAMPLES = 8  # whose sizes are looked at where images come one by one
TOO_SMALL = (
    "Expected more than 1 value per channel",
    "Expected more than 1 spatial element",
)  # of batch norm, of instance norm


def forward(model: nn.Module, images: Tensor) -> Any:
    """The output of the network; InputError where a batch norm finds a single value, the others as
    they are.
    """
    try:
        return model(images)
    except ValueError as error:
        if not str(error).startswith(TOO_SMALL):
            raise
        size = "x".join(map(str, images.shape[-2:]))
        raise InputError(
            f"a batch of {len(images)} image(s) of {size} is one pixel at the bottom of the"
            " network, which a norm over its pixels cannot train on; use larger images or"
            " batches, a smaller model.options.depth, or model.options.norm: layer"
        ) from None


def try_smallest(
    model: nn.Module, dataset: Dataset, plan: BatchPlan, accelerator: Accelerator
) -> None:
    """One forward pass in training mode of the smallest batch and image that the run will see;
    the network is left as it was.

    Raises:
        InputError: a norm cannot train on it.
    """
    image = min(_items(dataset, plan.batch_size), key=_area)["image"].to(accelerator.device)
    network = accelerator.unwrap_model(model)
    with left_as_found(network, training=True), torch.no_grad(), accelerator.autocast():
        forward(
            network, _repeated(image, min(plan.sizes[0], 2))
        )  # a norm that two images are too few for finds more too few as well


def find_batch_size(
    model: nn.Module,
    task: Task,
    dataset: Dataset,
    accelerator: Accelerator,
    *,
    loss: Callable[[Any, Tensor], Tensor],
    penalty: Penalty,
) -> tuple[int, int]:
    """(batch_size, accumulate) with the largest batch, of batch_size and its halves, of which a
    training step fits into memory on every process.

    `accumulate` doubles with every halving. Nothing is left of the steps that are tried.

    Args:
        model: prepared, on its device.
        task: what is trained for; its config has the sizes to begin with.
        dataset: the training set.
        accelerator: device, precision and processes.
        loss, penalty: of a training step.

    Raises:
        InputError: a single image does not fit.
    """
    settings, network = task.config.training, accelerator.unwrap_model(model)
    size, accumulate = settings.batch_size, settings.accumulate
    item = max(_items(dataset, size), key=_area)
    while True:
        largest = BatchPlan(len(dataset), size, seed=0, world_size=accelerator.num_processes).sizes[
            1
        ]
        images, target = (
            _repeated(torch.as_tensor(item[key]), largest) for key in ("image", task.target)
        )
        fits = _fits(
            network,
            images,
            target,
            mix=task.mix,
            loss=loss,
            penalty=penalty,
            accelerator=accelerator,
        )
        if _everywhere(fits, accelerator):
            return size, accumulate
        memory.clear_device_cache(garbage_collection=True)
        if size == 1:
            shape = "x".join(map(str, item["image"].shape[-2:]))
            raise InputError(
                f"training.find_batch_size: a step on one image of {shape} does not fit into the"
                f" memory of {accelerator.device}"
            )
        size, accumulate = size // 2, accumulate * 2


def _items(dataset: Dataset, batch_size: int) -> list[dict[str, Any]]:
    """One training sample where all have one shape, else (they come one by one) a few."""
    count = 1 if batch_size > 1 else min(SAMPLES, len(dataset))
    return [dataset[(0, index * len(dataset) // count)] for index in range(count)]


def _area(item: dict[str, Any]) -> int:
    return item["image"][0].numel()


def _repeated(sample: Tensor, count: int) -> Tensor:
    return sample.expand(count, *sample.shape).contiguous()


def _everywhere(fits: bool, accelerator: Accelerator) -> bool:
    if accelerator.num_processes == 1:
        return fits
    return bool(
        accelerator.reduce(torch.tensor(int(fits), device=accelerator.device), "sum")
        == accelerator.num_processes
    )


def _fits(
    network: nn.Module,
    images: Tensor,
    target: Tensor,
    *,
    mix: Callable,
    loss: Callable,
    penalty: Penalty,
    accelerator: Accelerator,
) -> bool:
    """Whether the gradients of a batch fit beside the weights and what an optimizer keeps
    of them.
    """
    try:
        moments = [
            torch.empty_like(parameter) for parameter in network.parameters() for _ in range(2)
        ]
        images, target = mix(images.to(accelerator.device), target.to(accelerator.device), 0)
        with left_as_found(network, training=True):
            with accelerator.autocast():
                output = forward(network, images)
            (loss(output, target) + penalty()).backward()
        del moments
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        return False
    finally:
        penalty()  # forgets what a forward pass that was broken off has collected
        network.zero_grad(set_to_none=True)
    return True


def _out_of_memory(error: Exception) -> bool:
    # accelerate does not know the CPU allocator's words on Windows
    known = isinstance(
        error, (torch.OutOfMemoryError, MemoryError)
    ) or memory.should_reduce_batch_size(error)
    return known or "not enough memory" in str(error)

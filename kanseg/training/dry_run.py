"""Run a network before anything is written: on the smallest batch of the run, and to find the
largest batch that fits into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import memory
from torch import Tensor, nn
from torch.utils.data import Dataset

from kanseg.models.operations import preserve_state
from kanseg.training.batches import BatchPlan
from kanseg.training.processes import any_process
from kanseg.training.state import TrainState
from kanseg.training.task import Task
from kanseg.utils.errors import InputError

SAMPLES = 8  # number of samples whose sizes are compared with a batch size of 1
TOO_SMALL = (  # messages of batch norm and of instance norm
    "Expected more than 1 value per channel",
    "Expected more than 1 spatial element",
)


@contextmanager
def explain_norm_errors(images: Tensor) -> Iterator[None]:
    """Convert the error of a norm layer that gets a single value per channel to an InputError: the
    images (B, C, H, W) are too small for the depth of the network.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(TOO_SMALL):
            raise
        size = "x".join(map(str, images.shape[-2:]))
        raise InputError(
            "a batch of {count} images of {size} pixels (height x width) is one pixel at the"
            " bottom of the network, and the norm there cannot train on one pixel; use larger"
            " images or batches, a smaller model.options.depth, or model.options.norm: layer",
            count=len(images),
            size=size,
        ) from None


def dry_run(state: TrainState, dataset: Dataset, plan: BatchPlan) -> None:
    """Run the smallest batch and image of the run forward, in training mode; the network does not
    change.

    Raises:
        InputError: a norm layer cannot train on the batch.
    """
    accelerator = state.accelerator
    samples = _samples(dataset, plan.batch_size)
    image = min(samples, key=_area)["image"].to(accelerator.device)
    # a norm layer that cannot train on two images cannot train on more either
    images = _repeat(image, min(plan.sizes[0], 2))
    with (
        preserve_state(state.network, training=True),
        torch.no_grad(),
        accelerator.autocast(),
        explain_norm_errors(images),
    ):
        state.network(images)


def find_batch_size(state: TrainState, task: Task, dataset: Dataset) -> tuple[int, int]:
    """Find the largest batch size, of batch_size and its halves, with which a training step fits
    into memory in every process. The test steps change nothing.

    Args:
        state: the network, on its device.
        task: its settings have the initial sizes.
        dataset: the training set.

    Returns:
        (batch_size, accumulate); accumulate doubles with every halving.

    Raises:
        InputError: a single image does not fit.
    """
    settings, accelerator = task.config.training, state.accelerator
    size, accumulate = settings.batch_size, settings.accumulate
    sample = max(_samples(dataset, size), key=_area)
    target = torch.as_tensor(sample[task.target])
    while True:
        plan = BatchPlan(len(dataset), size, seed=0, world_size=accelerator.num_processes)
        largest = plan.sizes[1]
        fits = _fits(state, task, _repeat(sample["image"], largest), _repeat(target, largest))
        if not any_process(not fits, accelerator):
            return size, accumulate
        memory.clear_device_cache(garbage_collection=True)
        if size == 1:
            shape = "x".join(map(str, sample["image"].shape[-2:]))
            raise InputError(
                "training.find_batch_size: a step on one image of {shape} pixels (height x"
                " width) does not fit into the memory of {device}",
                shape=shape,
                device=accelerator.device,
            )
        size, accumulate = size // 2, accumulate * 2


def _samples(dataset: Dataset, batch_size: int) -> list[dict[str, Any]]:
    """Return one training sample, or several for a batch size of 1, where shapes can differ."""
    count = 1
    if batch_size == 1:
        count = min(SAMPLES, len(dataset))
    return [dataset[(0, index * len(dataset) // count)] for index in range(count)]


def _area(sample: dict[str, Any]) -> int:
    return sample["image"][0].numel()


def _repeat(value: Tensor, count: int) -> Tensor:
    return value.expand(count, *value.shape).contiguous()


def _fits(state: TrainState, task: Task, images: Tensor, target: Tensor) -> bool:
    """True if the gradients of a batch fit into memory together with the weights and two tensors of
    their size, the state of an optimizer.
    """
    network: nn.Module = state.network
    device = state.accelerator.device
    try:
        moments = []
        for parameter in network.parameters():
            moments += [torch.empty_like(parameter), torch.empty_like(parameter)]
        images, target = task.mix(images.to(device), target.to(device), 0)
        with preserve_state(network, training=True):
            with state.accelerator.autocast(), explain_norm_errors(images):
                output = network(images)
            (task.loss(output, target) + state.penalty()).backward()
        del moments
    except (torch.OutOfMemoryError, MemoryError):
        return False
    except RuntimeError as error:
        # accelerate does not know the message of the CPU allocator on Windows
        if memory.should_reduce_batch_size(error) or "not enough memory" in str(error):
            return False
        raise
    finally:
        state.penalty()  # clears the values that an interrupted forward pass has collected
        network.zero_grad(set_to_none=True)
    return True

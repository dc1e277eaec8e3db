"""The processes of a run: the Accelerator, and values that all processes agree on."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from kanseg.training.optim.optimizers import NEEDS_CLOSURE
from kanseg.utils.environment import launched_processes
from kanseg.utils.errors import InputError


def make_accelerator(precision: str, *, freezes: bool = False) -> Accelerator:
    """Create an Accelerator for all processes of the run.

    Args:
        precision: `training.precision`.
        freezes: some parameters have no gradient in some epochs.
    """
    # otherwise a second run in this process could not use another precision
    AcceleratorState._reset_state()
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=freezes)]
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=handlers)
    if accelerator.num_processes == 1 and launched_processes() > 1:
        # Without a GPU, Accelerate treats them as separate runs unless cpu=True.
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(mixed_precision=precision, cpu=True, kwargs_handlers=handlers)
    return accelerator


def check_precision(accelerator: Accelerator, optimizer: str) -> None:
    """Check that the device and the optimizer can train at this precision.

    Raises:
        InputError: fp16 on the CPU, or with an optimizer that cannot scale its losses.
    """
    if accelerator.mixed_precision != "fp16":
        return
    if accelerator.device.type == "cpu":
        raise InputError("training.precision fp16 needs a GPU; use bf16 or no on the CPU")
    if optimizer in NEEDS_CLOSURE:
        raise InputError(
            f"{optimizer} cannot scale its losses for training.precision fp16; use bf16 or no"
        )


def check_can_freeze(accelerator: Accelerator) -> None:
    """Check that parameters can be frozen in some epochs.

    Raises:
        InputError: FSDP, which shards parameters with their gradients.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        raise InputError(
            "training.freeze_encoder_epochs: an encoder cannot be frozen under FSDP; set it to 0"
        )


def check_can_refine(accelerator: Accelerator) -> None:
    """Check that functions can be refined.

    Raises:
        InputError: FSDP, which shards the weights that are refitted.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        raise InputError(
            "training.refine: functions cannot be refined under FSDP, which shards their weights;"
            " use several processes without FSDP"
        )


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """True if the flag is set in any process of the run; all processes must call it."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(int(flag), device=accelerator.device)
    return bool(accelerator.reduce(flags, "sum") > 0)


def mean_over_processes(value: float, accelerator: Accelerator) -> float:
    """Return the mean of a number over all processes; all processes must call it."""
    if accelerator.num_processes == 1:
        return value
    return float(accelerator.reduce(torch.tensor(value, device=accelerator.device), "mean"))

"""The processes of a run: the Accelerator, and values that all processes agree on."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from kanseg.training.optim.optimizers import NEEDS_CLOSURE
from kanseg.utils.environment import launched_processes
from kanseg.utils.errors import InputError


def make_accelerator(precision: str) -> Accelerator:
    """Create an Accelerator for `training.precision` and all processes of the run."""
    # otherwise a second run in this process could not use another precision
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision)
    if accelerator.num_processes == 1 and launched_processes() > 1:
        # Without a GPU, Accelerate treats them as separate runs unless cpu=True.
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(mixed_precision=precision, cpu=True)
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

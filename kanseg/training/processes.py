"""The processes of a run: how they find each other, and what they decide together."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from kanseg.utils.environment import launched_processes


def make_accelerator(precision: str) -> Accelerator:
    """An Accelerator for `training.precision`, over all processes that were launched together."""
    # else a second run in one process could not choose another precision
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision)
    if accelerator.num_processes == 1 and launched_processes() > 1:
        # Without a GPU Accelerate takes them for runs of their own, unless the CPU is asked for.
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(mixed_precision=precision, cpu=True)
    return accelerator


def anywhere(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set in any process of the run; all of them must ask."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(int(flag), device=accelerator.device)
    return bool(accelerator.reduce(flags, "sum") > 0)

"""Learning-rate schedules by name, and the schedulers that apply them to an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kanseg.training.optim.options import check_options
from kanseg.utils.registry import Registry

# name -> (step, *, total, warmup, further options) -> factor on the peak learning rate at that
# step, from 0 to total - 1. `warmup` is the share of all steps over which the factor rises linearly
# from 1/25 (of "one_cycle": in its own shape).
SCHEDULES: Registry[Callable[..., float]] = Registry("schedule")
WARMUP_START = 0.04
PLATEAU = {"factor": 0.5, "patience": 5, "min_factor": 0.0}  # options of the schedule "plateau"


@SCHEDULES.register("cosine")
def warmup_cosine(step: int, *, total: int, warmup: float) -> float:
    """Factor on the peak learning rate: linear from 1/25 over the share `warmup` of all steps, then
    a cosine to 0.
    """
    rising = warmup * total
    if step < rising:
        return _rise(step, rising)
    return 0.5 * (1 + math.cos(math.pi * _progress(step, total, rising)))


@SCHEDULES.register("poly")
def poly(step: int, *, total: int, warmup: float, power: float = 0.9) -> float:
    """After the warm-up (1 - t)^power down to 0, with t the share of the remaining steps that are
    done (DeepLab, arXiv:1606.00915).
    """
    rising = warmup * total
    if step < rising:
        return _rise(step, rising)
    return (1 - _progress(step, total, rising)) ** power


@SCHEDULES.register("step")
def stepped(
    step: int,
    *,
    total: int,
    warmup: float,
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
) -> float:
    """After the warm-up 1, times gamma at each milestone; milestones are shares of all steps."""
    rising = warmup * total
    if step < rising:
        return _rise(step, rising)
    # rounded, since 0.3 * 10 is a little less than 3
    passed = sum(step >= round(milestone * total, 6) for milestone in milestones)
    return gamma**passed


@SCHEDULES.register("one_cycle")
def one_cycle(
    step: int, *, total: int, warmup: float, start: float = 0.04, end: float = 4e-6
) -> float:
    """Half a cosine from `start` up to 1 over the share `warmup`, half a cosine down to `end`
    (Smith and Topin 2018, arXiv:1708.07120).

    As `torch.optim.lr_scheduler.OneCycleLR` with its default factors: the peak is at step warmup *
    total - 1, the last step has `end`.
    """
    peak = warmup * total - 1
    if step <= peak:
        return _half_cosine(start, 1.0, step / peak if peak > 0 else 1.0)
    return _half_cosine(1.0, end, min((step - peak) / max(total - 1 - peak, 1), 1.0))


@SCHEDULES.register("constant")
def constant(step: int, *, total: int, warmup: float) -> float:
    """1 after the warm-up."""
    rising = warmup * total
    if step < rising:
        return _rise(step, rising)
    return 1.0


@SCHEDULES.register("plateau")
def plateau(
    step: int,
    *,
    total: int,
    warmup: float,
    factor: float = 0.5,
    patience: int = 5,
    min_factor: float = 0.0,
) -> float:
    """1 after the warm-up, times `factor` (down to `min_factor`) after more than `patience`
    validations without an improvement (`PlateauLR`).
    """
    return constant(step, total=total, warmup=warmup)


def create_schedule(
    name: str, *, total: int, warmup: float, **options: object
) -> Callable[[int], float]:
    """Create a schedule by name: a function step -> factor on the learning rate, for
    `torch.optim.lr_scheduler.LambdaLR`.

    Raises:
        ValueError: an unknown name or option, less than one step, a warm-up outside [0, 1].
    """
    if total < 1 or not 0 <= warmup <= 1:
        raise ValueError(
            f"total must be at least 1 step and warmup a share from 0 to 1, got total={total},"
            f" warmup={warmup}"
        )
    check_options(SCHEDULES[name], f"schedule {name}", options)
    return partial(SCHEDULES[name], total=total, warmup=warmup, **options)


def _rise(step: int, rising: float) -> float:
    return WARMUP_START + (1 - WARMUP_START) * step / rising


def _progress(step: int, total: int, rising: float) -> float:
    """Share of the steps after the warm-up that are done, 0 to 1."""
    return min((step - rising) / max(total - rising, 1), 1.0)


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class PlateauState:
    """The reductions of the learning rate by validations so far; stored in every checkpoint."""

    scale: float = 1.0  # factor on the learning rate
    stale: int = 0  # validations since the last improvement or reduction


class PlateauLR(LambdaLR):
    """LambdaLR that also lowers the rates when validations stop improving: the schedule "plateau".

    It reduces the rates like `ReduceLROnPlateau` with threshold 0, which cannot be combined with a
    warm-up: it multiplies the rates of the optimizer, and the scheduler of the warm-up would
    overwrite them at its next step.

    Args:
        optimizer, lr_lambda, last_epoch: as for `LambdaLR`.
        plateau: reductions so far; updated in place.
        warmup_steps: validations during the warm-up do not count.
        factor, patience, min_factor: options of the schedule.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float],
        *,
        plateau: PlateauState,
        warmup_steps: float,
        factor: float,
        patience: int,
        min_factor: float,
        last_epoch: int = -1,
    ):
        self.plateau, self.warmup_steps = plateau, warmup_steps
        self.factor, self.patience, self.min_factor = factor, patience, min_factor
        super().__init__(optimizer, lr_lambda, last_epoch=last_epoch)

    def get_lr(self) -> list[float]:
        """Return the rate of each group at this step."""
        factor = self.lr_lambdas[0](self.last_epoch)
        return [base * factor * self.plateau.scale for base in self.base_lrs]

    def step_validation(self, *, improved: bool) -> None:
        """Lower the rates after more than `patience` validations without an improvement."""
        state = self.plateau
        if improved or self.last_epoch <= self.warmup_steps:
            state.stale = 0
        elif state.stale < self.patience:
            state.stale += 1
        else:
            state.scale = max(state.scale * self.factor, self.min_factor)
            state.stale = 0
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def create_lr_scheduler(
    optimizer: Optimizer,
    settings: Any,
    *,
    total: int,
    step: int = 0,
    plateau: PlateauState | None = None,
) -> LambdaLR:
    """Create the scheduler of a training; call its `step` after each optimizer step.

    Every schedule is a closed form of the step (`create_schedule`), not one of torch's chained
    schedulers: a resumed run continues at any step, with another length or peak if the settings
    changed, and a warm-up need not be a whole number of steps.

    Args:
        optimizer: the rate of each group is its peak (`parameter_groups`).
        settings: `training` of an experiment.
        total: optimizer steps of the whole run.
        step: steps that are done.
        plateau: reductions so far, for the schedule "plateau"; updated in place.

    Raises:
        ValueError: an unknown schedule or option.
    """
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    schedule = create_schedule(
        settings.schedule, total=total, warmup=settings.warmup, **settings.schedule_options
    )
    if settings.schedule != "plateau":
        return LambdaLR(optimizer, schedule, last_epoch=step - 1)
    options = PLATEAU | settings.schedule_options
    return PlateauLR(
        optimizer,
        schedule,
        plateau=plateau or PlateauState(),
        warmup_steps=settings.warmup * total,
        last_epoch=step - 1,
        **options,
    )


def current_lr(scheduler: LambdaLR, peak: float) -> float:
    """Return the current learning rate of parameters without a rate of their own, for the log."""
    rate = peak * scheduler.lr_lambdas[0](scheduler.last_epoch)
    if isinstance(scheduler, PlateauLR):
        rate *= scheduler.plateau.scale
    return rate

"""Validate the settings of a run before any data is read."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import nn

from kanseg.inference.description import build_model
from kanseg.layers import Penalty
from kanseg.training.grids import check_refine, check_update_grid_epochs
from kanseg.training.optim.lr_scheduler import create_schedule
from kanseg.training.optim.optimizers import (
    CAN_FUSE,
    NEEDS_CLOSURE,
    create_optimizer,
    parameter_groups,
)
from kanseg.training.pretrained import check_encoder, with_encoder_lr
from kanseg.training.run_folder.trackers import import_wandb
from kanseg.training.task import Task
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

AT_LEAST = {
    "seed": 0,
    "data.split_seed": 0,
    "data.channels": 1,
    "data.workers": 0,
    "training.epochs": 1,
    "training.batch_size": 1,
    "training.accumulate": 1,
    "training.validate_every": 1,
    "training.keep": 1,
    "training.save_every": 0,
    "training.log_every": 0,
    "training.panels": 0,
    "training.patience": 0,
    "training.log_images": 0,
    "training.threads": 0,
    "training.weight_decay": 0,
}
LARGEST_LR = 1e30  # with larger rates the steps of an optimizer overflow float32
POSITIVE = ("data.gamma", "training.lr", "training.clip")


def check_settings(task: Task) -> None:
    """Validate the settings of the run, the options of the network, and the settings of the task.

    Raises:
        InputError: the first setting that cannot be used.
    """
    config = task.config
    for name, minimum in AT_LEAST.items():
        value = attrgetter(name)(config)
        if value < minimum:
            raise InputError(
                "{name} must be at least {minimum}, got {value}",
                name=name,
                minimum=minimum,
                value=value,
            )
    for name in POSITIVE:
        value = attrgetter(name)(config)
        if value is not None and not value > 0:
            raise InputError("{name} must be positive, got {value}", name=name, value=value)
    if config.training.lr > LARGEST_LR:
        raise InputError(
            "training.lr must be at most {largest_lr}, got {lr}",
            largest_lr=LARGEST_LR,
            lr=config.training.lr,
        )
    if not 0 <= config.training.warmup <= 1:
        raise InputError(
            "training.warmup must be a share from 0 to 1, got {warmup}",
            warmup=config.training.warmup,
        )
    if not 0 <= config.training.ema < 1:
        raise InputError(
            "training.ema must be a decay from 0 (no average) to below 1, such as 0.999, got {ema}",
            ema=config.training.ema,
        )
    if config.training.wandb != "no":
        import_wandb()
    task.check()
    with torch.device("meta"):  # validates the options of the model without its memory
        model = build_model(task.model_arguments())
    check_encoder(config, model)
    check_optimizer(with_encoder_lr(config, model), model)
    check_update_grid_epochs(config.training, model)
    try:
        Penalty(model, config.training.penalty)
    except ValueError as error:
        raise InputError(str(error), where="training.penalty") from None
    check_refine(config.training, model)
    pair("data.resize", config.data.resize)
    pair("data.crop", getattr(config.data, "crop", None))
    if config.training.monitor not in task.monitors:
        guess = nearest(config.training.monitor, task.monitors)
        raise InputError(
            "training.monitor {monitor!r} is not one of {monitors}{guess}",
            monitor=config.training.monitor,
            monitors=", ".join(task.monitors),
            guess=guess,
        )


def check_optimizer(settings: Any, model: nn.Module) -> None:
    """Validate optimizer, schedule and parameter groups; only the names in `model` are used.

    Raises:
        InputError: settings that cannot be used.
    """
    groups = parameter_groups(model, settings)
    if settings.optimizer in NEEDS_CLOSURE and settings.lr_factors:
        raise InputError(
            "training.lr_factors: {optimizer} has one learning rate for all parameters; leave"
            " them out, or use another optimizer",
            optimizer=settings.optimizer,
        )
    if settings.optimizer in NEEDS_CLOSURE and settings.function_lr is not None:
        raise InputError(
            "training.function_lr: {optimizer} has one learning rate for all parameters; leave"
            " it null, or use another optimizer",
            optimizer=settings.optimizer,
        )
    for group in groups:
        group["params"] = [nn.Parameter(torch.zeros(1))]
    make_optimizer(settings, groups)
    try:
        create_schedule(
            settings.schedule, total=1, warmup=settings.warmup, **settings.schedule_options
        )
    except (TypeError, ValueError) as error:
        raise InputError(str(error), where="training.schedule") from None


def make_optimizer(
    settings: Any, groups: list[dict[str, Any]], *, fused: bool = False
) -> torch.optim.Optimizer:
    """Create the optimizer of the settings.

    Args:
        settings: `training` of an experiment.
        groups: of the parameters.
        fused: use one kernel for each weight if the optimizer has one and the settings do not say.

    Raises:
        InputError: options that the optimizer does not have.
    """
    options = dict(settings.optimizer_options)
    if fused and settings.optimizer in CAN_FUSE:
        options.setdefault("fused", True)
    try:
        return create_optimizer(
            settings.optimizer,
            groups,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            **options,
        )
    except (TypeError, ValueError) as error:
        raise InputError(str(error), where="training.optimizer") from None


def check_val_split(task: Task) -> None:
    """Check that there is a split val if the settings need validations.

    Raises:
        InputError: there is no split val.
    """
    settings = task.config.training
    if "val" in task.eval_datasets:
        return
    name = None
    if settings.patience:
        name = "patience"
    elif settings.schedule == "plateau":
        name = "schedule plateau"
    if name is not None:
        raise InputError(
            "training.{name} needs scores on val, and there is no such split: name one in"
            " data.val, or leave it out",
            name=name,
        )


def check_statistics(
    name: str, values: Sequence[float] | None, channels: int, *, positive: bool = False
) -> None:
    """Check that a mean or standard deviation has a finite value per channel.

    Raises:
        InputError: other values.
    """
    if values is None:
        return
    usable = len(values) == channels and np.isfinite(values).all()
    if positive:
        usable = usable and min(values) > 0
    if not usable:
        kind = "finite, positive" if positive else "finite"
        raise InputError(
            "{name} must have {channels} {kind} values (per channel), got {values}",
            name=name,
            channels=channels,
            kind=kind,
            values=values,
        )


def pair(name: str, value: list[int] | None) -> tuple[int, int] | None:
    """Check a setting [height, width], and return it as a tuple.

    Raises:
        InputError: not two positive numbers.
    """
    if value is None:
        return None
    if len(value) != 2 or min(value) < 1:
        raise InputError(
            "{name} must be [height, width] of positive integers, got {value}",
            name=name,
            value=value,
        )
    return value[0], value[1]

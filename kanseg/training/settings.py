"""What can be wrong with settings before any data are read; told before anything is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kanseg.inference.checkpoint import build_model
from kanseg.layers import Penalty
from kanseg.training.grids import check_update_grid_epochs
from kanseg.training.optim.lr_scheduler import parameter_groups
from kanseg.training.optim.optimizers import NEEDS_CLOSURE, create_optimizer, create_schedule
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
LARGEST_LR = 1e30  # steps of optimizers overflow float32 beyond
POSITIVE = ("data.gamma", "training.lr", "training.clip")


def check_settings(task: Task) -> None:
    """Ranges of the settings that every kind of experiment has, the options of the network, and
    what the kind itself checks.

    Raises:
        InputError: the first setting that is out of its range.
    """
    config = task.config
    for name, minimum in AT_LEAST.items():
        if _get(config, name) < minimum:
            raise InputError(f"{name} must be at least {minimum}, got {_get(config, name)}")
    for name in POSITIVE:
        if _get(config, name) is not None and not _get(config, name) > 0:
            raise InputError(f"{name} must be positive, got {_get(config, name)}")
    if config.training.lr > LARGEST_LR:
        raise InputError(f"training.lr must be at most {LARGEST_LR}, got {config.training.lr}")
    if not 0 <= config.training.warmup <= 1:
        raise InputError(
            f"training.warmup must be a share from 0 to 1, got {config.training.warmup}"
        )
    if not 0 <= config.training.ema < 1:
        raise InputError(
            "training.ema must be a decay from 0 (no average) to below 1, such as 0.999, got"
            f" {config.training.ema}"
        )
    if config.training.wandb != "no":
        import_wandb()
    task.check()
    with torch.device("meta"):  # a look at the options of the model, without its memory
        model = build_model(task.model_arguments())
    check_steps(config.training, model)
    check_update_grid_epochs(config.training, model)
    try:
        Penalty(model, config.training.penalty)
    except ValueError as error:
        raise InputError(f"training.penalty: {error}") from None
    pair("data.resize", config.data.resize)
    pair("data.crop", getattr(config.data, "crop", None))
    if config.training.monitor not in task.monitors:
        guess = nearest(config.training.monitor, task.monitors)
        raise InputError(
            f"training.monitor {config.training.monitor!r} is not one of"
            f" {', '.join(task.monitors)}{guess}"
        )


def check_steps(settings: Any, model: nn.Module) -> None:
    """InputError for an optimizer, a schedule or groups of parameters that cannot be made; `model`
    is looked at for names only.
    """
    groups, _ = parameter_groups(model, settings)
    if settings.optimizer in NEEDS_CLOSURE and settings.lr_factors:
        raise InputError(
            f"training.lr_factors: {settings.optimizer} has one learning rate for all parameters;"
            " leave them out, or take another optimizer"
        )
    if settings.optimizer in NEEDS_CLOSURE and settings.function_lr is not None:
        raise InputError(
            f"training.function_lr: {settings.optimizer} has one learning rate for all parameters;"
            " leave it null, or take another optimizer"
        )
    make_optimizer(
        settings, [group | {"params": [nn.Parameter(torch.zeros(1))]} for group in groups]
    )
    try:
        create_schedule(
            settings.schedule, total=1, warmup=settings.warmup, **settings.schedule_options
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"training.schedule: {error}") from None


def make_optimizer(settings: Any, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of the settings; InputError for options that it cannot have."""
    try:
        return create_optimizer(
            settings.optimizer,
            groups,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            **settings.optimizer_options,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"training.optimizer: {error}") from None


def check_held_out(task: Task) -> None:
    """InputError where something is decided by validations, and there is no split for them."""
    settings = task.config.training
    asking = [
        name
        for name, asked in (
            ("patience", settings.patience),
            ("schedule plateau", settings.schedule == "plateau"),
        )
        if asked
    ]
    if asking and "val" not in task.held_out:
        raise InputError(
            f"training.{asking[0]} goes by the score on val, and there is no such split: name one"
            " in data.val, or leave it out"
        )


def _get(config: Any, name: str) -> float:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def pair(name: str, value: list[int] | None) -> tuple[int, int] | None:
    """[height, width] as a tuple, or an InputError."""
    if value is None:
        return None
    if len(value) != 2 or min(value) < 1:
        raise InputError(f"{name} must be [height, width] of positive integers, got {value}")
    return value[0], value[1]

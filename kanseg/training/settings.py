"""What can be wrong with settings before any data are read; told before anything is written."""

from __future__ import annotations

from typing import Any

import torch

from kanseg.checkpoint import build_model
from kanseg.errors import InputError
from kanseg.layers import Penalty
from kanseg.registry import nearest
from kanseg.training.optimisers import create_optimiser, create_schedule
from kanseg.training.task import Task

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
    "training.threads": 0,
    "training.weight_decay": 0,
}
POSITIVE = ("data.gamma", "training.lr", "training.clip")


def check_settings(task: Task) -> None:
    """Ranges of the settings that every kind of experiment has, the options of the network, and what the kind itself checks.

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
    if not 0 <= config.training.warmup <= 1:
        raise InputError(f"training.warmup must be a share from 0 to 1, got {config.training.warmup}")
    task.check()
    with torch.device("meta"):  # a look at the options of the model, without its memory
        model = build_model(task.model_arguments())
    settings = config.training
    try:
        decay = {"lr": settings.lr, "weight_decay": settings.weight_decay}
        create_optimiser(settings.optimizer, [torch.nn.Parameter(torch.zeros(1))], **decay, **settings.optimizer_options)
        create_schedule(settings.schedule, total=1, warmup=settings.warmup)
    except (TypeError, ValueError) as error:
        raise InputError(f"training.optimizer or training.schedule: {error}") from None
    try:
        Penalty(model, config.training.penalty)
    except ValueError as error:
        raise InputError(f"training.penalty: {error}") from None
    pair("data.resize", config.data.resize)
    pair("data.crop", getattr(config.data, "crop", None))
    if config.training.monitor not in task.monitors:
        guess = nearest(config.training.monitor, task.monitors)
        raise InputError(f"training.monitor {config.training.monitor!r} is not one of {', '.join(task.monitors)}{guess}")


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

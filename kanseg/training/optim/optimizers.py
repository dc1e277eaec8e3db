"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kanseg.utils.errors import InputError
from kanseg.utils.registry import Registry, nearest

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
# name -> (parameters or groups of them, *, lr, weight_decay, further options) -> optimizer
OPTIMISERS: Registry[Callable[..., Optimizer]] = Registry("optimizer")
# name -> (step, *, total, warmup, further options) -> factor on the peak learning rate at that
# step, from 0 to total - 1. `warmup` is the share of all steps over which the factor rises linearly
# from 1/25 (of "one_cycle": in its own shape).
SCHEDULES: Registry[Callable[..., float]] = Registry("schedule")
WARMUP_START = 0.04
NEEDS_CLOSURE = {"lbfgs"}  # optimizers that compute the loss several times per step
PLATEAU = {"factor": 0.5, "patience": 5, "min_factor": 0.0}  # options of the schedule "plateau"
# Type of an option's default -> what its values can be, in words and as a check.
KINDS: dict[type, tuple[str, Callable[[object], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: (
        "a number",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    ),
    str: ("a string or null", lambda value: value is None or isinstance(value, str)),
    tuple: (
        "a list of numbers",
        lambda value: isinstance(value, (list, tuple)) and all(map(KINDS[float][1], value)),
    ),
}
# Smallest and largest value of an option (of each value in a list); the optimizer checks options
# that are not here.
SHARE, ANY, COUNT = (0.0, 1.0), (0.0, math.inf), (1, math.inf)
RANGES = {
    "betas": SHARE,
    "eps": ANY,
    "momentum": SHARE,
    "max_iter": COUNT,
    "history_size": COUNT,
    "power": ANY,
    "milestones": SHARE,
    "gamma": ANY,
    "start": SHARE,
    "end": SHARE,
    "factor": SHARE,
    "patience": ANY,
    "min_factor": SHARE,
}


@OPTIMISERS.register("adamw")
def adamw(
    parameters: Parameters,
    *,
    lr: float,
    weight_decay: float = 0.01,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return torch.optim.AdamW(
        parameters, lr=lr, weight_decay=weight_decay, betas=tuple(betas), eps=eps
    )


@OPTIMISERS.register("sgd")
def sgd(
    parameters: Parameters,
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> Optimizer:
    """Stochastic gradient descent; nesterov needs a momentum."""
    if nesterov and momentum <= 0:
        raise InputError(
            f"sgd: nesterov needs a momentum above 0, got {momentum}; set nesterov to false for"
            " plain gradient descent"
        )
    return torch.optim.SGD(
        parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov
    )


@OPTIMISERS.register("lion")
def lion(
    parameters: Parameters,
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.99),
) -> Optimizer:
    """Lion, the sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675), from timm;
    it needs about a tenth of AdamW's learning rate.
    """
    try:
        from timm.optim import Lion
    except ImportError:
        raise InputError(
            "the optimizer lion needs the package timm: pip install 'timm>=1.0', or use adamw"
        ) from None
    return Lion(parameters, lr=lr, weight_decay=weight_decay, betas=tuple(betas))


@OPTIMISERS.register("lbfgs")
def lbfgs(
    parameters: Parameters,
    *,
    lr: float = 1.0,
    weight_decay: float = 0.0,
    max_iter: int = 20,
    history_size: int = 10,
    line_search: str | None = "strong_wolfe",
) -> Optimizer:
    """Limited-memory BFGS with a line search, the optimizer of Liu et al. 2024 for KANs.

    `step(closure)` evaluates loss and gradients many times. Use it with the whole data set or large
    batches, and without dropout. It has one parameter group and no weight decay.
    """
    given = list(parameters)
    if given and isinstance(given[0], Mapping):
        if len(given) > 1 or given[0].keys() != {"params"}:
            raise InputError(
                "lbfgs takes one group of parameters with one learning rate: leave out settings by"
                " group, or use another optimizer"
            )
        given = list(given[0]["params"])
    if line_search not in (None, "strong_wolfe"):
        raise InputError(f"lbfgs: line_search must be strong_wolfe or null, got {line_search!r}")
    if weight_decay:
        raise InputError(
            f"lbfgs has no weight decay, got {weight_decay}: set it to 0, or use another optimizer"
        )
    return torch.optim.LBFGS(
        given, lr=lr, max_iter=max_iter, history_size=history_size, line_search_fn=line_search
    )


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
    validations without an improvement (`kanseg.training.optim.lr_scheduler`).
    """
    return constant(step, total=total, warmup=warmup)


def create_optimizer(
    name: str, parameters: Parameters, *, lr: float, **options: object
) -> Optimizer:
    """Create an optimizer by name.

    Args:
        name: "adamw", "sgd", "lion" or "lbfgs".
        parameters: tensors, or groups {"params": [...], "lr": ..., "weight_decay": ...}.
        lr: the peak learning rate.
        options: weight_decay, and options of the optimizer (betas, momentum, nesterov, max_iter,
            history_size, ...).

    Raises:
        ValueError: an unknown name or option; the message suggests the nearest.
        InputError: settings that the optimizer does not support, or a package that is missing.
    """
    _check_options(OPTIMISERS[name], f"optimizer {name}", options)
    return OPTIMISERS[name](parameters, lr=lr, **options)


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
    _check_options(SCHEDULES[name], f"schedule {name}", options)
    return partial(SCHEDULES[name], total=total, warmup=warmup, **options)


def _check_options(builder: Callable, what: str, options: Mapping[str, object]) -> None:
    """Check the options of an optimizer or a schedule against the signature of its builder.

    Raises:
        ValueError: an option that it does not have, or a value of a wrong type or out of range.
    """
    own = {}
    for parameter in inspect.signature(builder).parameters.values():
        is_option = parameter.kind is parameter.KEYWORD_ONLY
        if is_option and parameter.name not in ("lr", "total", "warmup"):
            own[parameter.name] = parameter.default
    for key, value in options.items():
        if key not in own:
            raise ValueError(
                f"{what} has no option {key!r}{nearest(key, own)} (it has:"
                f" {', '.join(own) or 'none'})"
            )
        kind, is_valid = KINDS[type(own[key])]
        if not is_valid(value):
            example = own[key]
            if isinstance(example, tuple):
                example = list(example)
            raise ValueError(f"{what}: {key} must be {kind}, such as {example}, got {value!r}")
        low, high = RANGES.get(key, (-math.inf, math.inf))
        numbers = value
        if not isinstance(value, (list, tuple)):
            numbers = [value]
        if key in RANGES and not all(low <= each <= high for each in numbers):
            limits = f"from {low:g} to {high:g}"
            if high == math.inf:
                limits = f"at least {low:g}"
            raise ValueError(f"{what}: {key} must be {limits}, got {value!r}")


def _rise(step: int, rising: float) -> float:
    return WARMUP_START + (1 - WARMUP_START) * step / rising


def _progress(step: int, total: int, rising: float) -> float:
    """Share of the steps after the warm-up that are done, 0 to 1."""
    return min((step - rising) / max(total - rising, 1), 1.0)


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))

"""The learning rate of every group of parameters at every step, as a function of the settings and
of where the run stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kanseg.layers.regularization import kan_layers
from kanseg.training.optim.optimizers import NEEDS_CLOSURE, PLATEAU, create_schedule
from kanseg.utils.errors import InputError

EXAMPLES = 6


@dataclass
class Stand:
    """What validations have done to the learning rate so far."""

    scale: float = 1.0  # factor on the learning rate
    stale: int = (
        0  # validations without an improvement since the last one, or since the last reduction
    )


class Rates:
    """Sets the learning rates: peak * factor of the schedule at the step * what plateaus have left
    of it * factor of the group.

    Args:
        optimizer: its groups are those of `parameter_groups`.
        settings: `training` of an experiment.
        total: steps of the whole run.
        factors: one a group.

    Raises:
        ValueError: an unknown schedule or option.
    """

    def __init__(
        self, optimizer: Optimizer, settings: Any, *, total: int, factors: Sequence[float] = (1.0,)
    ):
        self.optimizer, self.peak, self.factors = optimizer, settings.lr, factors
        self.rising = settings.warmup * total
        self._factor = create_schedule(
            settings.schedule, total=total, warmup=settings.warmup, **settings.schedule_options
        )
        self._options = (
            PLATEAU | settings.schedule_options if settings.schedule == "plateau" else None
        )

    def set(self, step: int, stand: Stand) -> float:
        """Set the rates of this step (from 0); that of a group with factor 1."""
        rate = self.peak * self._factor(step) * stand.scale
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        return rate

    def validated(self, stand: Stand, *, improved: bool, step: int) -> Stand:
        """How things stand after a validation at this step, as of
        `torch.optim.lr_scheduler.ReduceLROnPlateau` with threshold 0.

        Validations within the warm-up do not count: the rate rises there whatever they say.
        """
        if self._options is None or improved or step <= self.rising:
            return Stand(stand.scale)
        if stand.stale < self._options["patience"]:
            return Stand(stand.scale, stand.stale + 1)
        return Stand(max(stand.scale * self._options["factor"], self._options["min_factor"]))


# Learning rate of the coefficients of functions, in multiples of that of other weights, and
# whether weight decay pulls them to zero: what shared functions want (docs/results/screening),
# and what functions of each edge, which are weights of a convolution, always had.
FUNCTION_LR = {"shared": 10.0, "edge": 1.0}
FUNCTION_DECAY = {"shared": False, "edge": True}


def parameter_groups(model: nn.Module, settings: Any) -> tuple[list[dict[str, Any]], list[float]]:
    """Groups for an optimizer, and for `Rates` the factor on the learning rate of each.

    Args:
        model: whose parameters' names are looked at (`named_parameters`).
        settings: `training` of an experiment. Of its `lr_factors`, pattern (`fnmatch`, the whole
            name, case matters) -> factor, the first that fits counts, the others have factor 1. A
            group of factor 0 keeps its weights; running statistics of batch norms in it go on.
            `function_lr` and `function_decay` are about the coefficients of functions.

    Raises:
        InputError: a factor below 0, a pattern that fits nothing, or nothing that an earlier one
            leaves.
    """
    factors = settings.lr_factors
    fitting = {name: _pattern_of(name, factors) for name, _ in model.named_parameters()}
    for pattern, factor in factors.items():
        if not 0 <= factor < math.inf:
            raise InputError(
                f"training.lr_factors: the factor of {pattern!r} must be 0 or more, got {factor}"
            )
        if pattern not in fitting.values():
            raise InputError(f"training.lr_factors: {pattern!r} {_why(model, pattern)}")
    if settings.function_lr is not None and not 0 <= settings.function_lr < math.inf:
        raise InputError(f"training.function_lr must be 0 or more, got {settings.function_lr}")
    kinds = function_kinds(model) if settings.optimizer not in NEEDS_CLOSURE else {}
    groups: dict[tuple[str | None, float, bool], list[nn.Parameter]] = {}
    for pattern in (*factors, None):
        for name, parameter in model.named_parameters():
            if fitting[name] == pattern:
                factor, decays = _of_functions(kinds.get(parameter), settings)
                groups.setdefault((pattern, factor, decays), []).append(parameter)
    made = []
    for (_, _, decays), parameters in groups.items():
        made.append({"params": parameters} | ({} if decays else {"weight_decay": 0.0}))
    return made, [factors.get(pattern, 1.0) * factor for pattern, factor, _ in groups]


def function_kinds(model: nn.Module) -> dict[nn.Parameter, str]:
    """The parameters of a model that are coefficients of functions -> "shared" or "edge"."""
    return {
        layer.functions_weight: "edge" if getattr(layer, "share", "edge") == "edge" else "shared"
        for layer in kan_layers(model)
        if isinstance(layer.functions_weight, nn.Parameter)
    }


def describe_function_rates(model: nn.Module, settings: Any) -> list[str]:
    """A line for each kind of functions that are trained differently from other weights."""
    if settings.optimizer in NEEDS_CLOSURE:
        return []  # which have one learning rate for all
    kinds = function_kinds(model)
    lines = []
    for kind, words in (("shared", "shared functions"), ("edge", "functions of each edge")):
        count = sum(parameter.numel() for parameter, its in kinds.items() if its == kind)
        factor, decays = _of_functions(kind, settings)
        if not count or (factor, decays) == (1.0, True):
            continue
        decay = "weight decay" if decays else "no weight decay"
        lines.append(
            f"training: the {count} coefficients of {words} have {factor:g} times the learning rate"
            f" and {decay} (training.function_lr, training.function_decay)"
        )
    return lines


def _pattern_of(name: str, patterns: Iterable[str]) -> str | None:
    """The first pattern that a name fits."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def _of_functions(kind: str | None, settings: Any) -> tuple[float, bool]:
    """Factor on the learning rate, and whether weight decay acts, for the coefficients of a kind of
    functions; None for other parameters.
    """
    if kind is None:
        return 1.0, True
    factor, decays = settings.function_lr, settings.function_decay
    if factor is None:
        factor = FUNCTION_LR[kind]
    if decays is None:
        decays = FUNCTION_DECAY[kind]
    return factor, decays


def _why(model: nn.Module, pattern: str) -> str:
    names = [name for name, _ in model.named_parameters()]
    if any(fnmatchcase(name, pattern) for name in names):
        return "fits only parameters that an earlier pattern takes; put it before that"
    shown = names[:: -(-len(names) // EXAMPLES)]
    return f"fits no parameter; their names are such as {', '.join(shown)}"

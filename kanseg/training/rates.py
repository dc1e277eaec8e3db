"""The learning rate of every group of parameters at every step, as a function of the settings and
of where the run stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kanseg.errors import InputError
from kanseg.training.optimisers import PLATEAU, create_schedule

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


def parameter_groups(
    model: nn.Module, factors: Mapping[str, float]
) -> tuple[list[dict[str, Any]], list[float]]:
    """Groups for an optimiser, and for `Rates` the factor on the learning rate of each.

    Args:
        model: whose parameters' names are looked at (`named_parameters`).
        factors: pattern (`fnmatch`, the whole name, case matters) -> factor; the first that fits
            counts, the others have factor 1. A group of factor 0 keeps its weights; running
            statistics of batch norms in it go on.

    Raises:
        InputError: a factor below 0, a pattern that fits nothing, or nothing that an earlier one
            leaves.
    """
    taken: dict[str, list[nn.Parameter]] = {pattern: [] for pattern in factors}
    rest = []
    for name, parameter in model.named_parameters():
        taken.get(
            next((pattern for pattern in factors if fnmatchcase(name, pattern)), None), rest
        ).append(parameter)
    for pattern, parameters in taken.items():
        if not 0 <= factors[pattern] < float("inf"):
            raise InputError(
                f"training.lr_factors: the factor of {pattern!r} must be 0 or more, got"
                f" {factors[pattern]}"
            )
        if not parameters:
            raise InputError(f"training.lr_factors: {pattern!r} {_why(model, pattern)}")
    parts = [(factors[pattern], parameters) for pattern, parameters in taken.items()] + [
        (1.0, rest)
    ]
    return [{"params": parameters} for _, parameters in parts if parameters], [
        factor for factor, parameters in parts if parameters
    ]


def _why(model: nn.Module, pattern: str) -> str:
    names = [name for name, _ in model.named_parameters()]
    if any(fnmatchcase(name, pattern) for name in names):
        return "fits only parameters that an earlier pattern takes; put it before that"
    shown = names[:: -(-len(names) // EXAMPLES)]
    return f"fits no parameter; their names are such as {', '.join(shown)}"

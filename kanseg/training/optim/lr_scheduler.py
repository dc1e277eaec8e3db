"""Learning-rate schedulers, and parameter groups with their own learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kanseg.layers.regularization import kan_layers
from kanseg.training.optim.optimizers import NEEDS_CLOSURE, PLATEAU, create_schedule
from kanseg.utils.errors import InputError

EXAMPLES = 6  # names of parameters in an error message


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


# Learning rate of the coefficients of functions, in multiples of that of other weights, and whether
# they have weight decay. The values for shared functions are from docs/results/screening; functions
# of each edge are treated like the weights of a convolution.
FUNCTION_LR = {"shared": 10.0, "edge": 1.0}
FUNCTION_DECAY = {"shared": False, "edge": True}


def parameter_groups(model: nn.Module, settings: Any) -> list[dict[str, Any]]:
    """Return the parameter groups for an optimizer; groups with another learning rate or weight
    decay than the settings have their own "lr" or "weight_decay".

    Args:
        model: its `named_parameters` are used.
        settings: `training` of an experiment. `lr_factors` maps a pattern (`fnmatch` on the whole
            name, case-sensitive) to a factor; the first pattern that matches counts, and other
            parameters have factor 1. Factor 0 freezes the weights of a group, but not the running
            statistics of its batch norms. `function_lr` and `function_decay` apply to the
            coefficients of functions.

    Raises:
        InputError: a factor below 0; a pattern that matches no parameter, or only parameters of
            earlier patterns.
    """
    factors = settings.lr_factors
    pattern_of: dict[str, str | None] = {}
    for name, _ in model.named_parameters():
        matching = (pattern for pattern in factors if fnmatchcase(name, pattern))
        pattern_of[name] = next(matching, None)
    for pattern, factor in factors.items():
        if not 0 <= factor < math.inf:
            raise InputError(
                f"training.lr_factors: the factor of {pattern!r} must be 0 or more, got {factor}"
            )
        if pattern not in pattern_of.values():
            raise InputError(f"training.lr_factors: {pattern!r} {_why_unused(model, pattern)}")
    if settings.function_lr is not None and not 0 <= settings.function_lr < math.inf:
        raise InputError(f"training.function_lr must be 0 or more, got {settings.function_lr}")
    kinds = {}
    if settings.optimizer not in NEEDS_CLOSURE:
        kinds = function_kinds(model)
    members: dict[tuple[str | None, float, bool], list[nn.Parameter]] = {}
    for pattern in (*factors, None):
        for name, parameter in model.named_parameters():
            if pattern_of[name] == pattern:
                factor, decays = _function_rates(kinds.get(parameter), settings)
                members.setdefault((pattern, factor, decays), []).append(parameter)
    groups = []
    for (pattern, function_factor, decays), parameters in members.items():
        group: dict[str, Any] = {"params": parameters}
        factor = factors.get(pattern, 1.0) * function_factor
        if factor != 1.0:
            group["lr"] = settings.lr * factor
        if not decays:
            group["weight_decay"] = 0.0
        groups.append(group)
    return groups


def function_kinds(model: nn.Module) -> dict[nn.Parameter, str]:
    """Return the parameters that are coefficients of functions, each -> "shared" or "edge"."""
    kinds = {}
    for layer in kan_layers(model):
        if isinstance(layer.functions_weight, nn.Parameter):
            is_edge = getattr(layer, "share", "edge") == "edge"
            kinds[layer.functions_weight] = "edge" if is_edge else "shared"
    return kinds


def describe_function_rates(model: nn.Module, settings: Any) -> list[str]:
    """Return a line for each kind of functions that is trained differently from other weights."""
    if settings.optimizer in NEEDS_CLOSURE:
        return []  # these optimizers have one learning rate for all parameters
    kinds = function_kinds(model)
    lines = []
    for kind, words in (("shared", "shared functions"), ("edge", "functions of each edge")):
        count = sum(parameter.numel() for parameter, its in kinds.items() if its == kind)
        factor, decays = _function_rates(kind, settings)
        if not count or (factor, decays) == (1.0, True):
            continue
        decay = "weight decay" if decays else "no weight decay"
        lines.append(
            f"training: the {count} coefficients of {words} have {factor:g} times the learning rate"
            f" and {decay} (training.function_lr, training.function_decay)"
        )
    return lines


def _function_rates(kind: str | None, settings: Any) -> tuple[float, bool]:
    """Return the factor on the learning rate, and whether there is weight decay, for the
    coefficients of a kind of functions, or for other parameters (None).
    """
    if kind is None:
        return 1.0, True
    factor, decays = settings.function_lr, settings.function_decay
    if factor is None:
        factor = FUNCTION_LR[kind]
    if decays is None:
        decays = FUNCTION_DECAY[kind]
    return factor, decays


def _why_unused(model: nn.Module, pattern: str) -> str:
    """Return why no group has a pattern, as the end of a sentence."""
    names = [name for name, _ in model.named_parameters()]
    if any(fnmatchcase(name, pattern) for name in names):
        return "matches only parameters of earlier patterns; put it before them"
    shown = names[:: -(-len(names) // EXAMPLES)]
    return f"matches no parameter; some names: {', '.join(shown)}"

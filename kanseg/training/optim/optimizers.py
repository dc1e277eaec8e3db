"""Optimizers by name, and parameter groups with their own learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kanseg.layers.regularization import kan_layers
from kanseg.training.optim.options import check_options
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.registry import Registry

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
# name -> (parameters or groups of them, *, lr, weight_decay, further options) -> optimizer
OPTIMIZERS: Registry[Callable[..., Optimizer]] = Registry("optimizer")
CAN_FUSE = {"adamw", "sgd"}  # optimizers with the option `fused`
NEEDS_CLOSURE = {"lbfgs"}  # optimizers that compute the loss several times per step
EXAMPLES = 6  # names of parameters in an error message
# Learning rate of the coefficients of functions, in multiples of that of other weights, and whether
# they have weight decay. The values for shared functions are from docs/results/screening; functions
# of each edge are treated like the weights of a convolution.
FUNCTION_LR = {"shared": 10.0, "edge": 1.0}
FUNCTION_DECAY = {"shared": False, "edge": True}


@OPTIMIZERS.register("adamw")
def adamw(
    parameters: Parameters,
    *,
    lr: float,
    weight_decay: float = 0.01,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    fused: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101).

    `fused` makes a step one kernel for each weight; else PyTorch decides.
    """
    return torch.optim.AdamW(
        parameters,
        lr=lr,
        weight_decay=weight_decay,
        betas=tuple(betas),
        eps=eps,
        fused=fused or None,
    )


@OPTIMIZERS.register("sgd")
def sgd(
    parameters: Parameters,
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
    fused: bool = False,
) -> Optimizer:
    """Stochastic gradient descent; nesterov needs a momentum. `fused` as of AdamW."""
    if nesterov and momentum <= 0:
        raise InputError(
            "sgd: nesterov needs a momentum above 0, got {momentum}; set nesterov to false for"
            " plain gradient descent",
            momentum=momentum,
        )
    return torch.optim.SGD(
        parameters,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        fused=fused or None,
    )


@OPTIMIZERS.register("lion")
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


@OPTIMIZERS.register("lbfgs")
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
                "lbfgs takes one group of parameters with one learning rate: leave out"
                " settings by group, or use another optimizer"
            )
        given = list(given[0]["params"])
    if line_search not in (None, "strong_wolfe"):
        raise InputError(
            "lbfgs: line_search must be strong_wolfe or null, got {line_search!r}",
            line_search=line_search,
        )
    if weight_decay:
        raise InputError(
            "lbfgs has no weight decay, got {weight_decay}: set it to 0, or use another optimizer",
            weight_decay=weight_decay,
        )
    return torch.optim.LBFGS(
        given, lr=lr, max_iter=max_iter, history_size=history_size, line_search_fn=line_search
    )


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
    check_options(OPTIMIZERS[name], f"optimizer {name}", options)
    return OPTIMIZERS[name](parameters, lr=lr, **options)


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
                "training.lr_factors: the factor of {pattern!r} must be 0 or more, got {factor}",
                pattern=pattern,
                factor=factor,
            )
        if pattern not in pattern_of.values():
            raise InputError(
                "training.lr_factors: {pattern!r} {reason}",
                pattern=pattern,
                reason=_why_unused(model, pattern),
            )
    if settings.function_lr is not None and not 0 <= settings.function_lr < math.inf:
        raise InputError(
            "training.function_lr must be 0 or more, got {function_lr}",
            function_lr=settings.function_lr,
        )
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
        return translate("matches only parameters of earlier patterns; put it before them")
    shown = names[:: -(-len(names) // EXAMPLES)]
    return translate("matches no parameter; some names: {names}", names=", ".join(shown))

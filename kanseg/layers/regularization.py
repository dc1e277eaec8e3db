"""Regularization of KAN layers: dropout of channels and functions, noise, and penalties that are
added to the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanseg.utils.registry import Registry

LOCATIONS = ("input", "branch", "functions")
CHANNEL_DROPOUT = {0: nn.Dropout, 1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}
Value = Callable[[nn.Module, Tensor], Tensor]


class Term(NamedTuple):
    """A registered penalty.

    Args:
        value: (layer, output) -> penalty of one layer.
        layers: model -> the layers that the penalty applies to.
        of: name of these layers in messages.
    """

    value: Value
    layers: Callable[[nn.Module], Iterator[nn.Module]]
    of: str


PENALTIES: Registry[Term] = Registry("penalty")


def penalty(
    name: str, *, layers: Callable[[nn.Module], Iterator[nn.Module]], of: str
) -> Callable[[Value], Value]:
    """Decorator: register a function (layer, output) -> value as a penalty."""

    def register(value: Value) -> Value:
        PENALTIES.register(name)(Term(value, layers, of))
        return value

    return register


def kan_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The KAN layers with functions inside a model, including layers with replaced parts."""
    for module in model.modules():
        if hasattr(type(module), "functions_weight") and module.basis is not None:
            yield module


class NoiseInjection(nn.Module):
    """In training, add normal noise to a fraction p of the entries.

    The noise has alpha times the standard deviation of the entry's channel (axis 1) over the batch.
    This is torch-conv-kan's "noise injection". Returns x itself in evaluation.
    """

    def __init__(self, p: float = 0.0, alpha: float = 0.05):
        super().__init__()
        self.p, self.alpha = _check_fraction("p", p), alpha

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        other_axes = [axis for axis in range(x.dim()) if axis != 1]
        std = torch.std(x, dim=other_axes, keepdim=True, correction=0)
        return x + self.alpha * std * torch.randn_like(x) * (torch.rand_like(x) < self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, alpha={self.alpha}"


class FeatureNoise(nn.Module):
    """Dropout and noise on the features of a KAN layer, at one of three locations.

    Args:
        dropout: probability that a channel (an entry of a vector) is zeroed in training; at
            "functions", that a single function of a channel is zeroed.
        noise: fraction of the entries to which noise is added in training.
        location: "input" of both branches, "branch" for the input of the functions only, or
            "functions" for the values of the functions.
        ndim: number of spatial axes.

    Raises:
        ValueError: a fraction outside [0, 1], an unknown location, or noise at "functions".
    """

    def __init__(self, dropout: float, noise: float, location: str, ndim: int):
        super().__init__()
        if location not in LOCATIONS:
            raise ValueError(f"dropout_at must be one of {', '.join(LOCATIONS)}, got {location!r}")
        if location == "functions" and noise:
            raise ValueError("noise can be injected at 'input' or 'branch', not at 'functions'")
        self.location, self.p = location, _check_fraction("dropout", dropout)
        self.dropout, self.noise = nn.Identity(), nn.Identity()
        if dropout:
            self.dropout = CHANNEL_DROPOUT[ndim](dropout)
        if noise:
            self.noise = NoiseInjection(noise)

    def at(self, location: str, x: Tensor) -> Tensor:
        """Apply dropout and noise to x if this is their location, else return x."""
        if location != self.location:
            return x
        for part in (self.dropout, self.noise):
            # Calling a module that does nothing still takes microseconds.
            if type(part) is not nn.Identity:
                x = part(x)
        return x

    def dropout_mask(self, x: Tensor, num_functions: int) -> Tensor | None:
        """Draw factors (B, C, K) for the functions of x (B, C, *S), 0 or 1 / (1 - p); None if no
        functions are dropped.
        """
        if self.location != "functions" or not self.training or self.p == 0:
            return None
        keep = torch.rand(*x.shape[:2], num_functions, device=x.device) >= self.p
        return keep / max(1 - self.p, 1e-12)

    def extra_repr(self) -> str:
        return f"location={self.location!r}, p={self.p}"


def _check_fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}")
    return float(value)


@penalty("weights_l1", layers=kan_layers, of="KAN layers")
def weights_l1(layer: nn.Module, output: Tensor) -> Tensor:
    """Mean absolute weight of the layer's functions."""
    if not isinstance(getattr(layer, "functions_weight", None), Tensor):
        raise ValueError(
            f"weights_l1 needs the weights of a {type(layer).__name__}, but a part of it was"
            " replaced by a module without weight (LoRA, quantization): penalize the activations"
        )
    return layer.functions_weight.float().abs().mean()


@penalty("activations_l1", layers=kan_layers, of="KAN layers")
def activations_l1(layer: nn.Module, output: Tensor) -> Tensor:
    """Mean absolute value of the layer's output."""
    return output.float().abs().mean()


@penalty("activations_l2", layers=kan_layers, of="KAN layers")
def activations_l2(layer: nn.Module, output: Tensor) -> Tensor:
    """Mean square of the layer's output."""
    return output.float().square().mean()


class Penalty:
    """Weighted sum of penalties over the layers of a model.

    Usage: `loss = criterion(model(x), y) + penalty()`. Forward hooks collect the penalties of
    forward passes in training mode; each call returns and clears them. Layers inside
    `torch.utils.checkpoint` count only with use_reentrant=False.

    Args:
        model: the hooks are registered on its KANConv and KANLinear layers; for "balance" on its
            mixtures of experts.
        weights: name in `PENALTIES` -> its weight.

    Raises:
        ValueError: an unknown name, a negative weight, or a model without layers for a penalty.
    """

    def __init__(self, model: nn.Module, weights: dict[str, float]):
        if any(not weight >= 0 for weight in weights.values()):
            raise ValueError(f"weights of penalties must not be negative, got {dict(weights)}")
        self._collected: list[Tensor] = []
        hooked: list[tuple[nn.Module, Callable]] = []
        for name, weight in weights.items():
            term = PENALTIES[name]
            if weight == 0:
                continue
            layers = list(term.layers(model))
            if not layers:
                raise ValueError(f"penalty {name!r} needs a model with {term.of}, got one without")
            for layer in layers:
                hooked.append((layer, partial(self._collect, term.value, weight)))
        self._hooks = [layer.register_forward_hook(hook) for layer, hook in hooked]

    def _collect(
        self, term: Value, weight: float, layer: nn.Module, _: tuple, output: Tensor
    ) -> None:
        if not layer.training or not torch.is_grad_enabled():
            return
        value = weight * term(layer, output)
        # Checkpointing runs the layer again in backward, where the value must not be added twice.
        # It is computed all the same, since both runs must have the same operations.
        if torch._C._current_graph_task_id() == -1:
            self._collected.append(value)

    def __call__(self) -> Tensor | float:
        collected, self._collected = self._collected, []
        return sum(collected, 0.0)

    def remove(self) -> None:
        """Remove the hooks from the model."""
        for hook in self._hooks:
            hook.remove()

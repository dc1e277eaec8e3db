"""Regularization of KAN layers: dropout of channels and functions, noise, penalties added to the
loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanseg.utils.registry import Registry

PLACES = ("input", "branch", "functions")
CHANNEL_DROPOUT = {0: nn.Dropout, 1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}
Value = Callable[[nn.Module, Tensor], Tensor]


class Term(NamedTuple):
    """A penalty: its value(layer, output) for one layer, the layers of a model that it applies to,
    and what these are called in messages.
    """

    value: Value
    layers: Callable[[nn.Module], Iterator[nn.Module]]
    of: str


# The sum over layers times a weight is added to the loss.
PENALTIES: Registry[Term] = Registry("penalty")


def penalty(
    name: str, *, layers: Callable[[nn.Module], Iterator[nn.Module]], of: str
) -> Callable[[Value], Value]:
    """Decorator: register a function (layer, output) -> value as a penalty."""

    def file(value: Value) -> Value:
        PENALTIES.register(name)(Term(value, layers, of))
        return value

    return file


def kan_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The KAN layers inside a model, those with replaced parts included."""
    return (
        module
        for module in model.modules()
        if hasattr(type(module), "functions_weight") and module.basis is not None
    )


class NoiseInjection(nn.Module):
    """In training, adds noise to a share p of the entries: alpha times the standard deviation of
    their channel, axis 1, over the batch.

    torch-conv-kan's "noise injection". Returns x itself in evaluation.
    """

    def __init__(self, p: float = 0.0, alpha: float = 0.05):
        super().__init__()
        self.p, self.alpha = _share("p", p), alpha

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        std = torch.std(x, dim=[d for d in range(x.dim()) if d != 1], keepdim=True, correction=0)
        return x + self.alpha * std * torch.randn_like(x) * (torch.rand_like(x) < self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, alpha={self.alpha}"


class FeatureNoise(nn.Module):
    """Dropout and noise on the features of a KAN layer, at one of three places.

    Args:
        dropout: probability that a channel (of a vector: an entry) is zeroed in training; at
            "functions", that a function of a channel is.
        noise: share of the entries that noise is added to in training.
        place: "input" for what both branches read, "branch" for what the functions read,
            "functions" for the functions' values.
        ndim: number of spatial axes.

    Raises:
        ValueError: a share outside [0, 1], an unknown place, or noise at "functions".
    """

    def __init__(self, dropout: float, noise: float, place: str, ndim: int):
        super().__init__()
        if place not in PLACES:
            raise ValueError(f"dropout_at must be one of {', '.join(PLACES)}, got {place!r}")
        if place == "functions" and noise:
            raise ValueError("noise can be injected at 'input' or 'branch', not at 'functions'")
        self.place, self.p = place, _share("dropout", dropout)
        self.dropout = CHANNEL_DROPOUT[ndim](dropout) if dropout else nn.Identity()
        self.noise = NoiseInjection(noise) if noise else nn.Identity()

    def at(self, place: str, x: Tensor) -> Tensor:
        """Apply dropout and noise to x if they belong to this place, else return x."""
        if place != self.place:
            return x
        for part in (self.dropout, self.noise):
            # Calling a module that does nothing still takes microseconds.
            if type(part) is not nn.Identity:
                x = part(x)
        return x

    def dropout_mask(self, x: Tensor, num_functions: int) -> Tensor | None:
        """Draw the factors (B, C, K) of the functions of x (B, C, *S), 0 or 1 / (1 - p); None if no
        functions are dropped.
        """
        if self.place != "functions" or not self.training or self.p == 0:
            return None
        keep = torch.rand(*x.shape[:2], num_functions, device=x.device) >= self.p
        return keep / max(1 - self.p, 1e-12)

    def extra_repr(self) -> str:
        return f"place={self.place!r}, p={self.p}"


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share from 0 to 1, got {value}")
    return float(value)


@penalty("weights_l1", layers=kan_layers, of="KAN layers")
def weights_l1(layer: nn.Module, output: Tensor) -> Tensor:
    """Mean absolute weight of the layer's functions."""
    if not isinstance(getattr(layer, "functions_weight", None), Tensor):
        raise ValueError(
            f"a part of a {type(layer).__name__} was replaced by one without a weight of its own"
            " (LoRA, quantization): penalize activations instead of weights_l1"
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
    """The sum of weighted penalties over the layers of a model, of its latest forward passes in
    training mode.

    `loss = criterion(model(x), y) + penalty()`; calling it forgets what was collected. Layers
    inside `torch.utils.checkpoint` count with use_reentrant=False only.

    Args:
        model: forward hooks are registered on its layers: KANConv and KANLinear, for "balance" the
            mixtures of experts.
        weights: name in `PENALTIES` -> its weight.

    Raises:
        ValueError: an unknown name, or a model without the layers that a penalty is about.
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
        # Inside a backward pass checkpointing runs the layer once more, and must see the same
        # operations; the value was collected in forward.
        if torch._C._current_graph_task_id() == -1:
            self._collected.append(value)

    def __call__(self) -> Tensor | float:
        collected, self._collected = self._collected, []
        return sum(collected, 0.0)

    def remove(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

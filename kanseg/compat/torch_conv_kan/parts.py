"""Small modules of the legacy layers: grouped matrices, noise, the L1 regularizer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class GroupedLinear(nn.Module):
    """A matrix for each group of features: (B, I) -> (B, O), weight (O, I / groups), as a
    convolution with groups on one pixel.
    """

    def __init__(self, in_features: int, out_features: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(out_features, in_features // groups))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        weight = self.weight.unflatten(0, (self.groups, -1))
        return torch.einsum("bgi,goi->bgo", x.unflatten(1, (self.groups, -1)), weight).flatten(1)


class _AddSign(torch.autograd.Function):
    """The identity on its first argument, that adds decay * sign(p) to the gradient of every
    parameter p behind it.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, y: Tensor, decay: float, *parameters: Tensor) -> Tensor:
        ctx.decay = decay
        ctx.save_for_backward(*parameters)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None, *(ctx.decay * p.sign() for p in ctx.saved_tensors)


class L1(nn.Module):
    """A module whose parameters p get the gradient weight_decay * sign(p) on top of their own, in
    training, once a backward pass.

    torch-conv-kan's wrapper of this name sets the gradient from a hook where it is still missing
    and so does not add reliably.
    """

    def __init__(self, module: nn.Module, weight_decay: float):
        super().__init__()
        if weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
        self.module, self.weight_decay = module, weight_decay

    def forward(self, x: Tensor) -> Tensor:
        """What the module computes."""
        y = self.module(x)
        return (
            _AddSign.apply(y, self.weight_decay, *self._trained())
            if self.training and self.weight_decay > 0
            else y
        )

    def _trained(self) -> Iterable[Tensor]:
        return (p for p in self.module.parameters() if p.requires_grad)


def apply_by_group(modules: nn.ModuleList, x: Tensor) -> Tensor:
    """(B, C, *S) -> the same: each module on its equal share of the channels; one module has all of
    them, none leaves x alone.
    """
    if len(modules) == 0:
        return x
    return torch.cat(
        [
            _apply(module, part)
            for module, part in zip(modules, x.chunk(len(modules), dim=1), strict=True)
        ],
        dim=1,
    )


def _apply(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.LayerNorm):  # over all entries of a sample, as there
        return module(x.flatten(1)).view_as(x)
    return module(x)

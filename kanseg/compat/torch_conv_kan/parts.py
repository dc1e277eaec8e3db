"""Parts of the layers of torch-conv-kan: grouped linear layers and the L1 regularizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class GroupedLinear(nn.Module):
    """A linear layer with groups: (B, I) -> (B, O), with weight (O, I / groups)."""

    def __init__(self, in_features: int, out_features: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(out_features, in_features // groups))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        weight = self.weight.unflatten(0, (self.groups, -1))
        return torch.einsum("bgi,goi->bgo", x.unflatten(1, (self.groups, -1)), weight).flatten(1)


class _AddSign(torch.autograd.Function):
    """Identity of y that adds decay * sign(p) to the gradient of every further argument p."""

    @staticmethod
    def forward(ctx: FunctionCtx, y: Tensor, decay: float, *parameters: Tensor) -> Tensor:
        ctx.decay = decay
        ctx.save_for_backward(*parameters)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None, *(ctx.decay * p.sign() for p in ctx.saved_tensors)


class L1(nn.Module):
    """L1 regularization of a module: adds weight_decay * sign(p) to the gradient of its parameters
    p, once per backward pass in training.

    torch-conv-kan's wrapper of this name sets missing gradients in a hook, and does not reliably
    add to existing ones.
    """

    def __init__(self, module: nn.Module, weight_decay: float):
        super().__init__()
        if weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
        self.module, self.weight_decay = module, weight_decay

    def forward(self, x: Tensor) -> Tensor:
        """The output of the module."""
        y = self.module(x)
        if not self.training or self.weight_decay == 0:
            return y
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return _AddSign.apply(y, self.weight_decay, *trained)


def apply_by_group(modules: nn.ModuleList, x: Tensor) -> Tensor:
    """Apply each module to an equal part of the channels of x (B, C, *S); no modules return x."""
    if len(modules) == 0:
        return x
    parts = x.chunk(len(modules), dim=1)
    outputs = []
    for module, part in zip(modules, parts, strict=True):
        if isinstance(module, nn.LayerNorm):  # over all values of a sample, as in torch-conv-kan
            outputs.append(module(part.flatten(1)).view_as(part))
        else:
            outputs.append(module(part))
    return torch.cat(outputs, dim=1)

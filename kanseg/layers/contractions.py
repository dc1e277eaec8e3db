"""What the functions' values are summed up with: a convolution, a matrix, or one mixture per channel."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Contraction(Protocol):
    """A map linear in the functions' values e (B, C * K, *S) and in its weight, with the gradients of both.

    `folds_constant` tells whether the first function, where it is constant, can be left out of e and added by `constant_map`.
    """

    folds_constant: bool

    def forward(self, e: Tensor, weight: Tensor) -> Tensor: ...
    def grad_values(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor: ...
    def grad_weight(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor: ...


class Convolution(NamedTuple):
    """(B, C * K, *S) with weight (O, C * K / groups, *kernel) -> (B, O, *S'), in 1, 2 or 3 dimensions, zero padding."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    folds_constant: bool = True

    def forward(self, e: Tensor, weight: Tensor) -> Tensor:
        return torch.convolution(e, weight, None, self.stride, self.padding, self.dilation, False, self._none(), self.groups)

    def grad_values(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return self._backward(grad, e, weight, 0)

    def grad_weight(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return self._backward(grad, e, weight, 1)

    def constant_map(self, weight: Tensor, shape: torch.Size) -> Tensor:
        """What a function that is 1 everywhere adds: depends on the distance to the border only. (O, C / groups, *kernel) -> (1, O, *S')."""
        return self._over_ones().forward(weight.new_ones(1, 1, *shape[2:]), weight.sum(1, keepdim=True))

    def grad_constant(self, grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        summed = grad.to(weight.dtype).sum(0, keepdim=True)
        ones = weight.new_ones(1, 1, *shape[2:])
        return self._over_ones().grad_weight(summed, ones, weight[:, :1]).expand_as(weight)

    def _over_ones(self) -> Convolution:
        return self._replace(groups=1)

    def _none(self) -> tuple[int, ...]:
        return (0,) * len(self.stride)

    def _backward(self, grad: Tensor, e: Tensor, weight: Tensor, which: int) -> Tensor:
        mask = [which == 0, which == 1, False]
        options = (self.stride, self.padding, self.dilation, False, self._none(), self.groups)
        return torch.ops.aten.convolution_backward(grad, e, weight, None, *options, mask)[which]


class Product(NamedTuple):
    """(B, C * K) with weight (O, C * K) -> (B, O)."""

    folds_constant: bool = True

    def forward(self, e: Tensor, weight: Tensor) -> Tensor:
        return e @ weight.T

    def grad_values(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return grad @ weight

    def grad_weight(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return grad.T @ e

    def constant_map(self, weight: Tensor, shape: torch.Size) -> Tensor:
        return weight.sum(1)

    def grad_constant(self, grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return grad.to(weight.dtype).sum(0).unsqueeze(1).expand_as(weight)


class Mixture(NamedTuple):
    """(B, C * K, *S) with weight (C, K), or (1, K) for all channels -> (B, C, *S): one function per channel, or one for all."""

    channels: int
    folds_constant: bool = False

    def forward(self, e: Tensor, weight: Tensor) -> Tensor:
        return (weight.unsqueeze(1) @ self._flat(e)).reshape(e.shape[0], self.channels, *e.shape[2:])

    def grad_values(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return (weight.unsqueeze(2) * self._flat(grad)).reshape(e.shape)

    def grad_weight(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        per_channel = (self._flat(grad) @ self._flat(e).transpose(2, 3)).sum(0).squeeze(1)
        return per_channel if len(weight) > 1 else per_channel.sum(0, keepdim=True)

    def _flat(self, values: Tensor) -> Tensor:
        """(B, C * K, *S) -> (B, C, K, S), also for vectors; K = 1 for (B, C, *S)."""
        return values.reshape(len(values), self.channels, values.shape[1] // self.channels, -1)

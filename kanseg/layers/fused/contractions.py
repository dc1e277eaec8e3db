"""What the functions' values are summed up with: a convolution, a matrix, or one mixture per
channel.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Contraction(Protocol):
    """A map linear in the functions' values e (B, C * K, *S) and in its weight, with the gradients
    of both.

    `folds_constant` tells whether the first function, where it is constant, can be left out of e:
    `constant_map` is what it adds.
    """

    folds_constant: bool

    def forward(self, e: Tensor, weight: Tensor) -> Tensor: ...
    def grad_values(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor: ...
    def grad_weight(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor: ...


class Convolution(NamedTuple):
    """(B, C * K, *S) with weight (O, C * K / groups, *kernel) -> (B, O, *S'), in 1, 2 or 3
    dimensions, zero padding.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    folds_constant: bool = True

    def forward(self, e: Tensor, weight: Tensor) -> Tensor:
        return torch.convolution(
            e,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            self._none(),
            self.groups,
        )

    def grad_values(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return self._backward(grad, e, weight, 0)

    def grad_weight(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return self._backward(grad, e, weight, 1)

    def constant_map(self, weight: Tensor, shape: torch.Size) -> Tensor:
        """What a function that is 1 everywhere adds: depends on the distance to the border only.
        (O, C / groups, *kernel) -> (1, O, *S').
        """
        return self._over_ones().forward(
            weight.new_ones(1, 1, *shape[2:]), weight.sum(1, keepdim=True)
        )

    def add_constant(self, y: Tensor, weight: Tensor, shape: torch.Size) -> None:
        """Add `constant_map` to y (B, O, *S') in place; it is computed for a small image that has
        every border but one inner pixel.
        """
        small, places = self._small(weight, shape)
        added = self.constant_map(weight, small)
        for axis, (_, place) in enumerate(places, start=2):
            added = added.index_select(axis, place)
        y += added.to(y.dtype)

    def grad_constant(self, grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the weight of `constant_map` for that of its output."""
        small, places = self._small(weight, shape)
        summed = grad.to(weight.dtype).sum(0, keepdim=True)
        for axis, (count, place) in enumerate(places, start=2):
            summed = summed.new_zeros(
                *summed.shape[:axis], count, *summed.shape[axis + 1 :]
            ).index_add(axis, place, summed)
        ones = weight.new_ones(1, 1, *small[2:])
        return self._over_ones().grad_weight(summed, ones, weight[:, :1]).expand_as(weight)

    def _small(
        self, weight: Tensor, shape: torch.Size
    ) -> tuple[list[int], list[tuple[int, Tensor]]]:
        """Shape of the small image, and for each axis the size of its output and where in it each
        entry of the large output is found.
        """
        small, places = [1, 1], []
        for size, taps, stride, padding, dilation in zip(
            shape[2:], weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
        ):
            reach = dilation * (taps - 1) + 1
            outputs = (size + 2 * padding - reach) // stride + 1
            first, last = (
                -(-padding // stride),
                (size + padding - reach) // stride,
            )  # of those that touch no border, which are all alike
            spare = max(last - first, 0)
            place = torch.arange(outputs, device=weight.device)
            small.append(size - spare * stride)
            places.append(
                (
                    outputs - spare,
                    torch.where(place > first, (place - spare).clamp_min(first), place),
                )
            )
        return small, places

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

    def add_constant(self, y: Tensor, weight: Tensor, shape: torch.Size) -> None:
        y += weight.sum(1).to(y.dtype)

    def grad_constant(self, grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return grad.to(weight.dtype).sum(0).unsqueeze(1).expand_as(weight)


class Blocks(NamedTuple):
    """(B, C * K, 1) with weight (O, C * K / groups, 1) -> (B, O, 1): a grouped convolution over one
    pixel, that is a matrix for each group.

    As one batched product it takes half the time of the convolution on a CPU (49 and 169 groups,
    measured).
    """

    groups: int
    folds_constant: bool = False

    def forward(self, e: Tensor, weight: Tensor) -> Tensor:
        return self._joined(self._split(e) @ self._matrices(weight).transpose(1, 2))

    def grad_values(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return self._joined(self._split(grad) @ self._matrices(weight))

    def grad_weight(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return (self._split(grad).transpose(1, 2) @ self._split(e)).reshape(weight.shape)

    def _split(self, values: Tensor) -> Tensor:
        """(B, groups * n, 1) -> (groups, B, n)."""
        return values.reshape(
            values.shape[0], self.groups, values.shape[1] // self.groups
        ).transpose(0, 1)

    def _joined(self, values: Tensor) -> Tensor:
        return values.transpose(0, 1).flatten(1).unsqueeze(2)

    def _matrices(self, weight: Tensor) -> Tensor:
        """(O, n, 1) -> (groups, O / groups, n)."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1])


class Mixture(NamedTuple):
    """(B, C * K, *S) with weight (C, K), or (1, K) for all channels -> (B, C, *S): one function per
    channel, or one for all.
    """

    channels: int
    folds_constant: bool = False

    def forward(self, e: Tensor, weight: Tensor) -> Tensor:
        return (weight.unsqueeze(1) @ self._flat(e)).reshape(
            e.shape[0], self.channels, *e.shape[2:]
        )

    def grad_values(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        return (weight.unsqueeze(2) * self._flat(grad)).reshape(e.shape)

    def grad_weight(self, grad: Tensor, e: Tensor, weight: Tensor) -> Tensor:
        per_channel = (self._flat(grad) @ self._flat(e).transpose(2, 3)).sum(0).squeeze(1)
        return per_channel if weight.shape[0] > 1 else per_channel.sum(0, keepdim=True)

    def _flat(self, values: Tensor) -> Tensor:
        """(B, C * K, *S) -> (B, C, K, S), also for vectors; K = 1 for (B, C, *S)."""
        return values.reshape(
            values.shape[0], self.channels, values.shape[1] // self.channels, prod(values.shape[2:])
        )

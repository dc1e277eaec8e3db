"""Linear operations on the values of the basis functions: convolution, matrix product, mixture."""

from __future__ import annotations

from math import prod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class LinearOp(Protocol):
    """An operation that is linear in its input and in its weight, with the gradients of both.

    The input (B, C * K, *S) holds the K values of each channel, channel-major; the weight has the
    shape of the corresponding torch module.
    """

    def forward(self, values: Tensor, weight: Tensor) -> Tensor:
        """(B, C * K, *S) -> (B, O, *S')."""

    def grad_values(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input (B, C * K, *S), given that of the output (B, O, *S')."""

    def grad_weight(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the weight, given that of the output (B, O, *S')."""

    def forward_ones(self, weight: Tensor, shape: torch.Size) -> Tensor:
        """The output for an input of the given shape (B, C, *S) that is 1 everywhere, in any shape
        that broadcasts to the output.
        """


class ConvOp(NamedTuple):
    """A convolution in 1, 2 or 3 dimensions with zero padding.

    (B, C * K, *S) with weight (O, C * K / groups, *kernel) -> (B, O, *S').
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, values: Tensor, weight: Tensor) -> Tensor:
        no_output_padding = (0,) * len(self.stride)
        return torch.convolution(
            values,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            no_output_padding,
            self.groups,
        )

    def grad_values(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        return self._backward(grad_output, values, weight, (True, False, False))[0]

    def grad_weight(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        return self._backward(grad_output, values, weight, (False, True, False))[1]

    def forward_ones(self, weight: Tensor, shape: torch.Size) -> Tensor:
        # All channels are equal, so one channel with the sum of the weights gives the same output.
        ones = weight.new_ones(1, 1, *shape[2:])
        return self._replace(groups=1).forward(ones, weight.sum(1, keepdim=True))

    def _backward(
        self, grad_output: Tensor, values: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]
    ) -> tuple[Tensor, ...]:
        no_output_padding = (0,) * len(self.stride)
        return torch.ops.aten.convolution_backward(
            grad_output,
            values,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            no_output_padding,
            self.groups,
            mask,
        )


class MatMulOp(NamedTuple):
    """A matrix product, (B, C * K) with weight (O, C * K) -> (B, O)."""

    def forward(self, values: Tensor, weight: Tensor) -> Tensor:
        return values @ weight.T

    def grad_values(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        return grad_output @ weight

    def grad_weight(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        return grad_output.T @ values

    def forward_ones(self, weight: Tensor, shape: torch.Size) -> Tensor:
        return weight.sum(1)


class GroupedMatMulOp(NamedTuple):
    """A matrix product for each group, as of a grouped convolution over a single pixel.

    (B, C * K, 1) with weight (O, C * K / groups, 1) -> (B, O, 1). As one batched product it takes
    half the time of the convolution on a CPU (49 and 169 groups, measured).
    """

    groups: int

    def forward(self, values: Tensor, weight: Tensor) -> Tensor:
        return self._join(self._split(values) @ self._matrices(weight).transpose(1, 2))

    def grad_values(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        return self._join(self._split(grad_output) @ self._matrices(weight))

    def grad_weight(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        matrices = self._split(grad_output).transpose(1, 2) @ self._split(values)
        return matrices.reshape(weight.shape)

    def forward_ones(self, weight: Tensor, shape: torch.Size) -> Tensor:
        return weight.sum(1)

    def _split(self, values: Tensor) -> Tensor:
        """(B, groups * n, 1) -> (groups, B, n)."""
        per_group = values.shape[1] // self.groups
        return values.reshape(values.shape[0], self.groups, per_group).transpose(0, 1)

    def _join(self, values: Tensor) -> Tensor:
        """(groups, B, n) -> (B, groups * n, 1)."""
        return values.transpose(0, 1).flatten(1).unsqueeze(2)

    def _matrices(self, weight: Tensor) -> Tensor:
        """(O, n, 1) -> (groups, O / groups, n)."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1])


class MixtureOp(NamedTuple):
    """A weighted sum of each channel's own K values.

    (B, C * K, *S) with weight (C, K), or (1, K) for the same sum in all channels -> (B, C, *S).
    """

    channels: int

    def forward(self, values: Tensor, weight: Tensor) -> Tensor:
        mixed = weight.unsqueeze(1) @ self._per_channel(values)
        return mixed.reshape(values.shape[0], self.channels, *values.shape[2:])

    def grad_values(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        return (weight.unsqueeze(2) * self._per_channel(grad_output)).reshape(values.shape)

    def grad_weight(self, grad_output: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        per_sample = self._per_channel(grad_output) @ self._per_channel(values).transpose(2, 3)
        per_channel = per_sample.sum(0).squeeze(1)
        if weight.shape[0] == 1:
            return per_channel.sum(0, keepdim=True)
        return per_channel

    def forward_ones(self, weight: Tensor, shape: torch.Size) -> Tensor:
        return weight.sum(1).reshape(-1, *[1] * (len(shape) - 2))

    def _per_channel(self, values: Tensor) -> Tensor:
        """(B, C * K, *S) -> (B, C, K, S), also for vectors; K = 1 for (B, C, *S)."""
        num_functions = values.shape[1] // self.channels
        return values.reshape(values.shape[0], self.channels, num_functions, prod(values.shape[2:]))

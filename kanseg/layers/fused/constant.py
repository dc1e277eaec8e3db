"""The constant basis function, which is left out of the convolution.

A function that is 1 everywhere needs no convolution over all channels: its output is the same for
all samples, and with zero padding it depends on the distance to the border only. For a basis of
degree D this saves 1 / (D + 1) of the work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.bases import Basis
from kanseg.layers.fused.linear_ops import ConvOp, LinearOp

# Smallest number of entries of x; with fewer, computing the output for ones takes longer.
MIN_ENTRIES = 1 << 16


def split_constant(weight: Tensor, basis: Basis, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Split the weight (O, C, K, *kernel) into those of the constant function and of the others.

    Returns:
        (O, C, *kernel) and (O, C, K - 1, *kernel); None and the whole weight if the basis has no
        constant function or no other one, or if x is small.
    """
    is_large = torch.compiler.is_compiling() or x.numel() >= MIN_ENTRIES
    if basis.constant_function is None or basis.num_functions == 1 or not is_large:
        return None, weight
    constant, others = weight.split([1, basis.num_functions - 1], dim=2)
    return constant.squeeze(2), others


def constant_output(op: LinearOp, weight: Tensor, shape: torch.Size) -> Tensor:
    """The part of the output that comes from the constant function, in any shape that broadcasts to
    the output.

    Equal to `op.forward_ones`, but for a convolution it is computed on a small image that has all
    borders of the large one and a single inner pixel.

    Args:
        op: the linear operation.
        weight: (O, C, *kernel) of the constant function.
        shape: (B, C, *S) of the input.
    """
    if not isinstance(op, ConvOp):
        return op.forward_ones(weight, shape)
    small_shape, indices = [*shape[:2]], []
    for axis in range(len(op.stride)):
        size, index = _shrink_axis(op, axis, shape[2 + axis], weight.shape[2 + axis])
        small_shape.append(size)
        indices.append(index.to(weight.device))
    y = op.forward_ones(weight, torch.Size(small_shape))
    for axis, index in enumerate(indices, start=2):
        y = y.index_select(axis, index)
    return y


def _shrink_axis(op: ConvOp, axis: int, size: int, kernel: int) -> tuple[int, Tensor]:
    """Size of the small image along an axis, and for each output of the large image the index of
    the equal output of the small one.
    """
    stride, padding, dilation = op.stride[axis], op.padding[axis], op.dilation[axis]
    extent = dilation * (kernel - 1) + 1
    outputs = (size + 2 * padding - extent) // stride + 1
    # All outputs that read no padding are equal: keep one of them.
    first_inner = -(-padding // stride)
    last_inner = (size + padding - extent) // stride
    removed = max(last_inner - first_inner, 0)
    index = torch.arange(outputs)
    shifted = (index - removed).clamp_min(first_inner)
    index = torch.where(index > first_inner, shifted, index)
    return size - removed * stride, index

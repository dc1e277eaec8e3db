"""Basis functions followed by a convolution or a matrix product, without saving their values.

    basis_convolution(x, basis, conv)            conv(basis(x))
    basis_mixture(x, basis, weight)              sum_j weight[c, j] * B_j(x_c)
    activation_convolution(x, activation, conv)  conv(activation(x))

Each computes the expression on the right in one fused step (`kanseg.layers.fused.autograd`). Plain
operations are used for second derivatives, and under `torch.compile`, `torch.export`, `torch.func`
and forward-mode differentiation, which cannot trace the fused step. A part that does more than its
class (hooks, LoRA, quantization; see `kanseg.layers.fused.plain`) is called as a module, and
autograd saves the values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.bases import Basis
from kanseg.bases.base import (
    aligned,
    at_least_float32,
    check_floating,
    has_autocast,
    without_autocast,
)
from kanseg.layers.fused.autograd import FusedActivation, FusedBasis, memory_format, unfused_forward
from kanseg.layers.fused.constant import constant_output, split_constant
from kanseg.layers.fused.linear_ops import ConvOp, GroupedMatMulOp, LinearOp, MatMulOp, MixtureOp
from kanseg.layers.fused.plain import (
    is_plain_activation,
    is_plain_basis,
    is_plain_map,
    is_plain_tensor,
    is_transformed,
    named_tensors,
)


def basis_convolution(
    x: Tensor, basis: Basis, conv: nn.Module, dropout_mask: Tensor | None = None
) -> Tensor:
    """conv(basis(x)): (B, C, *S) -> (B, O, *S'), saving only x and the weights for backward.

    The values of the functions, K times as large as x, exist for a few samples at a time. Zero
    padding pads the values of the functions, not x.

    Args:
        x: (B, C, *S), float64, float32, or half precision (then functions are computed in float32).
        basis: K functions of each channel.
        conv: a `torch.nn.Conv1d/2d/3d` over C * K channels without bias, channel-major (index c * K
            + j), a `torch.nn.Linear`, or any other module for such values.
        dropout_mask: (B, C, K) factors of the functions, without gradient.
    """
    if is_plain_tensor(x) and is_plain_basis(basis) and is_plain_map(conv):
        padded, op = _linear_op(basis.normalized(x), conv)
        if op is not None:
            weight = conv.weight.unflatten(1, (-1, basis.num_functions))
            return _fused_basis(padded, basis, op, weight, dropout_mask)
    return conv(_call_basis(x, basis, dropout_mask))


def basis_mixture(
    x: Tensor, basis: Basis, weight: Tensor, dropout_mask: Tensor | None = None
) -> Tensor:
    """One function per channel, or one for all: sum_j weight[c, j] * B_j(x_c), (B, C, *S) -> (B, C,
    *S).

    Args:
        x, basis, dropout_mask: as of `basis_convolution`.
        weight: (C, K) or (1, K).
    """
    is_plain = is_plain_tensor(x) and is_plain_basis(basis) and is_plain_tensor(weight)
    if is_plain and (is_transformed() or x.numel() == 0):
        return plain_mixture(basis.normalized(x), basis, weight, dropout_mask)
    op = MixtureOp(x.shape[1])
    if is_plain:
        y = _fused_basis(basis.normalized(x), basis, op, weight.unsqueeze(1), dropout_mask)
    else:
        dtype = _compute_dtype(x)
        values = _call_basis(x, basis, dropout_mask)
        with without_autocast(x):
            y = op.forward(values.to(dtype), weight.to(dtype))
    if is_transformed():
        return y
    return y.contiguous(memory_format=memory_format(x))


def plain_mixture(
    x: Tensor, basis: Basis, weight: Tensor, dropout_mask: Tensor | None = None
) -> Tensor:
    """`basis_mixture` with plain operations, one function after the other, of an x to which a
    normalizing domain map was applied. A compiler fuses them into one loop, without memory for the
    K values.
    """
    with without_autocast(x):
        u = basis.pointwise_map.value(at_least_float32(x))
        weight = weight.to(u.dtype)
        y = torch.zeros_like(u)
        for j, (value, _) in enumerate(basis.values_and_derivatives(u)):
            factor = aligned(weight[:, j], u)
            if dropout_mask is not None:
                mask = dropout_mask[:, :, j].to(u.dtype)
                factor = factor * mask.reshape(*u.shape[:2], *[1] * (u.dim() - 2))
            y = y + factor * value
        return y.to(x.dtype)


def activation_convolution(x: Tensor, activation: nn.Module, conv: nn.Module) -> Tensor:
    """conv(activation(x)): (B, C, *S) -> (B, O, *S'), saving x and the weights for backward."""
    check_floating(x)
    is_plain = is_plain_tensor(x) and is_plain_activation(activation) and is_plain_map(conv)
    if is_plain and x.numel() > 0 and not is_transformed():
        padded, op = _linear_op(x, conv)
        if op is not None:
            _check_weight(conv.weight, x)
            tensors = named_tensors(activation)
            return FusedActivation.apply(
                activation,
                op,
                _compute_dtype(x),
                tuple(tensors),
                padded,
                conv.weight,
                *tensors.values(),
            )
    return conv(activation(x))


def _fused_basis(
    x: Tensor, basis: Basis, op: LinearOp, weight: Tensor, dropout_mask: Tensor | None
) -> Tensor:
    """op(basis(x)) with weight (O, C, K, *kernel); x is normalized and padded already."""
    _check_weight(weight, x)
    dtype = _compute_dtype(x)
    constant = None
    if dropout_mask is None:
        constant, weight = split_constant(weight, basis, x)
    with without_autocast(x):
        if x.numel() == 0 or is_transformed():
            y = unfused_forward(x, basis, op, weight, dropout_mask, dtype)
            if constant is not None:
                y = y + op.forward_ones(constant, x.shape).to(y.dtype)
            return y
        tensors = named_tensors(basis)
        y = FusedBasis.apply(
            basis, op, dtype, tuple(tensors), x, weight, dropout_mask, *tensors.values()
        )
        if constant is not None:
            y = y + constant_output(op, constant, x.shape).to(y.dtype)
        return y


def _call_basis(x: Tensor, basis: nn.Module, dropout_mask: Tensor | None) -> Tensor:
    """basis(x), called as a module, times the mask: (B, C, *S) -> (B, C * K, *S)."""
    values = basis(x)
    if dropout_mask is not None:
        ones = [1] * (x.dim() - 2)
        values = values * dropout_mask.to(values.dtype).reshape(*dropout_mask.shape, *ones)
    return values.flatten(1, 2)


def _check_weight(weight: Tensor, x: Tensor) -> None:
    """Raise ValueError for a weight without values, with which a convolution would return noise."""
    if weight.is_meta and not x.is_meta:
        raise ValueError(
            f"the weights are on the device meta and have no values, the input is on {x.device}:"
            " load the weights first"
        )


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a convolution of x: that of autocast if it is enabled, else that of x."""
    device = x.device.type
    if x.dtype == torch.float64 or not has_autocast(x) or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def _linear_op(x: Tensor, conv: nn.Module) -> tuple[Tensor, LinearOp | None]:
    """x, padded unless the padding is zeros, and the linear operation of a convolution or
    `nn.Linear`; None for an operation that only the module itself can compute.
    """
    if conv.bias is not None:
        return x, None
    if isinstance(conv, nn.Linear):
        return x, MatMulOp()
    is_unpadded = conv.padding in ((0,), "valid")
    if conv.groups > 1 and is_unpadded and x.shape[2:] == conv.kernel_size == (1,):
        return x, GroupedMatMulOp(conv.groups)
    # torch's own list for F.pad: (before, after) of each axis, the last axis first
    pad = conv._reversed_padding_repeated_twice
    before, after = pad[::2][::-1], pad[1::2][::-1]
    if conv.padding_mode != "zeros":
        # Padding x pads the values of its functions in the same way.
        x = F.pad(x, pad, mode=conv.padding_mode)
        before = after = [0] * len(before)
    if before != after:
        return x, None
    return x, ConvOp(conv.stride, tuple(before), conv.dilation, conv.groups)

"""The one place where univariate functions meet a convolution or a matrix, without keeping their
values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.bases.base import (
    aligned,
    check_floating,
    has_autocast,
    without_autocast,
)
from kanseg.layers.fused.autograd import Activated, Expansion, Fused
from kanseg.layers.fused.contractions import Blocks, Contraction, Convolution, Mixture, Product
from kanseg.layers.fused.plain import (
    held,
    is_plain_activation,
    is_plain_basis,
    is_plain_map,
    is_plain_tensor,
    is_transformed,
)


def basis_convolution(
    x: Tensor, basis: Basis, conv: nn.Module, gate: Tensor | None = None
) -> Tensor:
    """conv(basis(x)): (B, C, *S) -> (B, O, *S'), keeping only x and the weights for backward.

    The values of the functions, K times as large as x, exist for a few samples at a time. Zero
    padding is zero in the values: outside the image no function is active. Under `torch.compile`,
    `torch.export`, `torch.func` and forward-mode differentiation the same is computed by plain
    operations, which those can see into; so are second derivatives. Where the basis or `conv` does
    more than its class says (see `kanseg.layers.fused.plain`), both are called as modules, and
    autograd keeps the values.

    Args:
        x: of float64, float32, or half precision (the functions are computed in float32).
        basis: K functions of each channel.
        conv: a `torch.nn.Conv1d/2d/3d` over C * K channels without bias, channel-major (index c * K
            + j), a `torch.nn.Linear`, or any other module that maps such values.
        gate: (B, C, K), factors of the functions without gradient (dropout).
    """
    if is_plain_tensor(x) and is_plain_basis(basis) and is_plain_map(conv):
        u, contraction = _contraction(basis.normalized(x), conv)
        if contraction is not None:
            return contract(u, basis, contraction, conv.weight, gate)
    return conv(_called(x, basis, gate))


def basis_mixture(x: Tensor, basis: Basis, weight: Tensor, gate: Tensor | None = None) -> Tensor:
    """One function per channel, or one for all: sum_j weight[c, j] * B_j(x_c), (B, C, *S) -> (B, C,
    *S).

    Args:
        x, basis, gate: as of `basis_convolution`.
        weight: (C, K) or (1, K).
    """
    plain = is_plain_tensor(x) and is_plain_basis(basis) and is_plain_tensor(weight)
    if plain and (is_transformed() or x.numel() == 0):
        return plain_mixture(x, basis, weight, gate)
    mixture = Mixture(x.shape[1])
    if plain:
        y = contract(basis.normalized(x), basis, mixture, weight, gate)
        return _in_memory_format(y, x)
    dtype = _precision(x)
    values = _called(x, basis, gate)
    with without_autocast(x):
        return _in_memory_format(mixture.forward(values.to(dtype), weight.to(dtype)), x)


def _in_memory_format(y: Tensor, x: Tensor) -> Tensor:
    """y in the memory format of x, as elementwise functions have it."""
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if is_transformed() or layout is None or x.is_contiguous():
        return y
    return y.contiguous(memory_format=layout) if x.is_contiguous(memory_format=layout) else y


def plain_mixture(x: Tensor, basis: Basis, weight: Tensor, gate: Tensor | None) -> Tensor:
    """`basis_mixture` by plain operations, one function after the other: a compiler makes one loop
    of them, and needs no memory for the K values.
    """
    with without_autocast(x):
        u = basis.mapped(x)
        weight = weight.to(u.dtype)
        y = torch.zeros_like(u)
        for j, (value, _) in enumerate(basis.terms(u)):
            factor = aligned(weight[:, j], u)
            if gate is not None:
                factor = factor * gate[:, :, j].to(u.dtype).reshape(
                    *u.shape[:2], *[1] * (u.dim() - 2)
                )
            y = y + factor * value
        return y.to(x.dtype)


def activation_convolution(x: Tensor, activation: nn.Module, conv: nn.Module) -> Tensor:
    """conv(activation(x)), keeping only x and the weights for backward."""
    check_floating(x)
    plain = is_plain_tensor(x) and is_plain_activation(activation) and is_plain_map(conv)
    if plain and x.numel() > 0 and not is_transformed():
        padded, contraction = _contraction(x, conv)
        if contraction is not None:
            _check_weight(conv.weight, x)
            tensors = held(activation)
            return Activated.apply(
                activation,
                contraction,
                _precision(x),
                tuple(tensors),
                padded,
                conv.weight,
                *tensors.values(),
            )
    return conv(activation(x))


def contract(
    x: Tensor, basis: Basis, contraction: Contraction, weight: Tensor, gate: Tensor | None
) -> Tensor:
    """The contraction of all functions' values with the weight; a normalizing domain map has been
    applied to x already.
    """
    _check_weight(weight, x)
    dtype = _precision(x)
    with without_autocast(x):
        if x.numel() == 0 or is_transformed():
            return Expansion(x, basis, contraction, weight, gate, dtype).plain()
        tensors = held(basis)
        return Fused.apply(
            basis, contraction, dtype, tuple(tensors), x, weight, gate, *tensors.values()
        )


def _called(x: Tensor, basis: nn.Module, gate: Tensor | None) -> Tensor:
    """The functions' values by calling the basis, times the gate: (B, C * K, *S)."""
    values = basis(x)
    if gate is not None:
        values = values * gate.to(values.dtype).reshape(*gate.shape, *[1] * (x.dim() - 2))
    return values.flatten(1, 2)


def _check_weight(weight: Tensor, x: Tensor) -> None:
    """ValueError for a weight without values; a convolution would return whatever is in memory."""
    if weight.is_meta and not x.is_meta:
        raise ValueError(
            f"the weights are on the device meta and have no values, the input is on {x.device}:"
            " load the weights first"
        )


def _precision(x: Tensor) -> torch.dtype:
    """What a convolution of x computes in: that of autocast where it is on, else that of x."""
    if not has_autocast(x) or x.dtype == torch.float64:
        return x.dtype
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _contraction(x: Tensor, conv: nn.Module) -> tuple[Tensor, Contraction | None]:
    """The convolution as a contraction, and x padded for it where padding is not by zeros; None for
    what only `conv` itself can do.
    """
    if isinstance(conv, nn.Linear):
        return x, Product() if conv.bias is None else None
    if conv.bias is not None:
        return x, None
    if (
        conv.groups > 1
        and x.shape[2:] == conv.kernel_size == (1,)
        and conv.padding in ((0,), "valid")
    ):
        return x, Blocks(conv.groups)
    padding = conv.padding
    if isinstance(padding, str):
        before, after = (
            conv._reversed_padding_repeated_twice[::2][::-1],
            conv._reversed_padding_repeated_twice[1::2][::-1],
        )
        if before != after:
            return x, None
        padding = tuple(before)
    if conv.padding_mode != "zeros":
        # Functions of a mirrored or repeated border are the mirrored or repeated functions.
        x, padding = (
            nn.functional.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode),
            (0,) * len(padding),
        )
    return x, Convolution(conv.stride, padding, conv.dilation, conv.groups)

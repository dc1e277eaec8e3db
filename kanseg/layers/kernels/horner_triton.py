"""Triton kernels for the polynomials of `kanseg.layers.kernels.horner` on a GPU.

The forward kernel reads x once and writes y once. The backward kernel reads x and the gradient of y
once, writes the gradient of x once, and sums g t^n over each tile into a buffer, which torch adds
up. No atomics are used, so that results are deterministic.

Importing this module needs Triton; `kanseg.layers.kernels.horner.select_kernels` decides when it is
used.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from kanseg.layers.kernels.horner import PolynomialVariable

# Entries of x per program, and its warps. Forward: 8 entries per thread, one load of 16 bytes in
# half precision. Backward: 16 per thread, since larger tiles leave fewer sums to add up.
FORWARD = {"tile": 1024, "num_warps": 4}
BACKWARD = {"tile": 4096, "num_warps": 8}
# Channels per tile in channels_last: half a cache line or a whole one. More would leave fewer
# positions to sum over.
CHANNELS_LAST_WIDTH = 32


def forward(x: Tensor, coefficients: Tensor, t: PolynomialVariable, silu: bool) -> Tensor:
    """sum_n coefficients[c, n] t(x)^n, plus SiLU of x on request: (B, C, *S) -> the same shape.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
        coefficients: (C, N), or (1, N) for all channels, N >= 1.
    """
    x = _dense(x)
    y = torch.empty_like(x)
    tiles = _Tiles(x, FORWARD["tile"])
    with torch.cuda.device_of(x):
        _forward_kernel[tiles.grid](
            x,
            y,
            *_rows_and_stride(coefficients),
            *tiles.sizes,
            *tiles.strides,
            N=coefficients.shape[1],
            SCALE=t.scale,
            CENTER=t.center,
            SILU=silu,
            BLOCK_C=tiles.block_c,
            BLOCK_P=tiles.block_p,
            num_warps=FORWARD["num_warps"],
        )
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    coefficients: Tensor,
    t: PolynomialVariable,
    silu: bool,
    needs_x: bool,
    needs_coefficients: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and of the coefficients, given that of y; None where not needed."""
    if not (needs_x or needs_coefficients):
        return None, None
    x = _dense(x)
    if _is_channels_last(x):
        grad = grad.movedim(1, -1).contiguous().movedim(-1, 1)
    else:
        grad = grad.contiguous()
    grad_x = torch.empty_like(x) if needs_x else None
    tiles = _Tiles(x, BACKWARD["tile"])
    sums = None
    if needs_coefficients:
        shape = tiles.rows, coefficients.shape[1], x.shape[1]
        sums = torch.empty(shape, device=x.device, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _backward_kernel[tiles.grid](
            x,
            grad,
            grad_x,
            sums,
            *_rows_and_stride(coefficients),
            *tiles.sizes,
            *tiles.strides,
            N=coefficients.shape[1],
            SCALE=t.scale,
            CENTER=t.center,
            SILU=silu,
            BLOCK_C=tiles.block_c,
            BLOCK_P=tiles.block_p,
            num_warps=BACKWARD["num_warps"],
        )
    if sums is None:
        return grad_x, None
    if len(coefficients) == 1:
        grad_coefficients = sums.sum((0, 2)).unsqueeze(0)
    else:
        grad_coefficients = sums.sum(0).T
    return grad_x, grad_coefficients.to(coefficients.dtype)


class _Tiles:
    """Cuts x (B, C, *S), contiguous or channels_last, into tiles of channels by positions.

    A channels_last tensor is treated as one sample of B * S positions.
    """

    def __init__(self, x: Tensor, entries: int):
        channels, size = x.shape[1], prod(x.shape[2:])
        if _is_channels_last(x):
            size *= len(x)
            samples, self.strides = 1, (size * channels, 1, channels)
            width = min(triton.next_power_of_2(channels), CHANNELS_LAST_WIDTH)
        else:
            samples, self.strides = len(x), (size * channels, size, 1)
            width = 1
        self.block_p = min(triton.next_power_of_2(size), entries // width)
        self.block_c = min(triton.next_power_of_2(channels), entries // self.block_p)
        runs, columns = triton.cdiv(size, self.block_p), triton.cdiv(channels, self.block_c)
        self.rows = samples * runs
        self.sizes = channels, size, runs, columns
        # One axis: a grid may have 2^31 programs along the first, and 65535 along the others.
        self.grid = (self.rows * columns,)


def _is_channels_last(x: Tensor) -> bool:
    """True for channels_last, and where both layouts are the same: (B, C), one channel, or one
    position.
    """
    return x.movedim(1, -1).is_contiguous()


def _dense(x: Tensor) -> Tensor:
    """x itself if it is channels_last, else contiguous."""
    if _is_channels_last(x):
        return x
    return x.contiguous()


def _rows_and_stride(coefficients: Tensor) -> tuple[Tensor, int]:
    """Coefficients in float32, and the distance between the rows of two channels."""
    stride = coefficients.shape[1]
    if len(coefficients) == 1:
        stride = 0
    return coefficients.float().contiguous(), stride


@triton.jit
def _tile(runs, columns, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """The tile of this program: sample, row of the sums, channels, positions.

    All are 64-bit integers: a tensor may have more than 2^31 entries.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // columns
    c = (program % columns) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = (row % runs) * BLOCK_P + tl.arange(0, BLOCK_P)
    return row // runs, row, c, p


@triton.jit
def _variable(x, sigmoid, SCALE: tl.constexpr, CENTER: tl.constexpr):
    """The variable t(x) of the polynomials, given sigmoid(x)."""
    t = x
    if SCALE == 1:
        t = sigmoid - CENTER
    elif SCALE != 0:
        t = tl.sigmoid(SCALE * x) - CENTER
    return t


@triton.jit
def _forward_kernel(
    x_pointer,
    y_pointer,
    coefficients,
    row_stride,
    channels,
    size,
    runs,
    columns,
    sample_stride,
    channel_stride,
    position_stride,
    N: tl.constexpr,
    SCALE: tl.constexpr,
    CENTER: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    sample, row, c, p = _tile(runs, columns, BLOCK_C, BLOCK_P)
    within = c[:, None] * channel_stride + p[None, :] * position_stride
    offsets = sample * sample_stride + within
    mask = (c < channels)[:, None] & (p < size)[None, :]
    a = coefficients + c * row_stride

    x = tl.load(x_pointer + offsets, mask=mask, other=0).to(tl.float32)
    sigmoid = tl.sigmoid(x)
    t = _variable(x, sigmoid, SCALE, CENTER)
    y = tl.zeros_like(x) + tl.load(a + (N - 1), mask=c < channels, other=0)[:, None]
    for n in tl.static_range(1, N):
        y = y * t + tl.load(a + (N - 1 - n), mask=c < channels, other=0)[:, None]
    if SILU:
        y += x * sigmoid
    tl.store(y_pointer + offsets, y.to(y_pointer.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    x_pointer,
    grad_pointer,
    grad_x_pointer,  # None where it is not needed
    sums,  # (rows, N, C), or None
    coefficients,
    row_stride,
    channels,
    size,
    runs,
    columns,
    sample_stride,
    channel_stride,
    position_stride,
    N: tl.constexpr,
    SCALE: tl.constexpr,
    CENTER: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    sample, row, c, p = _tile(runs, columns, BLOCK_C, BLOCK_P)
    within = c[:, None] * channel_stride + p[None, :] * position_stride
    offsets = sample * sample_stride + within
    mask = (c < channels)[:, None] & (p < size)[None, :]
    a = coefficients + c * row_stride

    x = tl.load(x_pointer + offsets, mask=mask, other=0).to(tl.float32)
    g = tl.load(grad_pointer + offsets, mask=mask, other=0).to(tl.float32)
    sigmoid = tl.sigmoid(x)
    t = _variable(x, sigmoid, SCALE, CENTER)
    if grad_x_pointer is not None:
        slope = tl.zeros_like(x)  # first dy/dt by Horner's rule, then dy/dx
        for n in tl.static_range(1, N):
            column = tl.load(a + (N - n), mask=c < channels, other=0)[:, None]
            slope = slope * t + (N - n) * column
        if SCALE != 0:
            mapped = t + CENTER
            slope *= SCALE * (mapped * (1 - mapped))
        if SILU:
            slope += sigmoid + x * sigmoid * (1 - sigmoid)
        tl.store(
            grad_x_pointer + offsets, (g * slope).to(grad_x_pointer.dtype.element_ty), mask=mask
        )
    if sums is not None:
        for n in tl.static_range(N):
            # Outside the mask g is 0.
            tl.store(sums + (row * N + n) * channels + c, tl.sum(g, axis=1), mask=c < channels)
            g *= t

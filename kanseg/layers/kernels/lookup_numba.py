"""Numba kernels that evaluate the tables of `kanseg.layers.kernels.lookup` on a CPU."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numba
import numpy as np
import torch
from torch import Tensor

from kanseg.layers.kernels.numba_tools import (
    FLOAT,
    ONE,
    ZERO,
    from_rows,
    has_rows_per_sample,
    jit,
    run_kernel,
    sigmoid,
    to_rows,
)

if TYPE_CHECKING:
    from kanseg.layers.kernels.lookup import CubicTable

BLOCK = 1024  # values of a row that pass through all loops while they are in the cache
TWO, THREE = FLOAT(2), FLOAT(3)


def forward(x: Tensor, table: CubicTable, silu: bool) -> Tensor:
    """The tabulated function of each channel, plus SiLU of x on request: (B, C, *S) -> the same.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
    """
    per_sample = has_rows_per_sample(x)
    kernel, _ = _kernels(table.scale, silu)
    arguments = _arrays(table)
    y = run_kernel(kernel, to_rows(x, per_sample), lambda part: arguments)
    return from_rows(y, x, per_sample)


def backward(grad: Tensor, x: Tensor, table: CubicTable, silu: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the table's pieces, given the gradient of y."""
    per_sample = has_rows_per_sample(x)
    x_rows, grad_rows = to_rows(x, per_sample), to_rows(grad, per_sample)
    _, kernel = _kernels(table.scale, silu)
    # Each thread has sums of its own.
    sums = np.zeros((torch.get_num_threads(), *table.pieces.shape))
    fixed = grad_rows.numpy(), *_arrays(table)
    grad_x = run_kernel(kernel, x_rows, lambda part: (*fixed, sums[part]))
    return from_rows(grad_x, x, per_sample), torch.from_numpy(sums).sum(0)


def _arrays(table: CubicTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces, start and rate as float32 arrays."""
    pieces = table.pieces.detach().float().contiguous()
    return pieces.numpy(), table.start.float().numpy(), table.rate.float().numpy()


@cache
def _kernels(scale: float, silu: bool) -> tuple:  # noqa: PLR0915
    """Compile the forward and backward kernels for tables of pieces (R, P, 4), R = 1 or C, at the
    table position (t - start) * rate with t = x or sigmoid(scale x).

    The loops that only compute are vectorized by the compiler. Gathers and scatters have loops of
    their own: their vector instructions are slower than scalar ones and would slow down a shared
    loop (measured with AVX-512 on Zen 4).
    """
    scale = FLOAT(scale)

    @numba.njit(inline="always")
    def find_pieces(row, start, rate, count, pieces, fractions):  # noqa: ANN001, ANN202
        """Index of the piece of each value, and the position inside the piece from 0 to 1."""
        end, last = FLOAT(count), FLOAT(count - 1)
        for i in range(len(row)):
            t = row[i]
            if scale != 0:
                t = sigmoid(scale * t)
            position = (t - start) * rate
            # Not min and max, which lose NaN.
            position = ZERO if position < ZERO else position
            position = end if position > end else position
            k = np.int32(position if position < last else last)  # the last one for NaN
            pieces[i] = k
            fractions[i] = position - FLOAT(k)

    @jit
    def forward(x, y, table, starts, rates, start, stop):  # noqa: ANN001, ANN202
        pieces, fractions = np.empty(BLOCK, np.int32), np.empty(BLOCK, FLOAT)
        for r in range(start, stop):
            line, at = table[r % table.shape[0]], r % starts.shape[0]
            for begin in range(0, x.shape[1], BLOCK):
                row, out = x[r, begin : begin + BLOCK], y[r, begin : begin + BLOCK]
                find_pieces(row, starts[at], rates[at], len(line), pieces, fractions)
                for i in range(len(row)):
                    a, t = line[np.uint32(pieces[i])], fractions[i]
                    fractions[i] = a[0] + t * (a[1] + t * (a[2] + t * a[3]))
                for i in range(len(row)):
                    p = fractions[i]
                    if silu:
                        p += row[i] * sigmoid(row[i])
                    out[i] = p

    @jit
    def backward(x, grad_x, grad, table, starts, rates, sums, start, stop):  # noqa: ANN001, ANN202
        pieces, fractions = np.empty(BLOCK, np.int32), np.empty(BLOCK, FLOAT)
        slopes = np.empty(BLOCK, FLOAT)
        for r in range(start, stop):
            line, total = table[r % table.shape[0]], sums[r % table.shape[0]]
            at, end = r % starts.shape[0], FLOAT(table.shape[1])
            for begin in range(0, x.shape[1], BLOCK):
                row, g = x[r, begin : begin + BLOCK], grad[r, begin : begin + BLOCK]
                out = grad_x[r, begin : begin + BLOCK]
                find_pieces(row, starts[at], rates[at], len(line), pieces, fractions)
                for i in range(len(row)):
                    a, t = line[np.uint32(pieces[i])], fractions[i]
                    slopes[i] = a[1] + t * (TWO * a[2] + t * (THREE * a[3]))
                for i in range(len(row)):
                    moments, t = total[np.uint32(pieces[i])], fractions[i]
                    square = t * t
                    # Read all, then write all: one vector instruction each.
                    m0 = moments[0] + g[i]
                    m1 = moments[1] + g[i] * t
                    m2 = moments[2] + g[i] * square
                    m3 = moments[3] + g[i] * (t * square)
                    moments[0], moments[1], moments[2], moments[3] = m0, m1, m2, m3
                for i in range(len(row)):
                    t, slope = row[i], rates[at]
                    if scale != 0:
                        t = sigmoid(scale * t)
                        slope *= scale * t * (ONE - t)
                    position = (t - starts[at]) * rates[at]
                    inside = (position >= ZERO) & (position <= end)
                    d = slopes[i] * slope if inside else ZERO
                    if silu:
                        s = sigmoid(row[i])
                        d += s + row[i] * s * (ONE - s)
                    out[i] = g[i] * d

    return forward, backward

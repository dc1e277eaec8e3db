"""The tables of `kanseg.layers.kernels.lookup` on a CPU, compiled by Numba."""

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
    jit,
    lies_by_sample,
    rows,
    run,
    sigmoid,
)

if TYPE_CHECKING:
    from kanseg.layers.kernels.lookup import Table

BLOCK = 1024  # values of a row that go through all loops while they are in the cache
TWO, THREE = FLOAT(2), FLOAT(3)


def forward(x: Tensor, table: Table, silu: bool) -> Tensor:
    """The tabulated function of each channel, plus SiLU if asked for: (B, C, *S) -> the same shape.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
    """
    by_sample = lies_by_sample(x)
    kernel, _ = _kernels(table.scale, table.periodic, silu)
    arguments = _arrays(table)
    y = run(kernel, rows(x, by_sample), lambda part: arguments, sigmoid=silu or table.scale == 1)
    return from_rows(y, x, by_sample)


def backward(grad: Tensor, x: Tensor, table: Table, silu: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the pieces of the table for that of y."""
    by_sample = lies_by_sample(x)
    seen, upstream = rows(x, by_sample), rows(grad, by_sample)
    _, kernel = _kernels(table.scale, table.periodic, silu)
    # No two threads add to the same sums.
    sums = np.zeros((torch.get_num_threads(), *table.pieces.shape))
    fixed = upstream.numpy(), *_arrays(table)
    needs_sigmoid = silu or table.scale == 1
    grad_x = run(kernel, seen, lambda part: (*fixed, sums[part]), sigmoid=needs_sigmoid)
    return from_rows(grad_x, x, by_sample), torch.from_numpy(sums).sum(0)


def _arrays(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces, start and rate; the last two in double precision where the functions repeat, and a
    large input is many periods away.
    """
    dtype = torch.float64 if table.periodic else torch.float32
    pieces = table.pieces.detach().float().contiguous()
    return pieces.numpy(), table.start.to(dtype).numpy(), table.rate.to(dtype).numpy()


@cache
def _kernels(scale: float, periodic: bool, silu: bool) -> tuple:  # noqa: PLR0915
    """Forward and backward of functions that are read from pieces (A, P, 4), A of 1 or C: cubic
    polynomials of the place (t - start) * rate, with t = x or sigmoid(scale x).

    A compiler makes vector instructions of the loops that only compute. What reads or adds where a
    value points to is in a loop of its own, since it would make all of a common loop slow: vector
    instructions for that take longer than single ones (measured with AVX-512 on Zen 4).
    """
    scale = FLOAT(scale)

    @numba.njit(inline="always")
    def find(row, s, start, rate, count, pieces, shares):  # noqa: ANN001, ANN202
        """Piece of each value, and the share of the way through it."""
        end, last = FLOAT(count), FLOAT(count - 1)
        for i in range(len(row)):
            t = row[i]
            if scale == 1:
                t = s[i]
            elif scale != 0:
                t = sigmoid(scale * t)
            place = (t - start) * rate
            if periodic:
                place -= end * np.floor(place / end)
            # Not min and max, which lose NaN.
            place = ZERO if place < ZERO else FLOAT(place)
            place = end if place > end else place
            k = np.int32(place if place < last else last)  # the last one for NaN
            pieces[i] = k
            shares[i] = place - FLOAT(k)

    @jit
    def forward(x, y, table, starts, rates, start, stop):  # noqa: ANN001, ANN202
        pieces, shares = np.empty(BLOCK, np.int32), np.empty(BLOCK, FLOAT)
        for r in range(start, stop):
            line, at = table[r % table.shape[0]], r % starts.shape[0]
            for begin in range(0, x.shape[1], BLOCK):
                row, out = x[r, begin : begin + BLOCK], y[r, begin : begin + BLOCK]
                find(row, out, starts[at], rates[at], len(line), pieces, shares)
                for i in range(len(row)):
                    a, t = line[np.uint32(pieces[i])], shares[i]
                    shares[i] = a[0] + t * (a[1] + t * (a[2] + t * a[3]))
                for i in range(len(row)):
                    p = shares[i]
                    if silu:
                        p += row[i] * out[i]
                    out[i] = p

    @jit
    def backward(x, grad_x, grad, table, starts, rates, sums, start, stop):  # noqa: ANN001, ANN202
        pieces, shares = np.empty(BLOCK, np.int32), np.empty(BLOCK, FLOAT)
        slopes = np.empty(BLOCK, FLOAT)
        for r in range(start, stop):
            line, total = table[r % table.shape[0]], sums[r % table.shape[0]]
            at, end = r % starts.shape[0], FLOAT(table.shape[1])
            for begin in range(0, x.shape[1], BLOCK):
                row, g = x[r, begin : begin + BLOCK], grad[r, begin : begin + BLOCK]
                out = grad_x[r, begin : begin + BLOCK]
                find(row, out, starts[at], rates[at], len(line), pieces, shares)
                for i in range(len(row)):
                    a, t = line[np.uint32(pieces[i])], shares[i]
                    slopes[i] = a[1] + t * (TWO * a[2] + t * (THREE * a[3]))
                for i in range(len(row)):
                    moments, t = total[np.uint32(pieces[i])], shares[i]
                    square = t * t
                    # Read all, then write all: one vector instruction each.
                    m0 = moments[0] + g[i]
                    m1 = moments[1] + g[i] * t
                    m2 = moments[2] + g[i] * square
                    m3 = moments[3] + g[i] * (t * square)
                    moments[0], moments[1], moments[2], moments[3] = m0, m1, m2, m3
                for i in range(len(row)):
                    t, slope = row[i], FLOAT(rates[at])
                    if scale == 1:
                        t = out[i]
                        slope *= t * (ONE - t)
                    elif scale != 0:
                        t = sigmoid(scale * t)
                        slope *= scale * t * (ONE - t)
                    place = (t - starts[at]) * rates[at]
                    inside = periodic or ((place >= ZERO) & (place <= end))
                    d = slopes[i] * slope if inside else ZERO
                    if silu:
                        s = out[i]
                        d += s + row[i] * s * (ONE - s)
                    out[i] = g[i] * d

    return forward, backward

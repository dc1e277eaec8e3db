"""The tables of `kanseg.layers.kernels.lookup` on a CPU, compiled by Numba."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kanseg.layers.kernels.numba_tools import (
    FLOAT,
    ONE,
    ZERO,
    empty_rows,
    from_rows,
    jit,
    lies_by_sample,
    rows,
    run,
)

if TYPE_CHECKING:
    from kanseg.bases.base import TableRange


def forward(x: Tensor, table: Tensor, span: TableRange, silu: bool) -> Tensor:
    """The tabulated function of each channel, plus SiLU if asked for: (B, C, *S) -> the same shape.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
        table: (C, entries + 1), or one row for all channels, float32.
    """
    by_sample = lies_by_sample(x)
    seen, (y, out) = rows(x, by_sample), empty_rows(x, by_sample)
    kernel, _ = _kernels(span.periodic, silu)
    arguments = seen.numpy(), table.detach().numpy(), *_places(span), out.numpy()
    run(kernel, seen, lambda part: arguments, sigmoid=silu)
    return from_rows(y, out, by_sample)


def backward(
    grad: Tensor, x: Tensor, table: Tensor, span: TableRange, silu: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the table for that of y."""
    by_sample = lies_by_sample(x)
    seen, upstream = rows(x, by_sample), rows(grad, by_sample)
    grad_x, out = empty_rows(x, by_sample)
    _, kernel = _kernels(span.periodic, silu)
    # No two threads add to the same sums.
    sums = np.zeros((torch.get_num_threads(), *table.shape), dtype=np.float32)
    fixed = seen.numpy(), upstream.numpy(), table.detach().numpy(), *_places(span), out.numpy()
    run(kernel, seen, lambda part: (*fixed, sums[part]), sigmoid=silu)
    return from_rows(grad_x, out, by_sample), torch.from_numpy(sums).sum(0)


def _places(span: TableRange) -> tuple[np.ndarray, np.ndarray]:
    """Start of the range, and entries for each unit, (1,) or (C,); in double precision where the
    functions repeat, and a large input is many periods away.
    """
    dtype = torch.float64 if span.periodic else torch.float32
    rate = span.entries / (span.hi - span.lo)
    return span.lo.to(dtype).numpy(), rate.to(dtype).numpy()


@cache
def _kernels(periodic: bool, silu: bool) -> tuple:
    """Forward and backward of functions that are read from tables (A, T + 1), A of 1 or C, with
    place (x - lo) * rate in them.
    """

    @jit
    def forward(x, table, lo, rate, y, sigmoids, first, start, stop):  # noqa: ANN001, ANN202
        entries = FLOAT(table.shape[1] - 1)
        last = np.int32(table.shape[1] - 2)
        for r in range(start, stop):
            a, b = r % table.shape[0], r % lo.shape[0]
            line, row, out = table[a], x[r], y[r]
            begin, step = lo[b], rate[b]
            for i in range(len(row)):
                far = (row[i] - begin) * step
                if periodic:
                    far -= entries * np.floor(far / entries)
                # Not min and max, which lose NaN.
                place = ZERO if far < ZERO else FLOAT(far)
                place = entries if place > entries else place
                k = max(min(np.int32(place), last), np.int32(0))  # NaN is any integer
                out[i] = line[k] + (place - FLOAT(k)) * (line[k + 1] - line[k])
            if silu:
                for i in range(len(row)):
                    out[i] += row[i] * sigmoids[r - first, i]

    @jit
    def backward(x, grad, table, lo, rate, grad_x, sums, sigmoids, first, start, stop):  # noqa: ANN001, ANN202
        entries = FLOAT(table.shape[1] - 1)
        last = np.int32(table.shape[1] - 2)
        for r in range(start, stop):
            a, b = r % table.shape[0], r % lo.shape[0]
            line, row, out = table[a], x[r], grad_x[r]
            begin, step = lo[b], rate[b]
            for i in range(len(row)):
                far, g = (row[i] - begin) * step, grad[r, i]
                if periodic:
                    far -= entries * np.floor(far / entries)
                inside = (far >= ZERO) & (far <= entries)
                place = ZERO if far < ZERO else FLOAT(far)
                place = entries if place > entries else place
                k = max(min(np.int32(place), last), np.int32(0))
                beyond = place - FLOAT(k)
                rising = g * beyond
                sums[a, k] += g - rising
                sums[a, k + 1] += rising
                out[i] = (line[k + 1] - line[k]) * FLOAT(step) if inside else ZERO
            for i in range(len(row)):
                if silu:
                    s = sigmoids[r - first, i]
                    out[i] += s + row[i] * s * (ONE - s)
                out[i] *= grad[r, i]

    return forward, backward

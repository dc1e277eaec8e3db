"""The polynomials of `kanseg.layers.kernels.horner` on a CPU, compiled by Numba."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kanseg.layers.kernels.numba_tools import (
    FLOAT,
    ONE,
    from_rows,
    jit,
    lies_by_sample,
    rows,
    run,
    sigmoid,
)

if TYPE_CHECKING:
    from kanseg.layers.kernels.horner import Variable

MOST = 7  # coefficients of a polynomial
BLOCK = 4096  # values of a row whose sums are added up in single precision


def forward(x: Tensor, coefficients: Tensor, t: Variable, silu: bool) -> Tensor:
    """sum_n coefficients[c, n] t(x)^n, plus SiLU of x if asked for: (B, C, *S) -> the same shape.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
        coefficients: (C, N), or (1, N) for all channels, N from 1 to 7.
    """
    by_sample = lies_by_sample(x)
    kernel, _ = _kernels(coefficients.shape[1], *t, silu)
    arguments = (_padded(coefficients),)
    y = run(kernel, rows(x, by_sample), lambda part: arguments, sigmoid=silu or t.scale == 1)
    return from_rows(y, x, by_sample)


def backward(
    grad: Tensor,
    x: Tensor,
    coefficients: Tensor,
    t: Variable,
    silu: bool,
    needs_x: bool,
    needs_coefficients: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and of the coefficients for that of y; None for those that are not needed."""
    count, by_sample = coefficients.shape[1], lies_by_sample(x)
    seen, upstream = rows(x, by_sample), rows(grad, by_sample)
    sums = np.zeros((len(seen), MOST))
    _, kernel = _kernels(count, *t, silu)
    arguments = upstream.numpy(), _padded(coefficients), sums
    grad_x = run(kernel, seen, lambda part: arguments, sigmoid=silu or t.scale == 1)
    found = torch.from_numpy(sums).view(-1, len(coefficients), MOST).sum(0)[:, :count]
    return (
        from_rows(grad_x, x, by_sample) if needs_x else None,
        found.to(coefficients.dtype) if needs_coefficients else None,
    )


def _padded(coefficients: Tensor) -> np.ndarray:
    padded = np.zeros((len(coefficients), MOST), dtype=FLOAT)
    padded[:, : coefficients.shape[1]] = coefficients.detach().numpy()
    return padded


# Written out for up to 7 coefficients: what an option does not ask for is left out of the compiled
# code, and the loops over values become vector instructions.
@cache
def _kernels(count: int, scale: float, center: float, silu: bool) -> tuple:  # noqa: PLR0915
    """Forward and backward of `count` coefficients, 1 to 7, in t = sigmoid(scale x) - center.

    Arrays: x, grad, y and grad_x (R, n), the last two with the sigmoids of x in them where these
    are needed; a (A, 7), sums (R, 7). Row r has the polynomial r mod A.
    """
    scale, center = FLOAT(scale), FLOAT(center)
    joined = silu and scale == 1 and center == 0

    @jit
    def forward(x, y, a, start, stop):  # noqa: ANN001, ANN202
        for r in range(start, stop):
            c = r % a.shape[0]
            a0, a1, a2, a3 = a[c, 0], a[c, 1], a[c, 2], a[c, 3]
            a4, a5, a6 = a[c, 4], a[c, 5], a[c, 6]
            row, out = x[r], y[r]
            for i in range(len(row)):
                v = row[i]
                s = t = v
                if silu or scale == 1:
                    s = out[i]
                if scale == 1:
                    t = s - center
                elif scale != 0:
                    t = sigmoid(scale * v) - center
                p = FLOAT(0)
                if count > 6:
                    p = a6
                if count > 5:
                    p = p * t + a5
                if count > 4:
                    p = p * t + a4
                if count > 3:
                    p = p * t + a3
                if count > 2:
                    p = p * t + a2
                if count > 1:
                    p = p * t + a1
                p = p * t + a0
                if silu:
                    p += v * s
                out[i] = p

    @jit
    def backward(x, grad_x, grad, a, sums, start, stop):  # noqa: ANN001, ANN202, PLR0912, PLR0915
        for r in range(start, stop):
            c = r % a.shape[0]
            a1, a2, a3 = a[c, 1], 2 * a[c, 2], 3 * a[c, 3]
            a4, a5, a6 = 4 * a[c, 4], 5 * a[c, 5], 6 * a[c, 6]
            for begin in range(0, x.shape[1], BLOCK):
                row, g_row = x[r, begin : begin + BLOCK], grad[r, begin : begin + BLOCK]
                out = grad_x[r, begin : begin + BLOCK]
                m0 = m1 = m2 = m3 = m4 = m5 = m6 = FLOAT(0)
                for i in range(len(row)):
                    v, g = row[i], g_row[i]
                    s = t = v
                    slope = ONE
                    if silu or scale == 1:
                        s = out[i]
                    if scale == 1:
                        t = s - center
                        slope = s * (ONE - s)
                    elif scale != 0:
                        u = sigmoid(scale * v)
                        t = u - center
                        slope = scale * u * (ONE - u)
                    d = FLOAT(0)  # dp/dt
                    if count > 6:
                        d = a6
                    if count > 5:
                        d = d * t + a5
                    if count > 4:
                        d = d * t + a4
                    if count > 3:
                        d = d * t + a3
                    if count > 2:
                        d = d * t + a2
                    if count > 1:
                        d = d * t + a1
                    if joined:
                        out[i] = g * (s + slope * (v + d))
                    elif silu:
                        out[i] = g * (slope * d + s + v * s * (ONE - s))
                    else:
                        out[i] = g * (slope * d)
                    m0 += g
                    if count > 1:
                        g *= t
                        m1 += g
                    if count > 2:
                        g *= t
                        m2 += g
                    if count > 3:
                        g *= t
                        m3 += g
                    if count > 4:
                        g *= t
                        m4 += g
                    if count > 5:
                        g *= t
                        m5 += g
                    if count > 6:
                        g *= t
                        m6 += g
                sums[r, 0] += m0
                sums[r, 1] += m1
                sums[r, 2] += m2
                sums[r, 3] += m3
                sums[r, 4] += m4
                sums[r, 5] += m5
                sums[r, 6] += m6

    return forward, backward

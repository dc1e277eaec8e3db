"""Numba kernels for the polynomials of `kanseg.layers.kernels.horner` on a CPU."""

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
    has_rows_per_sample,
    jit,
    run_kernel,
    sigmoid,
    to_rows,
)

if TYPE_CHECKING:
    from kanseg.layers.kernels.horner import PolynomialVariable

MAX_COEFFICIENTS = 7
BLOCK = 4096  # values of a row that are summed in single precision


def forward(x: Tensor, coefficients: Tensor, t: PolynomialVariable, silu: bool) -> Tensor:
    """sum_n coefficients[c, n] t(x)^n, plus SiLU of x on request: (B, C, *S) -> the same shape.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
        coefficients: (C, N), or (1, N) for all channels, N from 1 to 7.
    """
    per_sample = has_rows_per_sample(x)
    kernel, _ = _kernels(coefficients.shape[1], *t, silu)
    arguments = (_padded(coefficients),)
    y = run_kernel(kernel, to_rows(x, per_sample), lambda part: arguments)
    return from_rows(y, x, per_sample)


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
    count, per_sample = coefficients.shape[1], has_rows_per_sample(x)
    x_rows, grad_rows = to_rows(x, per_sample), to_rows(grad, per_sample)
    sums = np.zeros((len(x_rows), MAX_COEFFICIENTS))
    _, kernel = _kernels(count, *t, silu)
    arguments = grad_rows.numpy(), _padded(coefficients), sums
    y = run_kernel(kernel, x_rows, lambda part: arguments)
    grad_x = grad_coefficients = None
    if needs_x:
        grad_x = from_rows(y, x, per_sample)
    if needs_coefficients:
        totals = torch.from_numpy(sums).view(-1, len(coefficients), MAX_COEFFICIENTS).sum(0)
        grad_coefficients = totals[:, :count].to(coefficients.dtype)
    return grad_x, grad_coefficients


def _padded(coefficients: Tensor) -> np.ndarray:
    """Coefficients (C or 1, N) as an array (C or 1, 7), with zeros for the missing ones."""
    padded = np.zeros((len(coefficients), MAX_COEFFICIENTS), dtype=FLOAT)
    padded[:, : coefficients.shape[1]] = coefficients.detach().numpy()
    return padded


# Written out for up to 7 coefficients: unused branches are dropped when a kernel is compiled, and
# the loops over values are vectorized.
@cache
def _kernels(count: int, scale: float, center: float, silu: bool) -> tuple:  # noqa: PLR0915
    """Compile the forward and backward kernels for polynomials of `count` coefficients, 1 to 7, in
    t = sigmoid(scale x) - center.

    Arrays: x, grad, y and grad_x (R, n); a (A, 7), sums (R, 7). Row r has the polynomial r mod A.
    """
    scale, center = FLOAT(scale), FLOAT(center)
    silu_is_term = silu and scale == 1 and center == 0

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
                    s = sigmoid(v)
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
                        s = sigmoid(v)
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
                    if silu_is_term:
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

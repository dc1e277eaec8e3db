"""Numba kernels for the rational functions of `kanseg.layers.kernels.rational` on a CPU."""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
import torch
from torch import Tensor

from kanseg.bases.base import FAR
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

BLOCK = 512  # values of a row whose monomials fit into the cache together
LIMIT = FLOAT(FAR)


def forward(x: Tensor, p: Tensor, q: Tensor, silu: bool) -> Tensor:
    """P(x) / (1 + |Q(x)|), plus SiLU of x on request: (B, C, *S) -> the same shape.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
        p, q: coefficients (C, m + 1), or (1, m + 1) for all channels, and (C, n), float32.
    """
    per_sample = has_rows_per_sample(x)
    n = q.shape[1]
    kernel, _ = _kernels(n, silu)
    arguments = _padded(p.detach(), 0, n + 1), _padded(q.detach(), 1, n + 1)
    y = run_kernel(kernel, to_rows(x, per_sample), lambda part: arguments)
    return from_rows(y, x, per_sample)


def _padded(coefficients: Tensor, first: int, count: int) -> np.ndarray:
    """Coefficients of the powers 0 to count - 1: those given start at the power `first`, the others
    are zero.
    """
    padded = np.zeros((len(coefficients), count), FLOAT)
    padded[:, first : first + coefficients.shape[1]] = coefficients.numpy()
    return padded


def backward(
    grad: Tensor, x: Tensor, p: Tensor, q: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and of the coefficients, given that of y."""
    per_sample = has_rows_per_sample(x)
    x_rows, grad_rows = to_rows(x, per_sample), to_rows(grad, per_sample)
    _, kernel = _kernels(q.shape[1], silu)
    sums_p = np.zeros((len(x_rows), p.shape[1]))
    sums_q = np.zeros((len(x_rows), q.shape[1]))
    coefficients = p.detach().contiguous().numpy(), q.detach().contiguous().numpy()
    arguments = grad_rows.numpy(), *coefficients, sums_p, sums_q
    grad_x = run_kernel(kernel, x_rows, lambda part: arguments)
    grad_p = torch.from_numpy(sums_p).view(-1, *p.shape).sum(0).to(p.dtype)
    grad_q = torch.from_numpy(sums_q).view(-1, *q.shape).sum(0).to(q.dtype)
    return from_rows(grad_x, x, per_sample), grad_p, grad_q


@numba.njit(inline="always")
def _scaled(v):  # noqa: ANN001, ANN202
    """v clipped to finite values, and z = 1 / max(1, |v|)."""
    # Not min and max, which lose NaN.
    v = -LIMIT if v < -LIMIT else v
    v = LIMIT if v > LIMIT else v
    size = abs(v)
    return v, ONE / (size if size > ONE else ONE)


@numba.njit(inline="always")
def _fill_monomials(row, m):  # noqa: ANN001, ANN202
    """Write the monomials w^j z^(n-j) of a row of values to m (n + 1, values)."""
    n = len(m) - 1
    z = np.empty(len(row), FLOAT)
    for i in range(len(row)):
        v, z[i] = _scaled(row[i])
        m[0, i] = ONE
        m[1, i] = v * z[i]
    for j in range(2, n + 1):
        for i in range(len(row)):
            m[j, i] = m[j - 1, i] * m[1, i]
    power = z.copy()
    for j in range(n - 1, -1, -1):
        for i in range(len(row)):
            m[j, i] *= power[i]
            power[i] *= z[i]


@numba.njit(inline="always")
def _weighted_sum(a, m, y):  # noqa: ANN001, ANN202
    """y = sum_j a_j m_j over the first len(a) monomials."""
    y[:] = ZERO
    for j in range(len(a)):
        for i in range(len(y)):
            y[i] += a[j] * m[j, i]


@cache
def _kernels(n: int, silu: bool) -> tuple:
    """Compile the forward and backward kernels for a denominator of degree n.

    Row r has the coefficients p[r mod len(p)] and q[r mod len(q)].
    """

    @jit
    def forward(x, y, p, q, start, stop):  # noqa: ANN001, ANN202
        for r in range(start, stop):
            a, b = p[r % len(p)], q[r % len(q)]
            row, out = x[r], y[r]
            for i in range(len(row)):
                v, z = _scaled(row[i])
                w, power = v * z, ONE
                numerator, denominator = a[n], b[n]
                for j in range(n - 1, -1, -1):
                    power *= z
                    numerator = numerator * w + a[j] * power
                    denominator = denominator * w + b[j] * power
                value = numerator / (power + abs(denominator))
                if silu:
                    value += row[i] * sigmoid(row[i])
                out[i] = value

    @jit
    def backward(x, grad_x, grad, p, q, sums_p, sums_q, start, stop):  # noqa: ANN001, ANN202
        monomials = np.empty((q.shape[1] + 1, BLOCK), FLOAT)
        numerator, denominator = np.empty(BLOCK, FLOAT), np.empty(BLOCK, FLOAT)
        slope_p, slope_q = np.empty(BLOCK, FLOAT), np.empty(BLOCK, FLOAT)
        for r in range(start, stop):
            a, b = p[r % len(p)], q[r % len(q)]
            # j a_j belongs to the monomial j - 1.
            slope_a = a[1:] * np.arange(1, len(a)).astype(FLOAT)
            slope_b = b * np.arange(1, len(b) + 1).astype(FLOAT)
            for begin in range(0, x.shape[1], BLOCK):
                row, g = x[r, begin : begin + BLOCK], grad[r, begin : begin + BLOCK]
                out = grad_x[r, begin : begin + BLOCK]
                m = monomials[:, : len(row)]
                _fill_monomials(row, m)
                _weighted_sum(a, m, numerator[: len(row)])
                _weighted_sum(b, m[1:], denominator[: len(row)])
                _weighted_sum(slope_a, m, slope_p[: len(row)])
                _weighted_sum(slope_b, m, slope_q[: len(row)])
                for i in range(len(row)):
                    sign = FLOAT(denominator[i] > ZERO) - FLOAT(denominator[i] < ZERO)
                    reciprocal = ONE / (m[0, i] + abs(denominator[i]))
                    ratio = numerator[i] * reciprocal * sign
                    d = (slope_p[i] - ratio * slope_q[i]) * reciprocal
                    if silu:
                        s = sigmoid(row[i])
                        d += s + row[i] * s * (ONE - s)
                    out[i] = g[i] * d
                    numerator[i] = g[i] * reciprocal
                    denominator[i] = -g[i] * reciprocal * ratio
                for j in range(len(a)):
                    total = ZERO
                    for i in range(len(row)):
                        total += numerator[i] * m[j, i]
                    sums_p[r, j] += total
                for j in range(len(b)):
                    total = ZERO
                    for i in range(len(row)):
                        total += denominator[i] * m[j + 1, i]
                    sums_q[r, j] += total

    return forward, backward

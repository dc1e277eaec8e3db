"""The rational functions of `kanseg.layers.kernels.rational` on a CPU, compiled by Numba."""

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
    jit,
    lies_by_sample,
    rows,
    run,
)

BLOCK = 512  # values of a row whose monomials are in the cache together
LIMIT = FLOAT(FAR)


def forward(x: Tensor, p: Tensor, q: Tensor, silu: bool) -> Tensor:
    """(B, C, *S) -> the same shape.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
        p, q: coefficients (C, m + 1), or (1, m + 1) for all channels, and (C, n), float32.
    """
    by_sample = lies_by_sample(x)
    n = q.shape[1]
    kernel, _ = _kernels(n, silu)
    arguments = _padded(p.detach(), 0, n + 1), _padded(q.detach(), 1, n + 1)
    y = run(kernel, rows(x, by_sample), lambda part: arguments, sigmoid=silu)
    return from_rows(y, x, by_sample)


def _padded(coefficients: Tensor, first: int, count: int) -> np.ndarray:
    """Coefficients of the powers from `first` on, with zeros for the others of 0..count - 1."""
    each = np.zeros((len(coefficients), count), FLOAT)
    each[:, first : first + coefficients.shape[1]] = coefficients.numpy()
    return each


def backward(
    grad: Tensor, x: Tensor, p: Tensor, q: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and of the coefficients for that of y."""
    by_sample = lies_by_sample(x)
    seen, upstream = rows(x, by_sample), rows(grad, by_sample)
    _, kernel = _kernels(q.shape[1], silu)
    sums_p, sums_q = (np.zeros((len(seen), each.shape[1])) for each in (p, q))
    fixed = p.detach().contiguous().numpy(), q.detach().contiguous().numpy()
    arguments = upstream.numpy(), *fixed, sums_p, sums_q
    grad_x = run(kernel, seen, lambda part: arguments, sigmoid=silu)
    grad_p, grad_q = (
        torch.from_numpy(sums).view(-1, *each.shape).sum(0).to(each.dtype)
        for sums, each in ((sums_p, p), (sums_q, q))
    )
    return from_rows(grad_x, x, by_sample), grad_p, grad_q


@numba.njit(inline="always")
def _scaled(v):  # noqa: ANN001, ANN202
    """v, finite, and z = 1 / max(1, |v|)."""
    # Not min and max, which lose NaN.
    v = -LIMIT if v < -LIMIT else v
    v = LIMIT if v > LIMIT else v
    size = abs(v)
    return v, ONE / (size if size > ONE else ONE)


@numba.njit(inline="always")
def _fill(row, m):  # noqa: ANN001, ANN202
    """Monomials w^j z^(n-j) of a row of values: m (n + 1, values)."""
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
def _combine(a, m, y):  # noqa: ANN001, ANN202
    """y = sum_j a_j m_j, of as many monomials as there are coefficients."""
    y[:] = ZERO
    for j in range(len(a)):
        for i in range(len(y)):
            y[i] += a[j] * m[j, i]


@cache
def _kernels(n: int, silu: bool) -> tuple:
    """Forward and backward of a denominator of degree n; row r has the coefficients r mod those of
    p and of q.
    """

    @jit
    def forward(x, y, p, q, start, stop):  # noqa: ANN001, ANN202
        for r in range(start, stop):
            a, b = p[r % len(p)], q[r % len(q)]
            row, out = x[r], y[r]
            for i in range(len(row)):
                v, z = _scaled(row[i])
                w, power = v * z, ONE
                above, below = a[n], b[n]
                for j in range(n - 1, -1, -1):
                    power *= z
                    above = above * w + a[j] * power
                    below = below * w + b[j] * power
                value = above / (power + abs(below))
                if silu:
                    value += row[i] * out[i]
                out[i] = value

    @jit
    def backward(x, grad_x, grad, p, q, sums_p, sums_q, start, stop):  # noqa: ANN001, ANN202
        monomials = np.empty((q.shape[1] + 1, BLOCK), FLOAT)
        above, below = np.empty(BLOCK, FLOAT), np.empty(BLOCK, FLOAT)
        rise_p, rise_q = np.empty(BLOCK, FLOAT), np.empty(BLOCK, FLOAT)
        for r in range(start, stop):
            a, b = p[r % len(p)], q[r % len(q)]
            # j a_j belongs to the monomial j - 1.
            slope_a = a[1:] * np.arange(1, len(a)).astype(FLOAT)
            slope_b = b * np.arange(1, len(b) + 1).astype(FLOAT)
            for begin in range(0, x.shape[1], BLOCK):
                row, g = x[r, begin : begin + BLOCK], grad[r, begin : begin + BLOCK]
                out = grad_x[r, begin : begin + BLOCK]
                m = monomials[:, : len(row)]
                _fill(row, m)
                _combine(a, m, above[: len(row)])
                _combine(b, m[1:], below[: len(row)])
                _combine(slope_a, m, rise_p[: len(row)])
                _combine(slope_b, m, rise_q[: len(row)])
                for i in range(len(row)):
                    sign = FLOAT(below[i] > ZERO) - FLOAT(below[i] < ZERO)
                    share = ONE / (m[0, i] + abs(below[i]))
                    fall = above[i] * share * sign
                    d = (rise_p[i] - fall * rise_q[i]) * share
                    if silu:
                        s = out[i]
                        d += s + row[i] * s * (ONE - s)
                    out[i] = g[i] * d
                    above[i] = g[i] * share
                    below[i] = -g[i] * share * fall
                for j in range(len(a)):
                    total = ZERO
                    for i in range(len(row)):
                        total += above[i] * m[j, i]
                    sums_p[r, j] += total
                for j in range(len(b)):
                    total = ZERO
                    for i in range(len(row)):
                        total += below[i] * m[j + 1, i]
                    sums_q[r, j] += total

    return forward, backward

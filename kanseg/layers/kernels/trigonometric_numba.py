"""Numba kernels for the sums of sines of `kanseg.layers.kernels.trigonometric` on a CPU."""

from __future__ import annotations

import math
from functools import cache

import numba
import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
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

BLOCK = 1024  # values of a row that pass through all loops while they are in the cache
TWO, HALF, TURNS = FLOAT(2), FLOAT(0.5), FLOAT(1 / math.tau)
# pi in three parts. Products of the first one with whole numbers up to 2^15 are exact.
PI = FLOAT(math.pi)
PI_1 = FLOAT(3.140625)
PI_2 = FLOAT(math.pi - float(PI_1))
PI_3 = FLOAT(math.pi - float(PI_1) - float(PI_2))
NEAR = FLOAT(1e4)  # larger arguments are reduced in double precision


def _even_coefficients(function: np.ufunc, terms: int) -> list[np.float32]:
    """Coefficients of an even function of h in powers of h^2, for h from -pi / 2 to pi / 2."""
    fit = Chebyshev.interpolate(
        lambda square: function(np.sqrt(square)), terms - 1, domain=[0, math.pi**2 / 4]
    )
    return [FLOAT(c) for c in fit.convert(kind=Polynomial).coef]


# Both are off by less than 1e-8 before rounding.
S0, S1, S2, S3, S4 = _even_coefficients(lambda h: np.sinc(h / math.pi), 5)  # sin(h) / h
C0, C1, C2, C3, C4, C5 = _even_coefficients(np.cos, 6)


def forward(x: Tensor, weight: Tensor, domain: tuple[float, float, float], silu: bool) -> Tensor:
    """sum_n a_n cos(nu) + b_n sin(nu), plus SiLU of x on request: (B, C, *S) -> the same shape.

    Args:
        x: not empty; float32, float16 or bfloat16, computed in float32.
        weight: a_1, b_1, a_2, b_2, ... of each channel (C, 2N), or of all channels (1, 2N).
        domain: scale, factor and offset of u = factor * sigmoid(scale x) + offset, or u = x for
            scale 0.
    """
    per_sample = has_rows_per_sample(x)
    pairs = _pairs(weight)
    kernel, _ = _kernels(pairs.shape[1], *domain, silu)
    y = run_kernel(kernel, to_rows(x, per_sample), lambda part: (pairs,))
    return from_rows(y, x, per_sample)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, domain: tuple[float, float, float], silu: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight, given that of y."""
    per_sample = has_rows_per_sample(x)
    x_rows, grad_rows = to_rows(x, per_sample), to_rows(grad, per_sample)
    pairs = _pairs(weight)
    # The derivative of a cos(nu) + b sin(nu) is nb cos(nu) - na sin(nu).
    n = np.arange(1, pairs.shape[1] + 1, dtype=FLOAT)
    slopes = np.stack([n * pairs[..., 1], -n * pairs[..., 0]], axis=2)
    _, kernel = _kernels(len(n), *domain, silu)
    sums = np.zeros((len(x_rows), len(n), 2))
    arguments = grad_rows.numpy(), slopes, sums
    grad_x = run_kernel(kernel, x_rows, lambda part: arguments)
    grad_weight = torch.from_numpy(sums).view(-1, *weight.shape).sum(0).to(weight.dtype)
    return from_rows(grad_x, x, per_sample), grad_weight


def _pairs(weight: Tensor) -> np.ndarray:
    """The weights (C or 1, 2N) as pairs (C or 1, N, 2) of a cosine and a sine."""
    return weight.detach().float().contiguous().view(len(weight), -1, 2).numpy()


# Without "reassoc", which would add the parts of pi before they are subtracted.
@numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def _half_angle(u):  # noqa: ANN001, ANN202
    """u / 2 minus whole multiples of pi, from -pi / 2 to pi / 2, for |u| up to `NEAR`."""
    turns = np.floor(u * TURNS + HALF)
    return ((HALF * u - turns * PI_1) - turns * PI_2) - turns * PI_3


@numba.njit(inline="always")
def _reduce_far(u, half_angles):  # noqa: ANN001, ANN202
    """Half angles of a row of arguments of any size."""
    for i in range(len(u)):
        turns = np.float64(u[i]) / math.tau
        half_angles[i] = PI * FLOAT(turns - np.floor(turns + 0.5))


@numba.njit(inline="always")
def _cosine_and_sine(h):  # noqa: ANN001, ANN202
    """Cosine and sine of 2h, from those of h between -pi / 2 and pi / 2."""
    square = h * h
    sine = h * (S0 + square * (S1 + square * (S2 + square * (S3 + square * S4))))
    cosine = C4 + square * C5
    cosine = C0 + square * (C1 + square * (C2 + square * (C3 + square * cosine)))
    return ONE - TWO * sine * sine, TWO * sine * cosine


@numba.njit(inline="always")
def _add_projections(weighted_cosine, weighted_sine, cosine, sine, sums):  # noqa: ANN001, ANN202
    """Add sum_i g_i cos(n u_i) and sum_i g_i sin(n u_i) to sums (N, 2), given g cos(u), g sin(u),
    cos(u) and sin(u) as rows. The first two rows are overwritten.
    """
    for n in range(len(sums)):
        total_cosine = total_sine = ZERO
        for i in range(len(cosine)):
            p, q = weighted_cosine[i], weighted_sine[i]
            total_cosine += p
            total_sine += q
            weighted_cosine[i] = p * cosine[i] - q * sine[i]
            weighted_sine[i] = p * sine[i] + q * cosine[i]
        sums[n, 0] += total_cosine
        sums[n, 1] += total_sine


@cache
def _kernels(count: int, scale: float, factor: float, offset: float, silu: bool) -> tuple:
    """Compile the forward and backward kernels for frequencies 1 to `count`.

    Row r has the weights, or the weights of the derivative, r mod len(weights), each (N, 2).
    """
    scale, factor, offset = FLOAT(scale), FLOAT(factor), FLOAT(offset)

    @numba.njit(inline="always")
    def fill_half_angles(row, half_angles):  # noqa: ANN001, ANN202
        far = 0
        for i in range(len(row)):
            u = row[i]
            if scale != 0:
                u = factor * sigmoid(scale * u) + offset
            far += abs(u) > NEAR
            half_angles[i] = _half_angle(u)
        if scale == 0 and far > 0:
            _reduce_far(row, half_angles)

    @numba.njit(inline="always")
    def weighted_sum(w, c, s):  # noqa: ANN001, ANN202
        """sum_n a_n cos(nu) + b_n sin(nu), given cosine and sine of u: the real part of
        sum_n (a_n - i b_n) z^n with z = cos(u) + i sin(u), by Horner's rule.
        """
        real, imaginary = w[count - 1, 0], -w[count - 1, 1]
        for n in range(count - 2, -1, -1):
            before = real
            real = real * c - imaginary * s + w[n, 0]
            imaginary = before * s + imaginary * c - w[n, 1]
        return real * c - imaginary * s

    @jit
    def forward(x, y, weights, start, stop):  # noqa: ANN001, ANN202
        half_angles = np.empty(BLOCK, FLOAT)
        for r in range(start, stop):
            w = weights[r % len(weights)]
            for begin in range(0, x.shape[1], BLOCK):
                row, out = x[r, begin : begin + BLOCK], y[r, begin : begin + BLOCK]
                fill_half_angles(row, half_angles)
                for i in range(len(row)):
                    c, s = _cosine_and_sine(half_angles[i])
                    value = weighted_sum(w, c, s)
                    if silu:
                        value += row[i] * sigmoid(row[i])
                    out[i] = value

    @jit
    def backward(x, grad_x, grad, weights, sums, start, stop):  # noqa: ANN001, ANN202
        cosine, sine = np.empty(BLOCK, FLOAT), np.empty(BLOCK, FLOAT)
        weighted_cosine, weighted_sine = np.empty(BLOCK, FLOAT), np.empty(BLOCK, FLOAT)
        for r in range(start, stop):
            w = weights[r % len(weights)]
            for begin in range(0, x.shape[1], BLOCK):
                row, g = x[r, begin : begin + BLOCK], grad[r, begin : begin + BLOCK]
                out, size = grad_x[r, begin : begin + BLOCK], len(row)
                fill_half_angles(row, cosine)
                for i in range(size):
                    v = row[i]
                    c, s = _cosine_and_sine(cosine[i])
                    d = weighted_sum(w, c, s)
                    if scale != 0:
                        t = sigmoid(scale * v)
                        d *= factor * scale * t * (ONE - t)
                    if silu:
                        t = sigmoid(v)
                        d += t + v * t * (ONE - t)
                    out[i] = g[i] * d
                    cosine[i], sine[i] = c, s
                    weighted_cosine[i], weighted_sine[i] = g[i] * c, g[i] * s
                _add_projections(
                    weighted_cosine, weighted_sine, cosine[:size], sine[:size], sums[r]
                )

    return forward, backward

"""Values and derivatives of B-splines on given knots: closed form, recursion, and indicators.

Knots are (C, K + k + 1) for K functions of order k in each of C channels, the mapped input u is (B,
C, *S).
"""

from __future__ import annotations

from math import comb, factorial

import torch
from torch import Tensor

from kanseg.bases.base import ValuesAndDerivatives, aligned


def closed_form(knots: Tensor, order: int, u: Tensor, derivatives: bool) -> ValuesAndDerivatives:
    """Cardinal B-splines on uniform knots, for an order of at least 1 (see `BSpline`)."""
    k, num_intervals = order, knots.shape[1] - 1
    first, last = aligned(knots[:, 0], u), aligned(knots[:, -1], u)
    # With distances scaled by k!^(-1/k) the powers need no division by k!.
    unit = factorial(k) ** (-1 / k)
    rate = unit * num_intervals / (last - first)
    position = (u - first) * rate
    for i in range(num_intervals - k):
        distance = position - unit * (i + (k + 1) / 2)
        side = None
        if derivatives:
            side = distance.sign() * (-k * rate)
        b = (unit * (k + 1) / 2 - distance.abs_()).relu_()
        value, derivative = _truncated_powers(b, k, unit, derivatives)
        if derivatives:
            yield value, derivative * side
        else:
            yield value, None


def _truncated_powers(
    b: Tensor, k: int, unit: float, derivatives: bool
) -> tuple[Tensor, Tensor | None]:
    """sum_j (-1)^j C(k + 1, j) relu(b - j unit)^k for b >= 0, and its derivative in b / k."""
    weights = [(-1) ** j * comb(k + 1, j) for j in range((k + 2) // 2)]
    if not derivatives and k in (2, 3):  # squares and cubes are one operation
        value = b.pow(k)
        for weight in weights[1:]:
            b = (b - unit).relu_()
            value = torch.add(value, b.pow(k), alpha=weight)
        return value, None
    lower = _power(b, k - 1)
    value, derivative = lower * b, lower
    for weight in weights[1:]:
        b = (b - unit).relu_()
        lower = _power(b, k - 1)
        value = torch.addcmul(value, lower, b, value=weight)
        if derivatives:
            derivative = derivative + weight * lower
    return value, derivative


def _power(x: Tensor, n: int) -> Tensor:
    """x^n for x >= 0 and small n, with 0^0 = 0 as in the derivative of relu."""
    if n == 0:
        return (x > 0).to(x.dtype)
    result = x
    for _ in range(n - 1):
        result = result * x
    return result


def assert_uniform(knots: Tensor) -> None:
    """Make a compiled graph fail if knots were overwritten in place without `load_state_dict` (by
    an average that copies buffers), instead of computing another function.
    """
    steps = knots.diff(dim=1)
    mean = (knots[:, -1:] - knots[:, :1]) / steps.shape[1]
    rounding = 4e-6 * knots.abs().amax()
    torch._assert_async(
        ((steps - mean).abs() <= 1e-3 * mean + rounding).all(),
        "the knots of a B-spline were overwritten after the network was compiled: call"
        " torch._dynamo.reset(), or update_grids(..., copies=[...]) for its averages",
    )


def recursion(knots: Tensor, order: int, u: Tensor, derivatives: bool) -> ValuesAndDerivatives:
    """The Cox-de Boor recursion, for any distinct knots and an order of at least 1.

    B_i^m = w_i^m B_i^(m-1) + (1 - w_(i+1)^m) B_(i+1)^(m-1) with w_i^m = (u - t_i) / (t_(i+m) - t_i)
    (de Boor, ch. IX).
    """
    k, knots = order, knots.to(u.dtype)
    # All functions are 0 outside the grid; clamp so that infinity is not multiplied by 0.
    first, last = aligned(knots[:, 0], u), aligned(knots[:, -1], u)
    span = last - first
    near = u.clamp(first - span, last + span)
    distances = [near - aligned(knot, u) for knot in knots.unbind(1)]
    values = []
    for here, there in zip(distances, distances[1:], strict=False):
        values.append(((here >= 0) & (there < 0)).to(u.dtype))
    lower = values
    for m in range(1, k + 1):
        lower = values
        rates = (knots[:, m:] - knots[:, :-m]).reciprocal()
        rising = []
        for i, value in enumerate(lower):
            rising.append(distances[i] * aligned(rates[:, i], u) * value)
        values = [rising[i] + lower[i + 1] - rising[i + 1] for i in range(len(lower) - 1)]
    rates = k * (knots[:, k:] - knots[:, :-k]).reciprocal()
    for i, value in enumerate(values):
        if not derivatives:
            yield value, None
            continue
        rise, fall = aligned(rates[:, i], u), aligned(rates[:, i + 1], u)
        yield value, rise * lower[i] - fall * lower[i + 1]


def indicators(knots: Tensor, u: Tensor) -> ValuesAndDerivatives:
    """B-splines of order 0: indicators of half-open intervals. The last one is closed, so that the
    functions have sum 1 on [lo, hi].
    """
    ends = [aligned(knot, u) for knot in knots.unbind(1)]
    nan = torch.where(u.isnan(), u, 0.0)
    for i, (a, b) in enumerate(zip(ends, ends[1:], strict=False)):
        is_last = i + 2 == len(ends)
        below = u <= b if is_last else u < b
        yield ((u >= a) & below).to(u.dtype) + nan, u.new_zeros(())

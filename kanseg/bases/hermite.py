"""Hermite functions: Hermite polynomials times the square root of their weight."""

from __future__ import annotations

from math import ceil, pi, sqrt

import torch
from torch import Tensor

from kanseg.bases.base import (
    BASES,
    Basis,
    TableRange,
    ValuesAndDerivatives,
    check_at_least,
    finite_part,
)

# kind -> r: the functions are sqrt(r) psi_n(r u) with the physicists' psi_n, since He_n(u) =
# 2^(-n/2) H_n(u / sqrt(2)) (DLMF 18.7.11).
RATES = {"physicist": 1.0, "probabilist": sqrt(0.5)}


@BASES.register("hermite")
class Hermite(Basis):
    """Hermite functions psi_0..psi_D: K = D + 1 functions, orthonormal on the real line, zero far
    outside, |psi_n| <= pi^(-1/4) (DLMF 18.14.9).

    Physicists': psi_n(u) = (2^n n! sqrt(pi))^(-1/2) H_n(u) exp(-u^2 / 2). Probabilists', wider by
    sqrt(2): psi_n(u) = (n! sqrt(2 pi))^(-1/2) He_n(u) exp(-u^2 / 4). Norms: DLMF table 18.3.1. The
    recurrence (DLMF 18.9.1 with table 18.9.1) and the derivative (DLMF 18.9.25) are applied to the
    functions, since the polynomials would overflow.

    Args:
        channels: C.
        degree: D >= 0. Accurate up to degree 60 in float32; above, psi_0 underflows where the
            highest functions are still large.
        kind: "physicist" or "probabilist".
        domain: identity by default.

    Raises:
        ValueError: a degree below 0 or an unknown kind.
    """

    has_table = True

    def __init__(
        self, channels: int, *, degree: int = 3, kind: str = "physicist", domain: str = "identity"
    ):
        super().__init__(channels, check_at_least("degree", degree, 0) + 1, domain)
        if kind not in RATES:
            raise ValueError(
                f"unknown kind {kind!r} of Hermite functions (known: {', '.join(RATES)})"
            )
        self.degree, self.kind = degree, kind

    def raise_degree(self, degree: int) -> Tensor:
        return self._append_degrees(degree)

    def table_range(self) -> TableRange:
        # The functions oscillate up to the turning point sqrt(2n + 1), with a fourth derivative of
        # (2n + 1)^2 + 2 at most, and are below 1e-6 four units beyond it.
        square = 2 * self.degree + 1
        limit = sqrt(square) + 4
        pieces = ceil(2 * limit * 2.5 * (square**2 + 2) ** 0.25)
        hi = torch.tensor([limit / RATES[self.kind]])
        return TableRange(-hi, hi, pieces)

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        rate, u = RATES[self.kind], finite_part(u)
        value = torch.exp(u * u * (-0.5 * rate**2)) * (sqrt(rate) * pi**-0.25)
        if not derivatives:
            # The gradient by autograd has polynomials of u, which overflow where all functions are
            # 0 (inf * 0).
            u = torch.where(value > 0, u, 0.0)
        before = None
        for n in range(self.degree + 1):
            if n > 0:
                step = rate * sqrt(2 / n)
                after = u * value * step
                if n > 1:
                    after = torch.addcmul(before * -sqrt((n - 1) / n), u, value, value=step)
                value, before = after, value
            slope = None
            if derivatives and n == 0:
                slope = u * value * -(rate**2)
            elif derivatives:
                slope = torch.addcmul(before * (rate * sqrt(2 * n)), u, value, value=-(rate**2))
            yield value, slope

"""Bernstein polynomials."""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from kanseg.bases.base import BASES, Basis, ValuesAndDerivatives, change_of_basis, check_at_least


@BASES.register("bernstein")
class Bernstein(Basis):
    """C(D, j) u^j (1 - u)^(D - j), j = 0..D: non-negative, K = D + 1, sum 1 (DLMF 18.38; Farouki
    2012).

    Args:
        channels: C.
        degree: D >= 0; degree 0 is the constant 1.
        domain: sigmoid by default, since u is meant to lie in [0, 1].
    """

    def __init__(self, channels: int, *, degree: int = 3, domain: str = "sigmoid"):
        super().__init__(channels, check_at_least("degree", degree, 0) + 1, domain)
        self.degree = degree
        self.constant_function = 0 if degree == 0 else None

    @property
    def polynomial_degree(self) -> int:
        return self.degree

    @torch.no_grad()
    def raise_degree(self, degree: int) -> Tensor:
        check_at_least("the new degree", degree, self.degree)
        points = torch.linspace(0, 1, 4 * degree + 4, dtype=torch.float64).reshape(1, 1, -1)
        old = self.functions(points)[0]
        self.degree, self.num_functions, self.constant_function = (
            degree,
            degree + 1,
            0 if degree == 0 else None,
        )
        return change_of_basis(old, self.functions(points)[0])

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        degree = self.degree
        powers, mirrored = _powers(u, degree), _powers(1 - u, degree)
        lower = (
            [comb(degree - 1, j) * powers[j] * mirrored[degree - 1 - j] for j in range(degree)]
            if derivatives
            else []
        )
        for j in range(degree + 1):
            value = comb(degree, j) * powers[j] * mirrored[degree - j]
            yield (
                value,
                degree * (_get(lower, j - 1, u) - _get(lower, j, u)) if derivatives else None,
            )


def _powers(u: Tensor, degree: int) -> list[Tensor]:
    powers = [torch.ones_like(u)]
    for _ in range(degree):
        powers.append(powers[-1] * u)
    return powers


def _get(values: list[Tensor], j: int, u: Tensor) -> Tensor:
    return values[j] if 0 <= j < len(values) else torch.zeros_like(u)

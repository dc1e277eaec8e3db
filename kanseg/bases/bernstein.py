"""Bernstein polynomials."""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from kanseg.bases.base import BASES, Basis, ValuesAndDerivatives, change_of_basis, check_at_least


@BASES.register("bernstein")
class Bernstein(Basis):
    """Bernstein polynomials C(D, j) u^j (1 - u)^(D - j), j = 0..D: K = D + 1 non-negative functions
    of sum 1 (DLMF 18.38; Farouki 2012).

    Args:
        channels: C.
        degree: D >= 0; degree 0 is the constant 1.
        domain: sigmoid by default, which maps to [0, 1].
    """

    def __init__(self, channels: int, *, degree: int = 3, domain: str = "sigmoid"):
        super().__init__(channels, check_at_least("degree", degree, 0) + 1, domain)
        self.degree = degree

    @property
    def constant_function(self) -> int | None:
        return 0 if self.degree == 0 else None

    @property
    def polynomial_degree(self) -> int:
        return self.degree

    @torch.no_grad()
    def raise_degree(self, degree: int) -> Tensor:
        check_at_least("the new degree", degree, self.degree)
        points = torch.linspace(0, 1, 4 * degree + 4, dtype=torch.float64).reshape(1, 1, -1)
        old = self.functions(points)[0]
        self.degree, self.num_functions = degree, degree + 1
        return change_of_basis(old, self.functions(points)[0])

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        degree = self.degree
        powers, mirrored = _powers(u, degree), _powers(1 - u, degree)
        # Polynomials of degree D - 1, between zeros: B_j' = D (lower_(j-1) - lower_j).
        lower = [torch.zeros_like(u)]
        if derivatives:
            for j in range(degree):
                lower.append(comb(degree - 1, j) * powers[j] * mirrored[degree - 1 - j])
            lower.append(torch.zeros_like(u))
        for j in range(degree + 1):
            value = comb(degree, j) * powers[j] * mirrored[degree - j]
            if derivatives:
                yield value, degree * (lower[j] - lower[j + 1])
            else:
                yield value, None


def _powers(u: Tensor, degree: int) -> list[Tensor]:
    """u^0, ..., u^degree."""
    powers = [torch.ones_like(u)]
    for _ in range(degree):
        powers.append(powers[-1] * u)
    return powers

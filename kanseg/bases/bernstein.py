"""Bernstein polynomials."""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from kanseg.bases.base import BASES, Basis, check_at_least


@BASES.register("bernstein")
class Bernstein(Basis):
    """C(D, j) u^j (1 - u)^(D - j), j = 0..D: non-negative, K = D + 1, sum 1 (DLMF 18.38; Farouki 2012).

    Args:
        channels: C.
        degree: D >= 0; degree 0 is the constant 1.
        domain: sigmoid by default, since u is meant to lie in [0, 1].
    """

    def __init__(self, channels: int, *, degree: int = 3, domain: str = "sigmoid"):
        super().__init__(channels, check_at_least("degree", degree, 0) + 1, domain)
        self.degree = degree
        self.constant_function = 0 if degree == 0 else None

    def functions(self, u: Tensor) -> Tensor:
        rising, falling = [torch.ones_like(u)], [torch.ones_like(u)]
        for _ in range(self.degree):
            rising.append(rising[-1] * u)
            falling.append(falling[-1] * (1 - u))
        terms = [comb(self.degree, j) * rising[j] * falling[self.degree - j] for j in range(self.degree + 1)]
        return torch.stack(terms, dim=2)

"""Orthogonal polynomials by their three-term recurrences: Legendre, Chebyshev, Gram, Jacobi."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from kanseg.bases.base import BASES, Basis, check_at_least


class Polynomials(Basis):
    """p_0 = 1, p_1, and p_{n+1} from p_n and p_{n-1}: K = degree + 1 functions, the first of them constant.

    Args:
        channels: C.
        degree: D >= 0.
        domain: tanh by default, since the families are orthogonal on [-1, 1].
    """

    constant_function = 0

    def __init__(self, channels: int, *, degree: int = 3, domain: str = "tanh"):
        super().__init__(channels, check_at_least("degree", degree, 0) + 1, domain)
        self.degree = degree

    def first(self, u: Tensor) -> Tensor:
        """p_1(u)."""
        return u

    @abstractmethod
    def next(self, n: int, u: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        """p_{n+1}(u) from p_n and p_{n-1}, n >= 1."""

    def functions(self, u: Tensor) -> Tensor:
        values = [torch.ones_like(u), self.first(u)][: self.degree + 1]
        for n in range(1, self.degree):
            values.append(self.next(n, u, values[-1], values[-2]))
        return torch.stack(values, dim=2)


@BASES.register("legendre")
class Legendre(Polynomials):
    """(n + 1) P_{n+1} = (2n + 1) u P_n - n P_{n-1} (DLMF 18.9.1)."""

    def next(self, n: int, u: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        return ((2 * n + 1) / (n + 1)) * u * current - (n / (n + 1)) * previous


@BASES.register("chebyshev")
class Chebyshev(Polynomials):
    """T_{n+1} = 2 u T_n - T_{n-1} (DLMF 18.9.2); never acos and cos, whose gradient is infinite at the ends."""

    def next(self, n: int, u: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        return 2 * u * current - previous


@BASES.register("gram")
class Gram(Polynomials):
    """Discrete Chebyshev (Gram) polynomials on N points, monic: p_{n+1} = u p_n - b_n p_{n-1}.

    b_n = n^2 (N^2 - n^2) / (N^2 (4n^2 - 1)), orthogonal on the points (2i + 1 - N) / N, i = 0..N-1
    (Szego, Orthogonal Polynomials, 2.8). num_points=None is the limit N -> infinity, the monic Legendre polynomials.

    Args:
        channels: C.
        degree: D >= 0.
        num_points: N > degree, or None.
        learnable: make the b_n parameters, one a degree, that start from their true values.
        domain: tanh by default.
    """

    def __init__(self, channels: int, *, degree: int = 3, num_points: int | None = None, learnable: bool = False, domain: str = "tanh"):
        super().__init__(channels, degree=degree, domain=domain)
        if num_points is not None:
            check_at_least("num_points (more than the degree)", num_points, degree + 1)
        n = torch.arange(1, max(degree, 1), dtype=torch.float64)
        shrink = 1.0 if num_points is None else 1 - (n / num_points) ** 2
        beta = (shrink * n**2 / (4 * n**2 - 1)).to(torch.get_default_dtype())
        self.beta = nn.Parameter(beta) if learnable else nn.Buffer(beta)

    def next(self, n: int, u: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        return u * current - self.beta[n - 1].to(u.dtype) * previous


@BASES.register("jacobi")
class Jacobi(Polynomials):
    """Jacobi polynomials P_n^{(alpha, beta)} (DLMF 18.9.2), alpha, beta > -1.

    P_1 is taken from its own formula, so that alpha + beta in {0, -1}, where the recurrence starts with 0/0, is right.

    Args:
        channels: C.
        degree: D >= 0.
        alpha, beta: the exponents of the weight (1 - u)^alpha (1 + u)^beta; 1 and 1 by default.
        domain: tanh by default.
    """

    def __init__(self, channels: int, *, degree: int = 3, alpha: float = 1.0, beta: float = 1.0, domain: str = "tanh"):
        super().__init__(channels, degree=degree, domain=domain)
        if not (alpha > -1 and beta > -1):
            raise ValueError(f"alpha and beta must be greater than -1, got {alpha} and {beta}")
        self.alpha, self.beta = float(alpha), float(beta)

    def first(self, u: Tensor) -> Tensor:
        return (self.alpha + 1) + (self.alpha + self.beta + 2) / 2 * (u - 1)

    def next(self, n: int, u: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        a, b, m = self.alpha, self.beta, n + 1
        s = 2 * m + a + b
        divisor = 2 * m * (m + a + b) * (s - 2)
        slope = (s - 1) * s * (s - 2) / divisor
        offset = (s - 1) * (a * a - b * b) / divisor
        back = 2 * (m + a - 1) * (m + b - 1) * s / divisor
        return (slope * u + offset) * current - back * previous

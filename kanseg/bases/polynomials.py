"""Orthogonal polynomials by their three-term recurrences: Legendre, Chebyshev, Gram, Jacobi."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from kanseg.bases.base import BASES, Basis, ValuesAndDerivatives, check_at_least, replace_values

Coefficient = float | Tensor


class Polynomials(Basis):
    """Polynomials by the recurrence p_0 = 1, p_{n+1} = (slope_n u + offset_n) p_n - back_n p_{n-1}:
    K = degree + 1 functions, the first of them constant.

    Args:
        channels: C.
        degree: D >= 0.
        domain: tanh by default; the families are orthogonal on [-1, 1].
    """

    constant_function = 0

    def __init__(self, channels: int, *, degree: int = 3, domain: str = "tanh"):
        super().__init__(channels, check_at_least("degree", degree, 0) + 1, domain)
        self.degree = degree

    @property
    def polynomial_degree(self) -> int:
        return self.degree

    def raise_degree(self, degree: int) -> Tensor:
        return self._append_degrees(degree)

    @abstractmethod
    def recurrence(self, n: int) -> tuple[Coefficient, Coefficient, Coefficient]:
        """slope_n, offset_n and back_n of the step from p_n to p_{n+1}, n >= 0 (back_0 is not
        used).
        """

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        value, derivative = u.new_ones(()), u.new_zeros(())
        value_before = derivative_before = u.new_zeros(())
        yield value, derivative if derivatives else None
        for n in range(self.degree):
            slope, offset, back = self.recurrence(n)
            factor = u if _is(slope, 1) else slope * u
            if not _is(offset, 0):
                factor = factor + offset
            if derivatives:
                # (f p_n - b p_{n-1})' = f p_n' - b p_{n-1}' + f' p_n
                carried = derivative
                if n > 0:
                    carried = _step(factor, derivative, back, derivative_before)
                derivative, derivative_before = carried + slope * value, derivative
            if n == 0:
                value, value_before = factor, value
            else:
                value, value_before = _step(factor, value, back, value_before), value
            yield value, derivative if derivatives else None


def _is(coefficient: Coefficient, number: float) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == number


def _step(factor: Tensor, current: Tensor, back: Coefficient, previous: Tensor) -> Tensor:
    """factor * current - back * previous."""
    if isinstance(back, Tensor):
        return factor * current - back.to(current.dtype) * previous
    return (factor * current).sub_(previous, alpha=back)


@BASES.register("legendre")
class Legendre(Polynomials):
    """(n + 1) P_{n+1} = (2n + 1) u P_n - n P_{n-1} (DLMF 18.9.1)."""

    def recurrence(self, n: int) -> tuple[float, float, float]:
        return (2 * n + 1) / (n + 1), 0, n / (n + 1)


@BASES.register("chebyshev")
class Chebyshev(Polynomials):
    """T_{n+1} = 2 u T_n - T_{n-1} (DLMF 18.9.2).

    cos(n acos(u)) is not used: its gradient is infinite at both ends.
    """

    def recurrence(self, n: int) -> tuple[float, float, float]:
        return (1 if n == 0 else 2), 0, 1


@BASES.register("gram")
class Gram(Polynomials):
    """Discrete Chebyshev (Gram) polynomials on N points, monic: p_{n+1} = u p_n - b_n p_{n-1}.

    b_n = n^2 (N^2 - n^2) / (N^2 (4n^2 - 1)), orthogonal on the points (2i + 1 - N) / N, i = 0..N-1
    (Szego, Orthogonal Polynomials, 2.8). num_points=None is the limit N -> infinity, the monic
    Legendre polynomials.

    Args:
        channels: C.
        degree: D >= 0.
        num_points: N > degree, or None.
        learnable: train the b_n, starting from their exact values.
        domain: tanh by default.
    """

    def __init__(
        self,
        channels: int,
        *,
        degree: int = 3,
        num_points: int | None = None,
        learnable: bool = False,
        domain: str = "tanh",
    ):
        super().__init__(channels, degree=degree, domain=domain)
        if num_points is not None:
            check_at_least("num_points (more than the degree)", num_points, degree + 1)
        self.num_points = num_points
        self.learnable = learnable
        if learnable:
            self.beta = nn.Parameter(torch.empty(max(degree - 1, 0)))
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.learnable:
            values = [self._beta(n) for n in range(1, len(self.beta) + 1)]
            exact = torch.tensor(values, dtype=torch.float64, device="cpu")
            self.beta.copy_(exact.to(self.beta.dtype))

    @torch.no_grad()
    def raise_degree(self, degree: int) -> Tensor:
        if self.num_points is not None:
            check_at_least("num_points (more than the new degree)", self.num_points, degree + 1)
        change = super().raise_degree(degree)
        if self.learnable:
            added = [self._beta(n) for n in range(len(self.beta) + 1, degree)]
            replace_values(self.beta, torch.cat([self.beta, self.beta.new_tensor(added)]))
        return change

    def _beta(self, n: int) -> float:
        """b_n from its definition."""
        finite = 1.0
        if self.num_points is not None:
            finite = 1 - (n / self.num_points) ** 2
        return finite * n**2 / (4 * n**2 - 1)

    def recurrence(self, n: int) -> tuple[Coefficient, Coefficient, Coefficient]:
        if n == 0:
            return 1, 0, 0
        if self.learnable:
            return 1, 0, self.beta[n - 1]
        return 1, 0, self._beta(n)


@BASES.register("jacobi")
class Jacobi(Polynomials):
    """Jacobi polynomials P_n^{(alpha, beta)} (DLMF 18.9.2), alpha, beta > -1.

    P_1 has its own formula: for alpha + beta in {0, -1} the recurrence would start with 0/0.

    Args:
        channels: C.
        degree: D >= 0.
        alpha, beta: the exponents of the weight (1 - u)^alpha (1 + u)^beta; 1 and 1 by default.
        domain: tanh by default.
    """

    def __init__(
        self,
        channels: int,
        *,
        degree: int = 3,
        alpha: float = 1.0,
        beta: float = 1.0,
        domain: str = "tanh",
    ):
        super().__init__(channels, degree=degree, domain=domain)
        if not (alpha > -1 and beta > -1):
            raise ValueError(f"alpha and beta must be greater than -1, got {alpha} and {beta}")
        self.alpha, self.beta = float(alpha), float(beta)

    def recurrence(self, n: int) -> tuple[float, float, float]:
        a, b, m = self.alpha, self.beta, n + 1
        if n == 0:
            return (a + b + 2) / 2, (a - b) / 2, 0
        s = 2 * m + a + b
        divisor = 2 * m * (m + a + b) * (s - 2)
        slope = (s - 1) * s * (s - 2) / divisor
        offset = (s - 1) * (a * a - b * b) / divisor
        back = 2 * (m + a - 1) * (m + b - 1) * s / divisor
        return slope, offset, back

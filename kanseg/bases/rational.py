"""Rational functions with a learned denominator without zeros (safe Pade units)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kanseg.bases.base import (
    BASES,
    Basis,
    ValuesAndDerivatives,
    aligned,
    check_at_least,
    finite_part,
)


@BASES.register("rational")
class Rational(Basis):
    """u^j / (1 + |q_1 u + ... + q_n u^n|), j = 0..m: K = m + 1 functions, bounded if q_n is not 0.

    The safe Pade activation unit P / (1 + |Q|) (Molina et al. 2020, arXiv:1907.06732): the
    coefficients of P are the weights of the layer, those of Q are trained and shared by groups of
    channels (Yang and Wang 2024, arXiv:2409.10594). Q is initialized as u^n: the functions are then
    in [-1, 1], smooth for even n, and each reaches 1/2.

    Args:
        channels: C.
        degree: degree m >= 0 of the numerator.
        denominator_degree: n >= max(m, 1), which is the default. With n < m the functions would be
            unbounded.
        num_groups: at least 1. Groups of ceil(C / num_groups) consecutive channels share a
            denominator; there are fewer groups if num_groups does not divide C.
        domain: identity by default.

    Raises:
        ValueError: a degree or number of groups out of range.
    """

    def __init__(
        self,
        channels: int,
        *,
        degree: int = 4,
        denominator_degree: int | None = None,
        num_groups: int = 8,
        domain: str = "identity",
    ):
        super().__init__(channels, check_at_least("degree", degree, 0) + 1, domain)
        minimum = max(degree, 1)
        if denominator_degree is None:
            denominator_degree = minimum
        check_at_least("denominator_degree (at least the degree)", denominator_degree, minimum)
        self.degree = degree
        self.denominator_degree = denominator_degree
        self.group_size = -(-channels // check_at_least("num_groups", num_groups, 1))
        groups = -(-channels // self.group_size)
        # q: (groups, n), lowest power first
        self.denominator = nn.Parameter(torch.empty(groups, self.denominator_degree))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.denominator.zero_()
        self.denominator[:, -1] = 1

    def channel_denominator(self) -> Tensor:
        """Coefficients q_1..q_n of each channel, (C, n)."""
        return self.denominator.repeat_interleave(self.group_size, dim=0)[: self.channels]

    def select_channels(self, source: Tensor) -> None:
        # Each channel gets its own denominator: channels of one group may no longer be adjacent.
        old = self.denominator
        group = source // self.group_size
        self.denominator = nn.Parameter(
            old.detach()[group.to(old.device)], requires_grad=old.requires_grad
        )
        self.group_size, self.channels = 1, len(source)

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        # With w = u / s and t = 1 / s for any s, u^j / (1 + |Q(u)|) = w^j t^(n-j) / (t^n + |sum q_k
        # w^k t^(n-k)|). s = max(1, |u|) prevents overflow; s cancels, so it needs no gradient.
        n, u = self.denominator_degree, finite_part(u)
        t = u.detach().abs().clamp_min(1).reciprocal()
        powers_t, powers_w = _powers(t, n), _powers(u * t, n)
        monomials = [powers_t[n]]
        for k in range(1, n):
            monomials.append(powers_w[k] * powers_t[n - k])
        monomials.append(powers_w[n])
        q = [aligned(each, u) for each in self.channel_denominator().unbind(1)]
        polynomial = q[0] * monomials[1]
        for k in range(1, n):
            polynomial = torch.addcmul(polynomial, q[k], monomials[k + 1])
        denominator = monomials[0] + polynomial.abs()
        if not derivatives:
            for j in range(self.degree + 1):
                yield monomials[j] / denominator, None
            return
        values = [monomial / denominator for monomial in monomials]
        # B_j' = j B_(j-1) - B_j r with r = |Q|' / (1 + |Q|) = sign(Q) sum k q_k B_(k-1).
        ratio = q[0] * values[0]
        for k in range(1, n):
            ratio = torch.addcmul(ratio, q[k], values[k], value=k + 1)
        ratio = ratio * polynomial.sign()
        yield values[0], -values[0] * ratio
        for j in range(1, self.degree + 1):
            yield values[j], torch.addcmul(values[j - 1] * j, values[j], ratio, value=-1)


def _powers(x: Tensor, n: int) -> list[Tensor]:
    """x^0 (as None, since it is not used), x^1, ..., x^n."""
    powers = [None, x]
    for _ in range(n - 1):
        powers.append(powers[-1] * x)
    return powers

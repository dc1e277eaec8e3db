"""Rational functions with a learned denominator that has no zero (safe Pade units)."""

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
    """u^j / (1 + |q_1 u + ... + q_n u^n|), j = 0..m: K = m + 1 functions, bounded as long as q_n is
    not 0.

    The safe Pade activation unit P / (1 + |Q|) (Molina et al. 2020, arXiv:1907.06732): the
    coefficients of P are the layer's own weights, those of Q are trained and shared by groups of
    channels (Yang and Wang 2024, arXiv:2409.10594). Q starts as u^n, so that the functions start in
    [-1, 1], smooth for even n, each reaching 1/2.

    Args:
        channels: C.
        degree: m >= 0, of the numerator.
        denominator_degree: n >= max(m, 1); that by default. With n < m the functions would grow
            without bound.
        num_groups: at least 1. Runs of ceil(C / num_groups) channels share a denominator, the last
            run may be shorter: as many groups as asked for where they divide C, fewer where they do
            not.
        domain: identity by default.

    Raises:
        ValueError: on a degree or number of groups out of range.
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
        least = max(degree, 1)
        limit = (
            "denominator_degree (no less than the degree, or the functions would grow without"
            " bound)"
        )
        self.degree = degree
        self.denominator_degree = (
            least
            if denominator_degree is None
            else check_at_least(limit, denominator_degree, least)
        )
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

    def set_channels(self, channels: int) -> None:
        # Channels that shared a denominator need not stand side by side any more: each gets its own
        # copy.
        if channels == self.channels:
            return
        shared, group = self.denominator, torch.arange(channels) % self.channels // self.group_size
        self.denominator = nn.Parameter(
            shared.detach()[group.to(shared.device)], requires_grad=shared.requires_grad
        )
        self.group_size, self.channels = 1, channels

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        # With w = u / s and t = 1 / s for any s, u^j / (1 + |Q(u)|) = w^j t^(n-j) / (t^n + |sum q_k
        # w^k t^(n-k)|). At s = max(1, |u|) nothing overflows, whatever u is; since s does not
        # matter, neither does its derivative.
        n, u = self.denominator_degree, finite_part(u)
        t = u.detach().abs().clamp_min(1).reciprocal()
        falling, rising = _powers(t, n), _powers(u * t, n)
        monomials = [falling[n], *(rising[k] * falling[n - k] for k in range(1, n)), rising[n]]
        q = [aligned(each, u) for each in self.channel_denominator().unbind(1)]
        polynomial = q[0] * monomials[1]
        for k in range(1, n):
            polynomial = torch.addcmul(polynomial, q[k], monomials[k + 1])
        denominator = monomials[0] + polynomial.abs()
        if not derivatives:
            yield from ((monomials[j] / denominator, None) for j in range(self.degree + 1))
            return
        values = [each / denominator for each in monomials]
        # B_j' = j B_(j-1) - B_j |Q|' / (1 + |Q|), and the quotient is sign(Q) sum k q_k B_(k-1).
        fall = q[0] * values[0]
        for k in range(1, n):
            fall = torch.addcmul(fall, q[k], values[k], value=k + 1)
        fall = fall * polynomial.sign()
        for j in range(self.degree + 1):
            yield (
                values[j],
                (
                    torch.addcmul(values[j - 1] * j, values[j], fall, value=-1)
                    if j
                    else -values[0] * fall
                ),
            )


def _powers(x: Tensor, n: int) -> list[Tensor]:
    """x^0 (None, for nobody multiplies by it), x^1, ..., x^n."""
    powers = [None, x]
    for _ in range(n - 1):
        powers.append(powers[-1] * x)
    return powers

"""y = silu(x) + P(x) / (1 + |Q(x)|), with polynomials P and Q of each channel, on a CPU.

With z = 1 / max(1, |x|), w = x z and m_j = w^j z^(n-j) the quotient is
sum_j p_j m_j / (m_0 + |sum_k q_k m_k|), which does not overflow for any x.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kanseg.bases import Basis
from kanseg.bases.base import at_least_float32, finite_part, without_autocast
from kanseg.bases.rational import Rational
from kanseg.layers.kernels.gradients import gradients, needs_traceable_backward
from kanseg.layers.kernels.horner import aligned_rows
from kanseg.layers.kernels.lookup import has_cpu_kernel


def is_rational(basis: Basis) -> bool:
    """True if the functions are rational in x, or in x after a normalization."""
    return isinstance(basis, Rational) and (basis.domain == "identity" or not basis.is_pointwise)


def rational(x: Tensor, weight: Tensor, basis: Basis, silu: bool) -> Tensor | None:
    """sum_k weight[c, k] B_k(x) for rational functions, plus SiLU of x on request; keeps x and the
    coefficients for backward.

    Returns None if the functions are not rational in x, or there is no kernel for x.

    Args:
        x: (B, C, *S), not empty; half precision is computed in float32.
        weight: (C, K), or (1, K) for all channels.
        basis: the basis of the K functions.
        silu: add silu(x).
    """
    if not is_rational(basis) or not has_cpu_kernel(x, weight):
        return None
    if basis.denominator.device != x.device:
        return None
    x, denominator = basis.normalized(x), at_least_float32(basis.channel_denominator())
    return RationalFunction.apply(x, weight.float(), denominator, silu)


class RationalFunction(torch.autograd.Function):
    """The differentiable part of `rational`.

    x is (B, C, *S); p (C or 1, m + 1) are the coefficients of P, q (C, n) those of the powers 1 to
    n of Q, with m <= n.
    """

    @staticmethod
    def forward(ctx, x, p, q, silu):  # noqa: ANN001, ANN205
        from kanseg.layers.kernels import rational_numba

        ctx.save_for_backward(x, p, q)
        ctx.silu = silu
        return rational_numba.forward(x, p, q, silu)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        from kanseg.layers.kernels import rational_numba

        x, p, q = ctx.saved_tensors
        create_graph = torch.is_grad_enabled()
        if not needs_traceable_backward(grad):
            return *rational_numba.backward(grad, x, p, q, ctx.silu), None
        with torch.enable_grad(), without_autocast(x):
            y = plain_rational(x, p, q, ctx.silu)
        needed = ctx.needs_input_grad[:3]
        return *gradients(y, (x, p, q), needed, grad, create_graph), None


def plain_rational(x: Tensor, p: Tensor, q: Tensor, silu: bool) -> Tensor:
    """`rational` by PyTorch operations, which autograd can trace."""
    u, n = finite_part(at_least_float32(x)), q.shape[1]
    # z cancels in the quotient, so it needs no gradient.
    z = u.detach().abs().clamp_min(1).reciprocal()
    monomials = [(u * z) ** j * z ** (n - j) for j in range(n + 1)]
    numerator = denominator = 0.0
    for a, monomial in zip(p.unbind(1), monomials, strict=False):
        numerator = numerator + aligned_rows(a, x.dim()) * monomial
    for b, monomial in zip(q.unbind(1), monomials[1:], strict=True):
        denominator = denominator + aligned_rows(b, x.dim()) * monomial
    y = numerator / (monomials[0] + denominator.abs())
    if silu:
        y = y + functional.silu(u)
    return y.to(x.dtype)

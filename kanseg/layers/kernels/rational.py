"""y = silu(x) + P(x) / (1 + |Q(x)|) with polynomials of each channel, on a CPU.

With m_j = w^j z^(n-j), z = 1 / max(1, |x|) and w = x z, it is sum_j p_j m_j / (m_0 + |sum_k q_k
m_k|): nothing overflows, however large x is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kanseg.bases import Basis
from kanseg.bases.base import at_least_float32, finite_part, without_autocast
from kanseg.bases.rational import Rational
from kanseg.layers.kernels.horner import aligned_rows
from kanseg.layers.kernels.lookup import gradients, has_kernel


def is_rational(basis: Basis) -> bool:
    """True if the functions are rational in x itself, or in x after a normalization."""
    return isinstance(basis, Rational) and (basis.domain == "identity" or not basis.is_pointwise)


def quotient(x: Tensor, weight: Tensor, basis: Basis, silu: bool) -> Tensor | None:
    """sum_k weight[c, k] B_k(x), plus SiLU if asked for; keeps x and the coefficients for backward.
    None where the functions are not rational in x, or there is no kernel.

    Args:
        x: (B, C, *S), not empty; half precision is computed in float32.
        weight: (C, K), or (1, K) for all channels.
        basis: whose functions.
    """
    if not is_rational(basis) or not has_kernel(x, weight):
        return None
    if basis.denominator.device != x.device:
        return None
    x, denominator = basis.normalized(x), at_least_float32(basis.channel_denominator())
    return Quotient.apply(x, weight.float(), denominator, silu)


class Quotient(torch.autograd.Function):
    """Of x (B, C, *S), p (C or 1, m + 1) and q (C, n), powers 1 to n, m <= n."""

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
        twice = torch.is_grad_enabled()
        if not twice and not torch._C._functorch.is_legacy_batchedtensor(grad):
            return *rational_numba.backward(grad, x, p, q, ctx.silu), None
        needed = ctx.needs_input_grad[:3]
        inputs = [each for each, wanted in zip((x, p, q), needed, strict=True) if wanted]
        with torch.enable_grad(), without_autocast(x):
            y = plain_quotient(x, p, q, ctx.silu)
        found = iter(gradients(y, inputs, grad, create_graph=twice))
        return *(next(found) if wanted else None for wanted in needed), None


def plain_quotient(x: Tensor, p: Tensor, q: Tensor, silu: bool) -> Tensor:
    """The same by operations that autograd sees into."""
    u, n = finite_part(at_least_float32(x)), q.shape[1]
    z = u.detach().abs().clamp_min(1).reciprocal()  # does not matter, nor does its derivative
    monomials = [(u * z) ** j * z ** (n - j) for j in range(n + 1)]
    numerator, polynomial = (
        sum(aligned_rows(a, x.dim()) * m for a, m in zip(each.unbind(1), which, strict=False))
        for each, which in ((p, monomials), (q, monomials[1:]))
    )
    y = numerator / (monomials[0] + polynomial.abs())
    if silu:
        y = y + functional.silu(u)
    return y.to(x.dtype)

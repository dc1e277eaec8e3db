"""y = silu(x) + sum_n a_cn cos(nu) + b_cn sin(nu): a sum of sines of each channel, on a CPU.

One sine and one cosine are computed per value. A frequency then costs one complex multiply-add.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kanseg.bases import Basis
from kanseg.bases.base import without_autocast
from kanseg.bases.fourier import Fourier
from kanseg.layers.fused.functional import plain_mixture
from kanseg.layers.kernels.gradients import gradients
from kanseg.layers.kernels.horner import DOMAINS
from kanseg.layers.kernels.lookup import has_cpu_kernel


def trigonometric(x: Tensor, weight: Tensor, basis: Basis, silu: bool) -> Tensor | None:
    """sum_k weight[c, k] B_k(x) for sines and cosines, plus SiLU of x on request; keeps x and the
    weights for backward.

    Returns None if the functions are others, or there is no kernel for x.

    Args:
        x: (B, C, *S), not empty; half precision is computed in float32.
        weight: (C, K), or (1, K) for all channels.
        basis: the basis of the K functions.
        silu: add silu(x).
    """
    if not isinstance(basis, Fourier) or not has_cpu_kernel(x, weight):
        return None
    return TrigonometricFunction.apply(basis.normalized(x), weight, basis, silu)


class TrigonometricFunction(torch.autograd.Function):
    """The differentiable part of `trigonometric`; saves x and the weights."""

    @staticmethod
    def forward(ctx, x, weight, basis, silu):  # noqa: ANN001, ANN205
        from kanseg.layers.kernels import trigonometric_numba

        ctx.save_for_backward(x, weight)
        ctx.basis, ctx.silu = basis, silu
        return trigonometric_numba.forward(x, weight, _domain(basis), silu)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        from kanseg.layers.kernels import trigonometric_numba

        x, weight = ctx.saved_tensors
        create_graph = torch.is_grad_enabled()
        if not create_graph and not torch._C._functorch.is_legacy_batchedtensor(grad):
            domain = _domain(ctx.basis)
            return *trigonometric_numba.backward(grad, x, weight, domain, ctx.silu), None, None
        with torch.enable_grad(), without_autocast(x):
            y = plain_mixture(x, ctx.basis, weight, None)
            if ctx.silu:
                y = y + functional.silu(x)
        needed = ctx.needs_input_grad[:2]
        return *gradients(y, (x, weight), needed, grad, create_graph), None, None


def _domain(basis: Basis) -> tuple[float, float, float]:
    """Scale, factor and offset of the argument u = factor * sigmoid(scale x) + offset; scale 0
    means u = x.
    """
    return DOMAINS.get(basis.domain, (0.0, 1.0, 0.0))

"""y = silu(x) + sum_n a_cn t(x)^n: a polynomial of each channel, by Horner's rule.

The K = D + 1 functions of a polynomial family (Legendre, Chebyshev, Gram, Jacobi, Bernstein) add up
to one polynomial of degree D per channel. Its coefficients are computed once per step; a value then
costs D multiply-adds, and SiLU shares the sigmoid of the domain map.
"""

from __future__ import annotations

import warnings
import weakref
from functools import cache
from subprocess import SubprocessError
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.bases.base import assume_constant_result, at_least_float32, without_autocast
from kanseg.layers.fused.plain import has_numba, is_transformed
from kanseg.layers.kernels.gradients import gradients, needs_traceable_backward

# Domain map -> (scale, factor, offset) of u = factor * sigmoid(scale x) + offset. Scale 0 means
# u = x.
DOMAINS: dict[str, tuple[float, float, float]] = {
    "tanh": (2.0, 2.0, -1.0),
    "half_tanh": (1.0, 2.0, -1.0),
    "sigmoid": (1.0, 1.0, 0.0),
}
# Up to this degree powers of the sigmoid are accurate enough in float32. Above it, powers of
# sigmoid - 1/2 are used: their coefficients stay small (measured error: 1e-5 of the functions).
UNCENTERED_DEGREE = 3
MAX_DEGREE = 6
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class PolynomialVariable(NamedTuple):
    """The variable t of the polynomials: t(x) = sigmoid(scale x) - center, or x for scale 0."""

    scale: float
    center: float


def is_low_degree_polynomial(basis: Basis) -> bool:
    """True if all functions are polynomials of a degree up to `MAX_DEGREE`."""
    degree = basis.polynomial_degree
    return degree is not None and degree <= MAX_DEGREE


def polynomial_variable(basis: Basis) -> PolynomialVariable:
    """The variable in which the functions of a basis are written as polynomials."""
    scale = DOMAINS.get(basis.domain, (0.0,))[0]
    if scale == 0 or basis.polynomial_degree <= UNCENTERED_DEGREE:
        return PolynomialVariable(scale, 0.0)
    return PolynomialVariable(scale, 0.5)


def power_coefficients(basis: Basis, device: torch.device) -> Tensor:
    """Coefficients (K, D + 1), float64, of the functions in powers of t; differentiable in the
    parameters of the basis.
    """
    has_parameters = next(basis.parameters(), None) is not None
    if is_transformed() or has_parameters:
        return _interpolate(basis, device)
    key = basis.polynomial_degree, basis.domain
    cached = _coefficient_cache.get(basis)
    if cached is not None and cached[0] == key:
        # A blocking copy would wait for the GPU in every step.
        return cached[1].to(device, non_blocking=True)
    coefficients = _interpolate(basis, device)
    if type(coefficients) is Tensor and not coefficients.is_meta:
        with torch.inference_mode(False):  # the copy must be usable in training, and on any device
            copy = torch.tensor(coefficients.tolist(), dtype=torch.float64, device="cpu")
        _coefficient_cache[basis] = key, copy
    return coefficients


_coefficient_cache: weakref.WeakKeyDictionary[Basis, tuple[object, Tensor]]
_coefficient_cache = weakref.WeakKeyDictionary()


def _interpolate(basis: Basis, device: torch.device) -> Tensor:
    """Power coefficients by interpolation at the D + 1 Chebyshev points of the range of t."""
    nodes = torch.tensor(_nodes(basis), dtype=torch.float64, device="cpu")
    nodes = nodes.to(device, non_blocking=True)
    u = nodes[:1].unsqueeze(0)
    values = torch.stack([value.expand_as(u)[0, 0] for value, _ in basis.values_and_derivatives(u)])
    return values @ nodes[1:]


@assume_constant_result
def _nodes(basis: Basis) -> list[list[float]]:
    """First row: the D + 1 interpolation points u. Further rows: the matrix that turns values at
    these points into coefficients.

    Returned as numbers because exporters do not support matrix inversion.
    """
    count, (scale, center) = basis.polynomial_degree + 1, polynomial_variable(basis)
    u = points = np.cos((np.arange(count) + 0.5) * (np.pi / count))
    if scale != 0:
        _, factor, offset = DOMAINS[basis.domain]
        points = (points + 1) / 2 - center
        u = factor * (points + center) + offset
    inverse = np.linalg.inv(np.vander(points, N=count, increasing=True))
    return [u.tolist(), *inverse.T.tolist()]


def aligned_rows(values: Tensor, ndim: int) -> Tensor:
    """Reshape values (C or 1,) so that they broadcast over x (B, C, *S) of `ndim` axes."""
    return values.reshape(-1, *[1] * (ndim - 2))


def plain_polynomial(x: Tensor, coefficients: Tensor, t: PolynomialVariable, silu: bool) -> Tensor:
    """`polynomial` by PyTorch operations, which autograd and compilers can trace."""
    wide = at_least_float32(x)
    sigmoid = variable = torch.sigmoid(wide)
    if t.scale == 0:
        variable = wide
    elif t != (1, 0):
        variable = torch.sigmoid(t.scale * wide) - t.center
    columns = [aligned_rows(column, x.dim()) for column in coefficients.to(wide.dtype).unbind(1)]
    silu_is_term = silu and t == (1, 0) and len(columns) > 1
    if silu_is_term:
        columns[1] = columns[1] + wide  # x sigmoid(x) is a term of degree 1
    y = columns.pop()
    if not columns:  # a constant
        y = y.expand_as(x).clone()
    for column in reversed(columns):
        y = y * variable + column
    if silu and not silu_is_term:
        y = y + wide * sigmoid
    return y.to(x.dtype)


def polynomial(x: Tensor, coefficients: Tensor, t: PolynomialVariable, silu: bool) -> Tensor:
    """sum_n coefficients[c, n] t(x)^n, plus SiLU of x on request; keeps only x for backward.

    Args:
        x: (B, C, *S); half precision is computed in float32.
        coefficients: (C, N), or (1, N) for all channels.
        t: the variable of the polynomials.
        silu: add silu(x).
    """
    if torch.is_grad_enabled():
        return PolynomialFunction.apply(x, coefficients, t, silu)
    return _forward(x, coefficients, t, silu)


def _forward(x: Tensor, coefficients: Tensor, t: PolynomialVariable, silu: bool) -> Tensor:
    kernels = select_kernels(x, coefficients)
    if kernels is None:
        return plain_polynomial(x, coefficients, t, silu)
    return kernels.forward(x, coefficients, t, silu)


def select_kernels(x: Tensor, coefficients: Tensor) -> ModuleType | None:
    """`horner_triton` or `horner_numba`, which make one pass over memory, or None for PyTorch
    operations.
    """
    if type(x) not in (Tensor, nn.Parameter) or x.dtype not in KERNEL_DTYPES or x.numel() == 0:
        return None  # a kernel cannot read the memory of a fake tensor
    if coefficients.device != x.device or len(coefficients) not in (1, x.shape[1]):
        return None  # a kernel would read out of bounds; PyTorch operations raise an error
    if x.device.type == "cpu" and has_numba():
        from kanseg.layers.kernels import horner_numba

        return horner_numba
    if x.is_cuda:
        return _triton_kernels(x.device, x.dtype)
    return None


@cache
def _triton_kernels(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """`horner_triton` if its kernels run on the device, else None.

    Triton may be missing (Windows), may not find a C compiler or Python.h when it first launches a
    kernel, or may no longer support the GPU.
    """
    try:
        from triton.errors import TritonError

        from kanseg.layers.kernels import horner_triton
    except ImportError:
        return None
    x = torch.zeros(1, 1, device=device, dtype=dtype)
    try:
        horner_triton.forward(x, x, PolynomialVariable(1.0, 0.0), silu=True)
    except (TritonError, RuntimeError, OSError, SubprocessError) as error:
        warnings.warn(
            f"Triton is installed but cannot run kernels for {dtype} on {device} ({error});"
            " polynomial functions use slower PyTorch operations instead",
            stacklevel=2,
        )
        return None
    return horner_triton


class PolynomialFunction(torch.autograd.Function):
    """The differentiable part of `polynomial`; saves x and the coefficients."""

    @staticmethod
    def forward(ctx, x, coefficients, t, silu):  # noqa: ANN001, ANN205
        ctx.save_for_backward(x, coefficients)
        ctx.options = t, silu
        return _forward(x, coefficients, t, silu)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        x, coefficients = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        create_graph = torch.is_grad_enabled()
        kernels = None
        if not needs_traceable_backward(grad):
            kernels = select_kernels(x, coefficients)
        if kernels is not None:
            grads = kernels.backward(grad, x, coefficients, *ctx.options, *needed)
        else:
            with torch.enable_grad(), without_autocast(x):
                y = plain_polynomial(x, coefficients, *ctx.options)
            grads = gradients(y, (x, coefficients), needed, grad, create_graph)
        return *grads, None, None

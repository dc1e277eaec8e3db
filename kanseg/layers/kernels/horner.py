"""y = silu(x) + sum_n a_cn t(x)^n: a polynomial of each channel, by Horner's rule.

Every polynomial family (Legendre, Chebyshev, Gram, Jacobi, Bernstein) of K = D + 1 functions
collapses to one polynomial of degree D a channel. Its coefficients are found once a step; a value
then costs D multiply-adds, and SiLU shares the sigmoid of the domain map.
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
from kanseg.bases.base import at_least_float32, without_autocast
from kanseg.layers.fused.plain import has_numba, is_transformed

# u = factor * sigmoid(scale x) + offset is what the functions see of x; a scale of 0 stands for
# u = x.
DOMAINS: dict[str, tuple[float, float, float]] = {
    "tanh": (2.0, 2.0, -1.0),
    "half_tanh": (1.0, 2.0, -1.0),
    "sigmoid": (1.0, 1.0, 0.0),
}
# Up to this degree powers of the sigmoid are exact enough in float32; above, they are taken about
# its center 1/2, which keeps their coefficients small (measured: error 1e-5 of the functions).
UNCENTERED_DEGREE = 3
MAX_DEGREE = 6
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Variable(NamedTuple):
    """t(x) = sigmoid(scale x) - center, what the polynomials are written in; x for scale 0."""

    scale: float
    center: float


def collapses(basis: Basis) -> bool:
    """True if the functions are polynomials that `power_coefficients` can state."""
    degree = basis.polynomial_degree
    return degree is not None and degree <= MAX_DEGREE


def variable(basis: Basis) -> Variable:
    """The variable of the collapsed polynomials of a basis."""
    scale = DOMAINS.get(basis.domain, (0.0,))[0]
    if scale == 0 or basis.polynomial_degree <= UNCENTERED_DEGREE:
        return Variable(scale, 0.0)
    return Variable(scale, 0.5)


def power_coefficients(basis: Basis, device: torch.device) -> Tensor:
    """Coefficients (K, D + 1), float64, of the functions in powers of t; differentiable in the
    parameters of the basis.
    """
    if is_transformed() or any(True for _ in basis.parameters()):
        return _interpolated(basis, device)
    key = basis.polynomial_degree, basis.domain
    known = _known.get(basis)
    if known is not None and known[0] == key:
        return known[1].to(device, non_blocking=True)  # else it waits for the GPU in every step
    found = _interpolated(basis, device)
    if type(found) is Tensor and not found.is_meta:
        with torch.inference_mode(False):  # on the CPU, whatever the device and mode of the call
            _known[basis] = key, torch.tensor(found.tolist(), dtype=torch.float64, device="cpu")
    return found


_known: weakref.WeakKeyDictionary[Basis, tuple[object, Tensor]]
_known = weakref.WeakKeyDictionary()


def _interpolated(basis: Basis, device: torch.device) -> Tensor:
    """Interpolation at the D + 1 Chebyshev points of the range of t."""
    nodes = torch.tensor(_nodes(basis), dtype=torch.float64, device="cpu").to(
        device, non_blocking=True
    )
    u = nodes[:1].unsqueeze(0)
    values = torch.stack([value.expand_as(u)[0, 0] for value, _ in basis.values_and_derivatives(u)])
    return values @ nodes[1:]


@torch.compiler.assume_constant_result
def _nodes(basis: Basis) -> list[list[float]]:
    """The D + 1 arguments u at which the functions are interpolated, and below them the matrix that
    turns values there into coefficients. They are numbers because exporters know no inverse.
    """
    count, (scale, center) = basis.polynomial_degree + 1, variable(basis)
    u = points = np.cos((np.arange(count) + 0.5) * (np.pi / count))
    if scale != 0:
        _, factor, offset = DOMAINS[basis.domain]
        points = (points + 1) / 2 - center
        u = factor * (points + center) + offset
    inverse = np.linalg.inv(np.vander(points, N=count, increasing=True))
    return [u.tolist(), *inverse.T.tolist()]


def aligned_rows(values: Tensor, ndim: int) -> Tensor:
    """Numbers (C or 1,) lined up with x (B, C, *S) of `ndim` axes."""
    return values.reshape(-1, *[1] * (ndim - 2))


def plain_polynomial(x: Tensor, coefficients: Tensor, t: Variable, silu: bool) -> Tensor:
    """The same as `polynomial` by operations that autograd and compilers see into."""
    wide = at_least_float32(x)
    sigmoid = variable = torch.sigmoid(wide)
    if t.scale == 0:
        variable = wide
    elif t != (1, 0):
        variable = torch.sigmoid(t.scale * wide) - t.center
    each = [aligned_rows(column, x.dim()) for column in coefficients.to(wide.dtype).unbind(1)]
    joined = silu and t == (1, 0) and len(each) > 1
    if joined:
        each[1] = each[1] + wide  # x sigmoid(x) is a term of degree 1
    y = each.pop()
    for column in reversed(each):
        y = y * variable + column
    if silu and not joined:
        y = y + wide * sigmoid
    return y.expand_as(x).to(x.dtype)


def polynomial(x: Tensor, coefficients: Tensor, t: Variable, silu: bool) -> Tensor:
    """sum_n coefficients[c, n] t(x)^n, plus SiLU of x if asked for; keeps x alone for backward.

    Args:
        x: (B, C, *S); half precision is computed in float32.
        coefficients: (C, N), or (1, N) for all channels.
    """
    if torch.is_grad_enabled():
        return Polynomial.apply(x, coefficients, t, silu)
    return _computed(x, coefficients, t, silu)


def _computed(x: Tensor, coefficients: Tensor, t: Variable, silu: bool) -> Tensor:
    chosen = kernels(x, coefficients)
    if chosen is None:
        return plain_polynomial(x, coefficients, t, silu)
    return chosen.forward(x, coefficients, t, silu)


def kernels(x: Tensor, coefficients: Tensor) -> ModuleType | None:
    """What computes the polynomial of x in one pass over memory, `horner_triton` or
    `horner_numba`; None where PyTorch's operations do.
    """
    if type(x) not in (Tensor, nn.Parameter) or x.dtype not in KERNEL_DTYPES or x.numel() == 0:
        return None  # a fake tensor has no memory that a kernel could read
    if coefficients.device != x.device or len(coefficients) not in (1, x.shape[1]):
        return None  # a kernel would read whatever is there; the operations raise an error
    if x.device.type == "cpu" and has_numba():
        from kanseg.layers.kernels import horner_numba

        return horner_numba
    return _running_kernels(x.device, x.dtype) if x.is_cuda else None


@cache
def _running_kernels(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """The kernels, if they run on the device. Triton may be missing (Windows), may find no C
    compiler or no Python.h when it first launches a kernel, or not know the GPU any more.
    """
    try:
        from triton.errors import TritonError

        from kanseg.layers.kernels import horner_triton
    except ImportError:
        return None
    x = torch.zeros(1, 1, device=device, dtype=dtype)
    try:
        horner_triton.forward(x, x, Variable(1.0, 0.0), silu=True)
    except (TritonError, RuntimeError, OSError, SubprocessError) as error:
        warnings.warn(
            f"Triton is installed, but runs no kernel for {dtype} on {device} ({error}); polynomial"
            " functions are computed by PyTorch's operations instead, which takes longer",
            stacklevel=2,
        )
        return None
    return horner_triton


class Polynomial(torch.autograd.Function):
    """See `polynomial`."""

    @staticmethod
    def forward(ctx, x, coefficients, t, silu):  # noqa: ANN001, ANN205
        ctx.save_for_backward(x, coefficients)
        ctx.options = t, silu
        return _computed(x, coefficients, t, silu)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        x, coefficients = ctx.saved_tensors
        batched = torch._C._functorch.is_legacy_batchedtensor(grad)
        chosen = None
        if not (torch.is_grad_enabled() or batched):
            chosen = kernels(x, coefficients)
        if chosen is None:
            return _gradients_by_autograd(ctx, grad)
        needed = ctx.needs_input_grad[:2]
        return *chosen.backward(grad, x, coefficients, *ctx.options, *needed), None, None


def _gradients_by_autograd(ctx, grad):  # noqa: ANN001, ANN202
    """Gradients by operations that autograd knows, of values that are made anew: for second
    derivatives, batched gradients, and where there is no kernel.
    """
    x, coefficients = ctx.saved_tensors
    needed = ctx.needs_input_grad[:2]
    inputs = [each for each, wanted in zip((x, coefficients), needed, strict=True) if wanted]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), without_autocast(x):
        y = plain_polynomial(x, coefficients, *ctx.options)
    found = iter(
        torch.autograd.grad(y, inputs, grad, create_graph=create_graph, materialize_grads=True)
    )
    return *(next(found) if wanted else None for wanted in needed), None, None

"""y = silu(x) + f_c(x) with each f_c read from a table, linear between its entries.

Splines and radial functions vanish outside a range, and sums of sines repeat: a table of a few
thousand entries holds such a function, whatever its number of terms, to 5e-5 of its size. The table
is made once a step from the coefficients. The gradient is exactly that of what is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kanseg.bases import Basis
from kanseg.bases.base import TableRange, without_autocast
from kanseg.layers.fused.functional import plain_mixture
from kanseg.layers.fused.plain import has_numba, named_tensors, with_tensors
from kanseg.layers.kernels.horner import KERNEL_DTYPES, aligned_rows

# Longer tables leave the cache, and take longer to make than they save.
MAX_ENTRIES = 1 << 13


def can_tabulate(basis: Basis) -> bool:
    """True if the functions can be held in tables of a moderate length."""
    if not may_tabulate(basis):
        return False
    span = basis.table_range()
    return span is not None and span.entries <= MAX_ENTRIES


def may_tabulate(basis: Basis) -> bool:
    """True if the functions can be held in tables, unless their numbers are against it."""
    return basis.has_table and (basis.domain == "identity" or not basis.is_pointwise)


def table_range(basis: Basis, x: Tensor) -> TableRange | None:
    """Where the functions are to be tabulated; None where they cannot be, or nothing is gained: a
    table is for the cache of a CPU, and not for double precision.
    """
    real = type(x) in (Tensor, nn.Parameter)
    if not real or x.device.type != "cpu" or x.dtype not in KERNEL_DTYPES or not has_numba():
        return None
    if not can_tabulate(basis):
        return None
    return basis.table_range()


def function_values(basis: Basis, span: TableRange) -> Tensor:
    """Values (K, entries + 1) of all functions at equally spaced places of the range, or (C, K,
    entries + 1) where they differ from channel to channel.
    """
    if span.key is None:
        return _evaluated(basis, span)
    if span.key not in _known:
        if len(_known) >= MAX_KNOWN:
            _known.clear()
        rows = {name: getattr(basis, name)[:1] for name in basis.per_channel}
        with torch.inference_mode(False):
            _known[span.key] = _evaluated(with_tensors(basis, named_tensors(basis) | rows), span)[0]
    return _known[span.key]


_known: dict[tuple[object, ...], Tensor] = {}  # what `function_values` found, by `TableRange.key`
MAX_KNOWN = 64


@torch.no_grad()
def _evaluated(basis: Basis, span: TableRange) -> Tensor:
    """Values (R, K, entries + 1) of all functions at the places of the table."""
    steps = torch.arange(span.entries + 1, dtype=span.lo.dtype) / span.entries
    u = torch.lerp(span.lo.unsqueeze(1), span.hi.unsqueeze(1), steps).unsqueeze(0)
    return torch.stack(
        [value.expand_as(u)[0] for value, _ in basis.values_and_derivatives(u)], dim=1
    )


def tabulate(weight: Tensor, values: Tensor) -> Tensor:
    """sum_k weight[r, k] values[k], (R, entries + 1); R of 1 or C."""
    values = values.to(weight.dtype)
    if values.dim() == 2:
        return weight @ values
    return (weight.unsqueeze(1) @ values).squeeze(1)


def lookup(x: Tensor, weight: Tensor, basis: Basis, span: TableRange, silu: bool) -> Tensor:
    """sum_k weight[c, k] B_k(x), plus SiLU if asked for; keeps x and the weight for backward.

    Args:
        x: (B, C, *S) on a CPU, after a normalizing domain map; half precision is computed in
            float32.
        weight: (C, K), or (1, K) for all channels.
        basis, span: whose functions, and the range of the table. Beyond it the function stays what
            it is at the ends, or repeats.
    """
    basis = with_tensors(basis, named_tensors(basis))  # as it is now, whatever backward finds
    return Lookup.apply(x, weight, basis, span, silu)


class Lookup(torch.autograd.Function):
    """See `lookup`."""

    @staticmethod
    def forward(ctx, x, weight, basis, span, silu):  # noqa: ANN001, ANN205
        from kanseg.layers.kernels import lookup_numba

        ctx.save_for_backward(x, weight)
        ctx.options = basis, span, silu
        with without_autocast(x):
            table = tabulate(weight.float(), function_values(basis, span))
        return lookup_numba.forward(x, table, span, silu)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        from kanseg.layers.kernels import lookup_numba

        x, weight = ctx.saved_tensors
        basis, span, silu = ctx.options
        with without_autocast(x):
            if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad):
                return _gradients_by_autograd(ctx, grad)
            values = function_values(basis, span)
            table = tabulate(weight.float(), values)
            grad_x, grad_table = lookup_numba.backward(grad, x, table, span, silu)
            grad_weight = _table_gradient(grad_table, values.float(), len(weight))
        return grad_x, grad_weight.to(weight.dtype), None, None, None


def _table_gradient(grad_table: Tensor, values: Tensor, rows: int) -> Tensor:
    """Gradient of the weight (rows, K) from that of the table (R, entries + 1)."""
    if values.dim() == 2:
        return grad_table @ values.T
    found = (values @ grad_table.unsqueeze(2)).squeeze(2)
    return found if rows > 1 else found.sum(0, keepdim=True)


def plain_lookup(x: Tensor, table: Tensor, span: TableRange, silu: bool) -> Tensor:
    """The same as `lookup`, of a table, by operations that autograd and exporters see into."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rate = span.entries / (span.hi - span.lo).to(wide.dtype)
    shift = -span.lo.to(wide.dtype) * rate
    place = wide * aligned_rows(rate, x.dim()) + aligned_rows(shift, x.dim())
    if span.periodic:
        place = place - span.entries * torch.floor(place / span.entries)
    place = place.clamp(0.0, span.entries * (1 - torch.finfo(wide.dtype).eps / 2))
    index = place.detach().to(torch.int64).clamp(0, span.entries - 1)  # NaN is any integer
    beyond = place - index
    if len(table) > 1:
        rows = torch.arange(len(table), device=x.device) * span.entries
        index = index + aligned_rows(rows, x.dim())
    start, rise = table[:, :-1].flatten(), table.diff(dim=1).flatten()
    index = index.flatten()
    y = beyond * rise.index_select(0, index).view_as(x) + start.index_select(0, index).view_as(x)
    if silu:
        y = y + functional.silu(wide)
    return y.to(x.dtype)


def _gradients_by_autograd(ctx, grad):  # noqa: ANN001, ANN202
    """Gradients by operations that autograd knows, of the functions themselves: lines between the
    entries of a table have no second derivative.
    """
    x, weight = ctx.saved_tensors
    basis, _, silu = ctx.options
    needed = ctx.needs_input_grad[:2]
    inputs = [each for each, wanted in zip((x, weight), needed, strict=True) if wanted]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        y = plain_mixture(x, basis, weight, None)
        if silu:
            y = y + functional.silu(x)
    found = iter(
        torch.autograd.grad(y, inputs, grad, create_graph=create_graph, materialize_grads=True)
    )
    return *(next(found) if wanted else None for wanted in needed), None, None, None

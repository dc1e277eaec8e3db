"""y = silu(x) + f_c(x) with each f_c read from a table, linear between its entries.

Splines and radial functions vanish outside a range, and sums of sines repeat: a table of a few
thousand entries holds such a function, whatever its number of terms, to 3e-5 of its size. The table
is made once a step from the coefficients. The gradient is exactly that of what is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kanseg.bases import Basis
from kanseg.bases.base import TableRange, without_autocast
from kanseg.layers.plain import held, holding
from kanseg.layers.pointwise import Scratch, aligned_rows, pieces

# Longer tables leave the cache, and take longer to make than they save.
MAX_ENTRIES = 1 << 13
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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
    if not real or x.device.type != "cpu" or x.dtype not in DTYPES or not can_tabulate(basis):
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
            _known[span.key] = _evaluated(holding(basis, held(basis) | rows), span)[0]
    return _known[span.key]


_known: dict[tuple[object, ...], Tensor] = {}  # what `function_values` found, by `TableRange.key`
MAX_KNOWN = 64


@torch.no_grad()
def _evaluated(basis: Basis, span: TableRange) -> Tensor:
    """Values (R, K, entries + 1) of all functions at the places of the table."""
    steps = torch.arange(span.entries + 1, dtype=span.lo.dtype) / span.entries
    u = torch.lerp(span.lo.unsqueeze(1), span.hi.unsqueeze(1), steps).unsqueeze(0)
    return torch.stack([value.expand_as(u)[0] for value, _ in basis.terms(u)], dim=1)


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
    if span.key is None:
        basis = holding(basis, held(basis))  # as it is now, whatever backward finds
    return Lookup.apply(x, weight, basis, span, silu)


class Lookup(torch.autograd.Function):
    """See `lookup`."""

    @staticmethod
    def forward(ctx, x, weight, basis, span, silu):  # noqa: ANN001, ANN205
        ctx.save_for_backward(x, weight)
        ctx.options = basis, span, silu
        y, scratch = torch.empty_like(x), Scratch(x)
        table = tabulate(weight.to(scratch.dtype), function_values(basis, span))
        places = _Places(x, table, span, scratch)
        starts, rises = table[:, :-1].flatten(), table.diff(dim=1).flatten()
        for channels, parts in pieces(x, y):
            for part, out in parts:
                wide = part.to(scratch.dtype)
                value = out if out.dtype == scratch.dtype else scratch("value", wide)
                index, beyond = places.find(wide, channels)
                start, rise = scratch("start", wide), scratch("rise", wide)
                torch.index_select(starts, 0, flat(index), out=flat(start))
                torch.index_select(rises, 0, flat(index), out=flat(rise))
                torch.addcmul(start, beyond, rise, out=value)
                if silu:
                    value.addcmul_(wide, torch.sigmoid(wide, out=beyond))
                if value is not out:
                    out.copy_(value)
        return y

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        with without_autocast(ctx.saved_tensors[0]):
            if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad):
                return _differentiable_backward(ctx, grad)
            return _gradients(ctx, grad)


def _gradients(ctx, grad):  # noqa: ANN001, ANN202
    x, weight = ctx.saved_tensors
    basis, span, silu = ctx.options
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    scratch, values = Scratch(x), function_values(basis, span)
    table = tabulate(weight.to(scratch.dtype), values)
    places = _Places(x, table, span, scratch)
    slopes = (table.diff(dim=1) * places.rate.reshape(-1, 1)).flatten()
    grad_x = torch.empty_like(x) if needs_x else None
    starts, rises = torch.zeros_like(slopes), torch.zeros_like(slopes)
    written = x if grad_x is None else grad_x  # not written then
    for channels, parts in pieces(x, grad, written):
        for part, g, out in parts:
            wide = part.to(scratch.dtype)
            g = scratch("grad", wide).copy_(g)
            index, beyond = places.find(wide, channels)
            if needs_weight:
                long = scratch("long", wide, torch.int64).copy_(index)
                product = torch.mul(g, beyond, out=scratch("value", wide))
                starts.scatter_add_(0, flat(long), flat(g))
                rises.scatter_add_(0, flat(long), flat(product))
            if needs_x:
                slope = scratch("value", wide)
                torch.index_select(slopes, 0, flat(index), out=flat(slope))
                if silu:
                    sigmoid = torch.sigmoid(wide, out=beyond)
                    work = torch.mul(wide, sigmoid, out=scratch("work", wide))
                    torch.sub(wide, work, out=work)
                    slope.addcmul_(work, sigmoid).add_(sigmoid)
                out.copy_(slope.mul_(g))
    if not needs_weight:
        return grad_x, None, None, None, None
    starts, rises = starts.view(len(table), -1), rises.view(len(table), -1)
    grad_table = functional.pad(starts - rises, (0, 1)) + functional.pad(rises, (1, 0))
    grad_weight = _table_gradient(grad_table, values.to(grad_table.dtype), len(weight))
    return grad_x, grad_weight.to(weight.dtype), None, None, None


def _table_gradient(grad_table: Tensor, values: Tensor, rows: int) -> Tensor:
    """Gradient of the weight (rows, K) from that of the table (R, entries + 1)."""
    if values.dim() == 2:
        return grad_table @ values.T
    found = (values @ grad_table.unsqueeze(2)).squeeze(2)
    return found if rows > 1 else found.sum(0, keepdim=True)


class _Places:
    """Finds the entry of the table that each x lies behind, and how far behind it, 0 to 1."""

    def __init__(self, x: Tensor, table: Tensor, span: TableRange, scratch: Scratch):
        self.span, self.scratch = span, scratch
        self.entries = span.entries
        self.rate = (span.entries / (span.hi - span.lo)).to(scratch.dtype)
        self.shift = -span.lo.to(scratch.dtype) * self.rate
        if len(self.rate) == 1:
            self._rate, self._shift = self.rate.item(), self.shift.item()
        else:
            self._rate = aligned_rows(self.rate, x.dim())
            self._shift = aligned_rows(self.shift, x.dim())
        rows = torch.arange(len(table), dtype=torch.int32) * span.entries
        self.first = None if len(table) == 1 else aligned_rows(rows, x.dim())
        # The largest float below the number of entries: its fraction is nearly 1.
        self.last = span.entries * (1 - torch.finfo(scratch.dtype).eps / 2)

    def find(self, wide: Tensor, channels: slice) -> tuple[Tensor, Tensor]:
        """Index of the entry in the flattened table, int32, and the fraction beyond it."""
        rate, shift = self._rate, self._shift
        if isinstance(rate, Tensor):
            rate, shift = rate[channels], shift[channels]
        beyond = torch.mul(wide, rate, out=self.scratch("beyond", wide)).add_(shift)
        if self.span.periodic:
            turns = torch.mul(beyond, 1 / self.entries, out=self.scratch("value", wide)).floor_()
            beyond.sub_(turns, alpha=self.entries)
        beyond.clamp_(0, self.last)
        index = self.scratch("index", wide, torch.int32).copy_(beyond)
        index.clamp_(0, self.entries - 1)  # NaN is any integer
        beyond.frac_()
        if self.first is not None:
            index.add_(self.first[channels])
        return index, beyond


def flat(buffer: Tensor) -> Tensor:
    """A buffer of `Scratch`, which is dense, as a vector in the order of its memory."""
    return buffer.as_strided((buffer.numel(),), (1,), buffer.storage_offset())


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


def _differentiable_backward(ctx, grad):  # noqa: ANN001, ANN202
    """Gradients by operations that autograd knows: for second derivatives and batched gradients."""
    x, weight = ctx.saved_tensors
    basis, span, silu = ctx.options
    needed = ctx.needs_input_grad[:2]
    inputs = [each for each, wanted in zip((x, weight), needed, strict=True) if wanted]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        table = tabulate(weight, function_values(basis, span))
        y = plain_lookup(x, table, span, silu)
    found = iter(
        torch.autograd.grad(y, inputs, grad, create_graph=create_graph, materialize_grads=True)
    )
    return *(next(found) if wanted else None for wanted in needed), None, None, None

"""y = silu(x) + f_c(x), with each f_c looked up in a table of cubic polynomials.

Splines, wavelets and radial functions vanish outside a range. A few dozen cubic polynomials side by
side approximate such a function to 5e-5 of its size, whatever its number of terms. The table is
built once per step from values of the functions at a few hundred points. The gradient is exact for
the tabulated function, including the gradient of the basis's own parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kanseg.bases import Basis
from kanseg.bases.base import TableRange, without_autocast
from kanseg.layers.fused.functional import plain_mixture
from kanseg.layers.fused.plain import has_numba, named_tensors, with_tensors
from kanseg.layers.kernels.basis_cache import BasisCache
from kanseg.layers.kernels.gradients import gradients, needs_traceable_backward
from kanseg.layers.kernels.horner import DOMAINS, KERNEL_DTYPES, aligned_rows

# Longer tables do not fit into the CPU cache, and cost more to build than they save.
MAX_PIECES = 1 << 10
# Chebyshev-Lobatto points of each piece: its two ends, which it shares with its neighbors, and two
# inner points that keep the interpolation error small.
NODES = np.array([0.0, 0.25, 0.75, 1.0])
# Turns values at the nodes into coefficients, lowest power first.
COEFFICIENTS = np.linalg.inv(np.vander(NODES, increasing=True))


class CubicTable(NamedTuple):
    """P cubic polynomials per function, in the table position (t - start) * rate in [0, P].

    t = sigmoid(scale * x), or x for scale 0. The functions are constant beyond both ends.

    Args:
        pieces: coefficients (R, P, 4), lowest power first, with R = 1 or C.
        start, rate: (1,) or (C,).
        scale: factor inside the sigmoid; 0 for t = x.
    """

    pieces: Tensor
    start: Tensor
    rate: Tensor
    scale: float


class TableSamples(NamedTuple):
    """The range of a table and the values (K, 3 P + 1) of the basis functions at its nodes.

    `values` is None where the functions differ between channels (too many values to keep) or have
    parameters (the values would be valid for one step only).
    """

    table_range: TableRange
    values: Tensor | None


def can_tabulate(basis: Basis) -> bool:
    """True if the functions fit into a table of at most `MAX_PIECES` pieces."""
    return _table_range(basis) is not None


def _table_range(basis: Basis) -> TableRange | None:
    if not basis.has_table:
        return None
    table_range = basis.table_range()
    if table_range is None or table_range.pieces > MAX_PIECES:
        return None
    return table_range


def sample_functions(basis: Basis) -> TableSamples | None:
    """Sample the functions for a table; None if they cannot be tabulated."""
    table_range = _table_range(basis)
    if table_range is None:
        return None
    has_parameters = next(basis.parameters(), None) is not None
    if len(table_range.lo) > 1 or has_parameters:
        return TableSamples(table_range, None)
    return TableSamples(table_range, values_at_nodes(basis, table_range)[0])


def values_at_nodes(basis: Basis, table_range: TableRange) -> Tensor:
    """Values (R, K, 3 P + 1) of the functions at the nodes of a table, with R = 1 or C."""
    lo, hi = table_range.lo, table_range.hi
    if len(lo) == 1:
        first_rows = {name: getattr(basis, name)[:1] for name in basis.per_channel}
        basis = with_tensors(basis, named_tensors(basis) | first_rows)
    pieces = np.arange(table_range.pieces)
    # Positions of the nodes as fractions of the range, (3 P + 1,).
    nodes = np.append((pieces[:, None] + NODES[:3]).ravel(), len(pieces)) / len(pieces)
    fractions = torch.from_numpy(nodes).to(lo.dtype)
    return basis.values_at(torch.lerp(lo.unsqueeze(1), hi.unsqueeze(1), fractions))


def tabulate(weight: Tensor, basis: Basis, samples: TableSamples) -> CubicTable:
    """Build the table of sum_k weight[r, k] B_k, differentiable in the weight and in the parameters
    of the basis.
    """
    table_range, values = samples
    if values is None:
        values = values_at_nodes(basis, table_range).to(weight.dtype)
        y = (weight.unsqueeze(1) @ values).squeeze(1)
    else:
        y = weight @ values.to(weight.dtype)
    # A piece has four nodes; its last node is the first one of the next piece.
    first_three, ends = y[:, :-1].unflatten(1, (-1, 3)), y[:, 3::3].unsqueeze(2)
    pieces = torch.cat([first_three, ends], 2) @ torch.from_numpy(COEFFICIENTS.T).to(y.dtype)
    # The functions see u = factor * t + offset.
    scale, factor, offset = DOMAINS.get(basis.domain, (0.0, 1.0, 0.0))
    rate = table_range.pieces / (table_range.hi - table_range.lo)
    start = (table_range.lo - offset) / factor
    return CubicTable(pieces, start, rate * factor, scale)


_samples_cache: BasisCache[TableSamples | None] = BasisCache()
_table_cache: BasisCache[CubicTable] = BasisCache()


def lookup(x: Tensor, weight: Tensor, basis: Basis, silu: bool) -> Tensor | None:
    """sum_k weight[c, k] B_k(x) from a table, plus SiLU of x on request: (B, C, *S) -> the same.

    Keeps x and the weights for backward. Returns None if the functions cannot be tabulated or a
    table would not be faster: it speeds up single precision on a CPU only.

    Args:
        x: (B, C, *S), not empty; half precision is computed in float32.
        weight: (C, K), or (1, K) for all channels.
        basis: the basis of the K functions.
        silu: add silu(x).
    """
    if not basis.has_table or not has_cpu_kernel(x, weight):
        return None
    tensors = named_tensors(basis)
    samples = _samples_cache.get(basis, list(tensors.values()), lambda: sample_functions(basis))
    if samples is None:
        return None
    needs_grad = torch.is_grad_enabled()
    if needs_grad and samples.values is None:
        # The table would need the functions at more points than x has values per channel.
        num_nodes = 3 * samples.table_range.pieces
        if x.numel() // x.shape[1] <= num_nodes:
            return None
    table = _table_cache.get(
        basis, [weight, *tensors.values()], lambda: tabulate(weight, basis, samples)
    )
    x = basis.normalized(x)
    if not needs_grad:
        from kanseg.layers.kernels import lookup_numba

        return lookup_numba.forward(x, table, silu)
    # Backward must see the basis as it is now, even if its tensors are replaced in between.
    basis = with_tensors(basis, tensors)
    return LookupFunction.apply(
        basis, tuple(tensors), samples, table, silu, x, weight, *tensors.values()
    )


def has_cpu_kernel(x: Tensor, weight: Tensor) -> bool:
    """True if the Numba kernels can compute x (B, C, *S) with this weight (C or 1, K)."""
    if type(x) not in (Tensor, nn.Parameter) or x.dtype not in KERNEL_DTYPES:
        return False
    if x.device.type != "cpu" or weight.device != x.device:
        return False
    return len(weight) in (1, x.shape[1]) and has_numba()


class LookupFunction(torch.autograd.Function):
    """The differentiable part of `lookup`.

    Arguments: the basis, the names of its tensors, samples, table, silu, x, weight, and then the
    tensors of the basis.
    """

    @staticmethod
    def forward(ctx, basis, names, samples, table, silu, x, weight, *tensors):  # noqa: ANN001, ANN205
        from kanseg.layers.kernels import lookup_numba

        ctx.save_for_backward(x, weight, *tensors)
        ctx.options = basis, names, samples, silu
        return lookup_numba.forward(x, table, silu)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        from kanseg.layers.kernels import lookup_numba

        x, weight, *tensors = ctx.saved_tensors
        basis, names, samples, silu = ctx.options
        basis = with_tensors(basis, dict(zip(names, tensors, strict=True)))
        needed = ctx.needs_input_grad[5:]
        create_graph = torch.is_grad_enabled()
        with without_autocast(x):
            if needs_traceable_backward(grad):
                # Differentiate the functions themselves: cubic pieces reproduce their second
                # derivatives to a few digits only.
                with torch.enable_grad():
                    y = plain_mixture(x, basis, weight, None)
                    if silu:
                        y = y + functional.silu(x)
                grads = gradients(y, [x, weight, *tensors], needed, grad, create_graph)
            else:
                with torch.enable_grad():
                    table = tabulate(weight, basis, samples)
                grad_x, grad_pieces = lookup_numba.backward(grad, x, table, silu)
                if not needed[0]:
                    grad_x = None
                others = gradients(table.pieces, [weight, *tensors], needed[1:], grad_pieces)
                grads = [grad_x, *others]
        return None, None, None, None, None, *grads


def plain_lookup(x: Tensor, table: CubicTable, silu: bool) -> Tensor:
    """`lookup` by PyTorch operations, which autograd and exporters can trace."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count = table.pieces.shape[1]
    t = wide
    if table.scale:
        t = torch.sigmoid(table.scale * wide)
    start = aligned_rows(table.start.to(wide.dtype), x.dim())
    rate = aligned_rows(table.rate.to(wide.dtype), x.dim())
    position = (t - start) * rate
    position = position.clamp(0.0, float(count))
    # NaN may become any integer, hence the clamp.
    index = position.detach().to(torch.int64).clamp(0, count - 1)
    fraction = position - index
    if len(table.pieces) > 1:
        rows = torch.arange(0, len(table.pieces) * count, count, device=x.device)
        index = index + aligned_rows(rows, x.dim())
    index, columns = index.flatten(), table.pieces.flatten(0, 1).unbind(1)
    a, b, c, d = (column.index_select(0, index).view_as(x) for column in columns)
    y = a + fraction * (b + fraction * (c + fraction * d))
    if silu:
        y = y + functional.silu(wide)
    return y.to(x.dtype)

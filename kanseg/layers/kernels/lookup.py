"""y = silu(x) + f_c(x) with each f_c read from a table of cubic pieces.

Splines, wavelets and radial functions vanish outside a range, and sums of sines repeat: a few dozen
cubic polynomials side by side hold such a function, whatever its number of terms, to 5e-5 of its
size. They are made once a step, from values of the functions at a few hundred places. The gradient
is exactly that of what is computed, also for parameters that the functions have of their own.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kanseg.bases import Basis
from kanseg.bases.base import TableRange, without_autocast
from kanseg.layers.fused.functional import plain_mixture
from kanseg.layers.fused.plain import has_numba, named_tensors, with_tensors
from kanseg.layers.kernels.horner import DOMAINS, KERNEL_DTYPES, aligned_rows
from kanseg.layers.kernels.remembered import Remembered

# Longer tables leave the cache, and take longer to make than they save.
MAX_PIECES = 1 << 10
# Where each piece meets the function: the ends, which it shares with its neighbors, and the places
# between them that keep the error smallest (Chebyshev-Lobatto points).
NODES = np.array([0.0, 0.25, 0.75, 1.0])
# Values there -> coefficients, from the lowest power on.
COEFFICIENTS = np.linalg.inv(np.vander(NODES, increasing=True))


class Table(NamedTuple):
    """Functions as cubic polynomials of the place (t - start) * rate, with t = sigmoid(scale x), or
    x for scale 0.

    Args:
        pieces: (R, P, 4), coefficients from the lowest power on; R of 1 or C.
        start, rate: (1,) or (C,).
        scale: of t.
        periodic: whether the functions repeat; else they stay what they are at the ends.
    """

    pieces: Tensor
    start: Tensor
    rate: Tensor
    scale: float
    periodic: bool


class Samples(NamedTuple):
    """Where functions are tabulated, and their values (K, places) there; no values where they
    differ from channel to channel or have parameters, which would be many or of one step only.
    """

    span: TableRange
    values: Tensor | None


def can_tabulate(basis: Basis) -> bool:
    """True if the functions can be named_tensors in tables of a moderate length."""
    return _moderate_range(basis) is not None


def _moderate_range(basis: Basis) -> TableRange | None:
    span = basis.table_range() if basis.has_table else None
    return None if span is None or span.pieces > MAX_PIECES else span


def samples_of(basis: Basis) -> Samples | None:
    """What tables of a basis are made of; None where they cannot be or would be too long."""
    span = _moderate_range(basis)
    if span is None:
        return None
    shared = len(span.lo) == 1 and not any(True for _ in basis.parameters())
    return Samples(span, evaluated(basis, span)[0] if shared else None)


def evaluated(basis: Basis, span: TableRange) -> Tensor:
    """Values (A, K, places) of the functions at the places of a table, A of 1 or C."""
    lo, hi = span.lo, span.hi
    if len(lo) == 1:
        rows = {name: getattr(basis, name)[:1] for name in basis.per_channel}
        basis = with_tensors(basis, named_tensors(basis) | rows)
    shares = torch.from_numpy(_shares(span.pieces)).to(lo.dtype)
    return basis.values_at(torch.lerp(lo.unsqueeze(1), hi.unsqueeze(1), shares))


@cache
def _shares(pieces: int) -> np.ndarray:
    """The nodes of all pieces as shares of the range, (3 * pieces + 1,)."""
    starts = np.arange(pieces)[:, None] + NODES[:3]
    return np.append(starts.ravel(), pieces) / pieces


def tabulate(weight: Tensor, basis: Basis, samples: Samples) -> Table:
    """sum_k weight[r, k] B_k as a table; differentiable in the weight and in the parameters of the
    basis.
    """
    span, values = samples
    if values is None:
        values = evaluated(basis, span).to(weight.dtype)
        y = (weight.unsqueeze(1) @ values).squeeze(1)
    else:
        y = weight @ values.to(weight.dtype)
    # Each piece has four of the places, the last of which is the first one of the next piece.
    first_three, ends = y[:, :-1].unflatten(1, (-1, 3)), y[:, 3::3].unsqueeze(2)
    pieces = torch.cat([first_three, ends], 2) @ torch.from_numpy(COEFFICIENTS.T).to(y.dtype)
    # The functions see u = factor * t + offset.
    scale, factor, offset = DOMAINS.get(basis.domain, (0.0, 1.0, 0.0))
    rate = span.pieces / (span.hi - span.lo)
    return Table(pieces, (span.lo - offset) / factor, rate * factor, scale, span.periodic)


_samples: Remembered[Samples | None] = Remembered()
_tables: Remembered[Table] = Remembered()


def lookup(x: Tensor, weight: Tensor, basis: Basis, silu: bool) -> Tensor | None:
    """sum_k weight[c, k] B_k(x), plus SiLU if asked for; keeps x and the weights for backward. None
    where it cannot be read from a table, or nothing is gained: a table is for the cache of a CPU,
    and not for double precision.

    Args:
        x: (B, C, *S), not empty; half precision is computed in float32.
        weight: (C, K), or (1, K) for all channels.
        basis: whose functions.
    """
    if not basis.has_table or not has_kernel(x, weight):
        return None
    tensors = named_tensors(basis)
    samples = _samples.find(basis, list(tensors.values()), lambda: samples_of(basis))
    if samples is None:
        return None
    train = torch.is_grad_enabled()
    # They would be evaluated at more places than there are values of a channel.
    if train and samples.values is None and x.numel() // x.shape[1] <= 3 * samples.span.pieces:
        return None
    table = _tables.find(
        basis, [weight, *tensors.values()], lambda: tabulate(weight, basis, samples)
    )
    x = basis.normalized(x)
    if not train:
        from kanseg.layers.kernels import lookup_numba

        return lookup_numba.forward(x, table, silu)
    basis = with_tensors(basis, tensors)  # as it is now, whatever backward finds
    return Lookup.apply(basis, tuple(tensors), samples, table, silu, x, weight, *tensors.values())


def has_kernel(x: Tensor, weight: Tensor) -> bool:
    """True if kernels for a CPU can read x (B, C, *S) and the weight of each channel."""
    real = type(x) in (Tensor, nn.Parameter) and x.dtype in KERNEL_DTYPES
    if not real or x.device.type != "cpu" or weight.device != x.device:
        return False
    return len(weight) in (1, x.shape[1]) and has_numba()


class Lookup(torch.autograd.Function):
    """See `lookup`; the arguments end with the tensors that the basis holds, of the given names."""

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
        inputs = [
            each for each, wanted in zip((x, weight, *tensors), needed, strict=True) if wanted
        ]
        twice = torch.is_grad_enabled()
        with without_autocast(x):
            if twice or torch._C._functorch.is_legacy_batchedtensor(grad):
                # Of the functions themselves, by operations that autograd knows: the second
                # derivatives of cubic pieces are those of the functions to a few digits only.
                with torch.enable_grad():
                    y = plain_mixture(x, basis, weight, None)
                    y = y + functional.silu(x) if silu else y
                found = gradients(y, inputs, grad, create_graph=twice)
            else:
                with torch.enable_grad():
                    table = tabulate(weight, basis, samples)
                grad_x, grad_pieces = lookup_numba.backward(grad, x, table, silu)
                found = [grad_x] if needed[0] else []
                found += gradients(table.pieces, inputs[len(found) :], grad_pieces)
        found = iter(found)
        return *[None] * 5, *(next(found) if wanted else None for wanted in needed)


def gradients(
    y: Tensor, inputs: list[Tensor], grad: Tensor, create_graph: bool = False
) -> list[Tensor]:
    """Of y for those inputs, in a list, also of none."""
    if not inputs:
        return []
    return list(
        torch.autograd.grad(
            y, inputs, grad.to(y.dtype), create_graph=create_graph, materialize_grads=True
        )
    )


def plain_lookup(x: Tensor, table: Table, silu: bool) -> Tensor:
    """The same as `lookup` by operations that autograd and exporters see into."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count = table.pieces.shape[1]
    t = torch.sigmoid(table.scale * wide) if table.scale else wide
    start, rate = (aligned_rows(each.to(wide.dtype), x.dim()) for each in (table.start, table.rate))
    place = (t - start) * rate
    if table.periodic:
        place = place - count * torch.floor(place / count)
    place = place.clamp(0.0, count)
    index = place.detach().to(torch.int64).clamp(0, count - 1)  # NaN is any integer
    share = place - index
    if len(table.pieces) > 1:
        rows = torch.arange(0, len(table.pieces) * count, count, device=x.device)
        index = index + aligned_rows(rows, x.dim())
    index, columns = index.flatten(), table.pieces.flatten(0, 1).unbind(1)
    a, b, c, d = (column.index_select(0, index).view_as(x) for column in columns)
    y = a + share * (b + share * (c + share * d))
    if silu:
        y = y + functional.silu(wide)
    return y.to(x.dtype)

"""Functions and contraction in one differentiable step that keeps its input and weights, and makes
the functions' values anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from kanseg.bases import Basis
from kanseg.bases.base import POINTWISE_DOMAINS, at_least_float32, without_autocast
from kanseg.layers.fused.contractions import Contraction
from kanseg.layers.fused.plain import holding

# Values are made for as many samples at a time as fit into this many bytes (one at least): on a CPU
# so that they stay in its cache, on an accelerator so that there is work enough while the peak of
# memory stays small.
CHUNK_BYTES = {"cpu": 4 << 20}
CHUNK_BYTES_ACCELERATOR = 256 << 20
FOLDED_FROM = (
    1 << 16
)  # entries of x from which on a constant function is left out of the convolution


class Expansion:
    """The values of all functions of x (B, C, *S), some samples at a time in one buffer, and the
    weight they are contracted with.
    """

    def __init__(
        self,
        x: Tensor,
        basis: Basis,
        contraction: Contraction,
        weight: Tensor,
        gate: Tensor | None,
        dtype: torch.dtype,
    ):
        self.x, self.basis, self.contraction, self.weight, self.gate, self.dtype = (
            x,
            basis,
            contraction,
            weight,
            gate,
            dtype,
        )
        self.domain = POINTWISE_DOMAINS.get(basis.domain, POINTWISE_DOMAINS["identity"])
        # A function that is constant needs no convolution: what it adds depends on the distance to
        # the border. Finding that takes longer than it saves where x is small.
        large = torch.compiler.is_compiling() or x.numel() >= FOLDED_FROM
        folds = large and gate is None and contraction.folds_constant and basis.num_functions > 1
        self.folded = basis.constant_function if folds else None
        self.num_values = basis.num_functions - (self.folded is not None)
        self.kernel, self.constant_weight = weight.to(dtype), None
        if self.folded is not None:
            each = weight.unflatten(1, (-1, basis.num_functions))
            self.kernel, self.constant_weight = (
                each[:, :, 1:].flatten(1, 2).to(dtype),
                each[:, :, 0],
            )

    @cached_property
    def parts(self) -> list[slice]:
        """Samples whose values are made together."""
        each = self.x[0].numel() * self.num_values * self.dtype.itemsize
        count = max(1, CHUNK_BYTES.get(self.x.device.type, CHUNK_BYTES_ACCELERATOR) // each)
        return [slice(i, min(i + count, len(self.x))) for i in range(0, len(self.x), count)]

    @cached_property
    def buffer(self) -> Tensor:
        """(samples of the largest part, C * K, *S), in the memory format of x."""
        first = self.x[self.parts[0]]
        shape = (len(first), first.shape[1] * self.num_values, *first.shape[2:])
        return torch.empty(
            shape, dtype=self.dtype, device=first.device, memory_format=memory_format(first)
        )

    def mapped(self, part: slice) -> Tensor:
        return self.domain.value(at_least_float32(self.x[part]))

    def terms(self, u: Tensor, slopes: bool = False) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Those of the basis, without the folded one."""
        terms = self.basis.terms(u, slopes)
        if self.folded is not None:
            next(terms)
        return terms

    def gated(self, values: Tensor, part: slice) -> Tensor:
        """Values (B, C, K, *S) times the gate, in place."""
        if self.gate is None:
            return values
        gate = self.gate[part].to(values.dtype)
        return values.mul_(gate.reshape(*gate.shape, *[1] * (values.dim() - 3)))

    def contracted(self) -> Tensor:
        """(B, O, *S')"""
        y = None
        for part in self.parts:
            u = self.mapped(part)
            piece = self.contraction.forward(self._filled(u, part), self.kernel)
            if len(self.parts) == 1:
                y = piece
                break
            if y is None:
                y = torch.empty(
                    (len(self.x), *piece.shape[1:]),
                    dtype=piece.dtype,
                    device=piece.device,
                    memory_format=memory_format(piece),
                )
            y[part] = piece
        if self.folded is not None:
            self.contraction.add_constant(y, self.constant_weight, self.x.shape)
        return y

    def _filled(self, u: Tensor, part: slice) -> Tensor:
        """The functions' values at u: (B, C * K, *S)."""
        if self.num_values == 1 and self.gate is None:
            return next(self.terms(u))[0].to(self.dtype).expand_as(u)
        flat = self.buffer[: len(u)]
        values = flat.unflatten(1, (u.shape[1], self.num_values))
        for j, (value, _) in enumerate(self.terms(u)):
            values[:, :, j] = value
        self.gated(values, part)
        return flat

    def plain(self) -> Tensor:
        """The same by operations that autograd, compilers and torch.func see into."""
        u = self.mapped(slice(None))
        values = torch.stack([value.expand_as(u) for value, _ in self.terms(u)], dim=2).to(
            self.dtype
        )
        if self.gate is not None:
            values = values * self.gate.reshape(*self.gate.shape, *[1] * (u.dim() - 2)).to(
                self.dtype
            )
        y = self.contraction.forward(values.flatten(1, 2), self.kernel)
        if self.folded is None:
            return y
        return y + self.contraction.constant_map(self.constant_weight, self.x.shape).to(y.dtype)

    def gradients(
        self, grad: Tensor, needs_x: bool, needs_weight: bool, wanted: Mapping[str, Tensor]
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """Of x, the weight and those parameters of the basis that are given by name; sums over
        parts are in float32 at least.
        """
        grad = grad.to(self.dtype)
        grad_x = torch.empty_like(self.x) if needs_x else None
        grad_kernel: Tensor | None = None
        grad_wanted: dict[str, Tensor] = {}
        stated = self.basis.states_slopes and set(wanted) <= set(self.basis.stated_parameters)
        fill = self._by_slopes if stated else self._by_autograd
        for part in self.parts:
            u = self.mapped(part)
            flat = self.buffer[: len(u)]
            values = flat.unflatten(1, (u.shape[1], self.num_values))
            upstream = None
            if needs_x or wanted:
                upstream = self.contraction.grad_values(grad[part], flat, self.kernel).unflatten(
                    1, values.shape[1:3]
                )
                upstream = self.gated(upstream, part)
            grad_u, found = fill(u, values, upstream, wanted)
            for name, piece in found.items():
                piece = at_least_float32(piece)
                grad_wanted[name] = grad_wanted[name] + piece if name in grad_wanted else piece
            if needs_x:
                grad_x[part] = (
                    grad_u if self.domain.slope is None else grad_u.mul_(self.domain.slope(u))
                )
            if needs_weight:
                self.gated(values, part)
                piece = at_least_float32(
                    self.contraction.grad_weight(grad[part], flat, self.kernel)
                )
                grad_kernel = piece if grad_kernel is None else grad_kernel.add_(piece)
        grad_wanted = {name: each.to(wanted[name].dtype) for name, each in grad_wanted.items()}
        return grad_x, self._whole(grad_kernel, grad), grad_wanted

    def _by_slopes(
        self, u: Tensor, values: Tensor, upstream: Tensor | None, wanted: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Fill `values` (B, C, K, *S) and sum up the gradients of u and of the parameters from the
        stated derivatives.
        """
        grad_u = torch.zeros_like(u)
        grads = {
            name: torch.zeros_like(parameter, dtype=u.dtype) for name, parameter in wanted.items()
        }
        for j, (value, slope) in enumerate(self.terms(u, slopes=upstream is not None)):
            values[:, :, j] = value
            if upstream is None:
                continue
            weighted = upstream[:, :, j].to(u.dtype)
            if not grads:
                grad_u.addcmul_(weighted, slope)
                continue
            weighted = weighted * slope
            grad_u += weighted
            columns = self.basis.parameter_gradients(j, weighted, u)
            for name, grad in grads.items():
                grad[:, j] = columns[name]
        return grad_u, grads

    def _by_autograd(
        self, u: Tensor, values: Tensor, upstream: Tensor | None, wanted: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, and the gradients of the functions' own parameters, by a graph of this part
        alone.
        """
        with torch.enable_grad():
            u = u.detach().requires_grad_(upstream is not None)
            terms = [value.expand_as(u) for value, _ in self.terms(u)]
        for j, value in enumerate(terms):
            values[:, :, j] = value.detach()
        if upstream is None:
            return u, {}
        moving = [j for j, value in enumerate(terms) if value.requires_grad]
        if not moving:
            still = {name: torch.zeros_like(parameter) for name, parameter in wanted.items()}
            return torch.zeros_like(u), still
        grad_u, *found = torch.autograd.grad(
            [terms[j] for j in moving],
            [u, *wanted.values()],
            [upstream[:, :, j].to(u.dtype) for j in moving],
            materialize_grads=True,
        )
        return grad_u, dict(zip(wanted, found, strict=True))

    def _whole(self, grad_kernel: Tensor | None, grad: Tensor) -> Tensor | None:
        """The gradient of the whole weight from that of the kernel."""
        if grad_kernel is None or self.folded is None:
            return grad_kernel if grad_kernel is None else grad_kernel.to(self.weight.dtype)
        whole = torch.empty_like(self.weight)
        each = whole.unflatten(1, (-1, self.basis.num_functions))
        each[:, :, 1:] = grad_kernel.unflatten(1, (-1, self.num_values))
        each[:, :, 0] = self.contraction.grad_constant(grad, self.constant_weight, self.x.shape)
        return whole


class Fused(torch.autograd.Function):
    """Arguments as of Expansion, with the names of the tensors that the basis holds and then these
    tensors; saves tensors that exist anyway.
    """

    @staticmethod
    def forward(ctx, basis, contraction, dtype, names, x, weight, gate, *tensors):  # noqa: ANN001, ANN205
        ctx.parts = basis, contraction, dtype, names, basis.num_functions
        ctx.save_for_backward(x, weight, gate, *tensors)
        return Expansion(x, basis, contraction, weight, gate, dtype).contracted()

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        basis, contraction, dtype, names, num_functions = ctx.parts
        x, weight, gate, *tensors = ctx.saved_tensors
        if basis.num_functions != num_functions:
            raise RuntimeError(
                f"{basis} had {num_functions} functions in forward: do not refine or raise degrees"
                " between forward and backward"
            )
        needs_x, needs_weight = ctx.needs_input_grad[4:6]
        held = dict(zip(names, tensors, strict=True))
        needed = dict(zip(names, ctx.needs_input_grad[7:], strict=True))
        wanted = {name: tensor for name, tensor in held.items() if needed[name]}
        # The functions of forward, whatever tensors the basis has by now (functional_call, a moved
        # grid).
        step = x, holding(basis, held), contraction, weight, gate, dtype
        # Second derivatives (create_graph) and many gradients at a time go through operations that
        # autograd knows.
        twice = torch.is_grad_enabled()
        with without_autocast(x):
            if twice or torch._C._functorch.is_legacy_batchedtensor(grad):
                inputs = {"x": x} if needs_x else {}
                inputs |= {"weight": weight} if needs_weight else {}
                inputs |= {("basis", name): tensor for name, tensor in wanted.items()}
                with torch.enable_grad():
                    y = Expansion(*step).plain()
                found = torch.autograd.grad(
                    y, list(inputs.values()), grad, create_graph=twice, materialize_grads=True
                )
                grads = dict(zip(inputs, found, strict=True))
                grad_x, grad_weight = grads.get("x"), grads.get("weight")
                grad_wanted = {name: grads["basis", name] for name in wanted}
            else:
                grad_x, grad_weight, grad_wanted = Expansion(*step).gradients(
                    grad, needs_x, needs_weight, wanted
                )
        grad_held = [grad_wanted.get(name) for name in names]
        return None, None, None, None, grad_x, grad_weight, None, *grad_held


class Activated(torch.autograd.Function):
    """contraction(activation(x)), keeping x and the weight; the arguments end with the parameters
    of the activation, of the given names.
    """

    @staticmethod
    def forward(ctx, activation, contraction, dtype, names, x, weight, *parameters):  # noqa: ANN001, ANN205
        ctx.parts = activation, contraction, dtype, names
        ctx.save_for_backward(x, weight, *parameters)
        with without_autocast(x):
            return contraction.forward(activation(x).to(dtype), weight.to(dtype))

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        activation, contraction, dtype, names = ctx.parts
        x, weight, *parameters = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[4:6]
        activation = holding(activation, dict(zip(names, parameters, strict=True)))
        # Second derivatives (create_graph) go through operations that autograd knows.
        twice = torch.is_grad_enabled()
        grad_x = grad_weight = None
        with without_autocast(x):
            with torch.enable_grad():
                inner = x if twice else x.detach().requires_grad_()
                a = activation(inner)
            values, kernel, grad = (
                (a if twice else a.detach()).to(dtype),
                weight.to(dtype),
                grad.to(dtype),
            )
            if needs_weight:
                grad_weight = contraction.grad_weight(grad, values, kernel).to(weight.dtype)
            found = [None] * len(parameters)
            wanted = [i for i, needed in enumerate(ctx.needs_input_grad[6:]) if needed]
            if needs_x or wanted:
                upstream = contraction.grad_values(grad, values, kernel).to(a.dtype)
                inputs = [t for t in (inner, *(parameters[i] for i in wanted)) if t.requires_grad]
                grads = list(
                    torch.autograd.grad(a, inputs, upstream, create_graph=twice, allow_unused=True)
                )
                grad_x = grads.pop(0) if inner.requires_grad else None
                for i, each in zip(wanted, grads, strict=True):
                    found[i] = each
        return None, None, None, None, grad_x if needs_x else None, grad_weight, *found


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where x (B, C, H, W or D, H, W) is laid out so and not contiguous as well."""
    format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if format is None or x.is_contiguous() or not x.is_contiguous(memory_format=format):
        return torch.contiguous_format
    return format

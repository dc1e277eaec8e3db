"""Basis functions and a linear operation as one autograd function that does not save the values.

The values of the functions are K times as large as the input. Forward computes them for a few
samples at a time, and backward computes them again. Only the input and the weights are saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from kanseg.bases import Basis
from kanseg.bases.base import at_least_float32, without_autocast
from kanseg.layers.fused.linear_ops import LinearOp
from kanseg.layers.fused.plain import with_tensors

# Bytes of values that are computed at a time (at least those of one sample). On a CPU they stay in
# the cache; on an accelerator they are enough work for a kernel, at a small peak of memory.
CHUNK_BYTES = {"cpu": 4 << 20}
CHUNK_BYTES_ACCELERATOR = 256 << 20


def sample_chunks(x: Tensor, bytes_per_sample: int) -> list[slice]:
    """Split a batch into slices of samples whose values fit into `CHUNK_BYTES`."""
    limit = CHUNK_BYTES.get(x.device.type, CHUNK_BYTES_ACCELERATOR)
    count = max(1, limit // bytes_per_sample)
    return [slice(i, min(i + count, len(x))) for i in range(0, len(x), count)]


def fused_forward(
    x: Tensor,
    basis: Basis,
    op: LinearOp,
    weight: Tensor,
    dropout_mask: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """op(basis(x)), a chunk of samples at a time: (B, C, *S) -> (B, O, *S').

    Args:
        x: (B, C, *S), after a normalizing domain map; pointwise maps are applied here.
        basis: K functions of each channel.
        op: the linear operation on their values.
        weight: (O, C / groups, K, *kernel), or with K - 1 functions without the constant one.
        dropout_mask: (B, C, K) factors of the functions, or None.
        dtype: of the linear operation.
    """
    kernel = weight.flatten(1, 2).to(dtype)
    chunks, buffer = _chunks_and_buffer(x, weight.shape[2], dtype)
    y = None
    for chunk in chunks:
        u = _domain_map(basis, x[chunk])
        flat = buffer[: len(u)]
        values = flat.unflatten(1, (u.shape[1], weight.shape[2]))
        for j, (value, _) in enumerate(_functions(basis, u, weight.shape[2])):
            values[:, :, j] = value
        _apply_mask(values, dropout_mask, chunk)
        y_chunk = op.forward(flat, kernel)
        if len(chunks) == 1:
            return y_chunk
        if y is None:
            y = torch.empty(
                (len(x), *y_chunk.shape[1:]),
                dtype=y_chunk.dtype,
                device=y_chunk.device,
                memory_format=memory_format(y_chunk),
            )
        y[chunk] = y_chunk
    return y


def unfused_forward(
    x: Tensor,
    basis: Basis,
    op: LinearOp,
    weight: Tensor,
    dropout_mask: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """`fused_forward` with plain operations, which autograd, compilers and torch.func can trace."""
    u = _domain_map(basis, x)
    values = [value.expand_as(u) for value, _ in _functions(basis, u, weight.shape[2])]
    values = torch.stack(values, dim=2).to(dtype)
    if dropout_mask is not None:
        values = values * _per_function(dropout_mask, values)
    return op.forward(values.flatten(1, 2), weight.flatten(1, 2).to(dtype))


def fused_backward(
    grad_output: Tensor,
    x: Tensor,
    basis: Basis,
    op: LinearOp,
    weight: Tensor,
    dropout_mask: Tensor | None,
    dtype: torch.dtype,
    *,
    needs_x: bool,
    needs_weight: bool,
    parameters: Mapping[str, Tensor],
) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
    """Gradients of x, of the weight and of the named parameters of the basis, given that of the
    output (B, O, *S').

    Other arguments as of `fused_forward`. Sums over chunks are computed in float32 at least.
    """
    kernel = weight.flatten(1, 2).to(dtype)
    grad_output = grad_output.to(dtype)
    grad_x = torch.empty_like(x) if needs_x else None
    grad_kernel: Tensor | None = None
    grad_parameters: dict[str, Tensor] = {}
    has_formulas = basis.has_derivatives and set(parameters) <= set(basis.analytic_parameters)
    fill_and_differentiate = _by_formulas if has_formulas else _by_autograd
    domain_derivative = basis.pointwise_map.derivative
    chunks, buffer = _chunks_and_buffer(x, weight.shape[2], dtype)
    for chunk in chunks:
        u = _domain_map(basis, x[chunk])
        flat = buffer[: len(u)]
        values = flat.unflatten(1, (u.shape[1], weight.shape[2]))
        grad_values = None
        if needs_x or parameters:
            # The values are not needed here: only their shape is read.
            grad_values = op.grad_values(grad_output[chunk], flat, kernel)
            grad_values = grad_values.unflatten(1, values.shape[1:3])
            _apply_mask(grad_values, dropout_mask, chunk)
        grad_u, found = fill_and_differentiate(basis, u, values, grad_values, parameters)
        for name, piece in found.items():
            piece = at_least_float32(piece)
            if name in grad_parameters:
                piece = grad_parameters[name] + piece
            grad_parameters[name] = piece
        if needs_x and domain_derivative is not None:
            grad_u.mul_(domain_derivative(u))
        if needs_x:
            grad_x[chunk] = grad_u
        if needs_weight:
            _apply_mask(values, dropout_mask, chunk)
            piece = at_least_float32(op.grad_weight(grad_output[chunk], flat, kernel))
            if grad_kernel is None:
                grad_kernel = piece
            else:
                grad_kernel += piece
    for name, parameter in parameters.items():
        grad_parameters[name] = grad_parameters[name].to(parameter.dtype)
    if not needs_weight:
        return grad_x, None, grad_parameters
    grad_weight = grad_kernel.to(weight.dtype).reshape(weight.shape)
    return grad_x, grad_weight, grad_parameters


def _by_formulas(
    basis: Basis,
    u: Tensor,
    values: Tensor,
    grad_values: Tensor | None,
    parameters: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Fill `values` (B, C, K, *S), and return the gradients of u (B, C, *S) and of the parameters
    (C, K) from the derivatives of the basis, for grad_values (B, C, K, *S) or None.
    """
    grad_u = torch.zeros_like(u)
    grads = {name: torch.zeros_like(each, dtype=u.dtype) for name, each in parameters.items()}
    functions = _functions(basis, u, values.shape[2], derivatives=grad_values is not None)
    for j, (value, derivative) in enumerate(functions):
        values[:, :, j] = value
        if grad_values is None:
            continue
        upstream = grad_values[:, :, j].to(u.dtype)
        if not parameters:
            grad_u.addcmul_(upstream, derivative)
            continue
        weighted = upstream * derivative
        grad_u += weighted
        columns = basis.parameter_gradients(j, weighted, u)
        for name, grad in grads.items():
            grad[:, j] = columns[name]
    return grad_u, grads


def _by_autograd(
    basis: Basis,
    u: Tensor,
    values: Tensor,
    grad_values: Tensor | None,
    parameters: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """`_by_formulas` for a basis without derivatives, with an autograd graph of this chunk."""
    with torch.enable_grad():
        u = u.detach().requires_grad_(grad_values is not None)
        functions = [value.expand_as(u) for value, _ in _functions(basis, u, values.shape[2])]
    for j, value in enumerate(functions):
        values[:, :, j] = value.detach()
    if grad_values is None:
        return u, {}
    outputs, grad_outputs = [], []
    for j, value in enumerate(functions):
        if value.requires_grad:
            outputs.append(value)
            grad_outputs.append(grad_values[:, :, j].to(u.dtype))
    inputs = [u, *parameters.values()]
    if not outputs:  # all functions are constant
        grads = [torch.zeros_like(each) for each in inputs]
    else:
        grads = torch.autograd.grad(outputs, inputs, grad_outputs, materialize_grads=True)
    return grads[0], dict(zip(parameters, grads[1:], strict=True))


class FusedBasis(torch.autograd.Function):
    """`fused_forward` and `fused_backward`; saves x, the weight, the mask and the tensors of the
    basis.

    Arguments: the basis, the linear operation, its dtype, the names of the tensors of the basis, x,
    weight, dropout_mask, and then these tensors.
    """

    @staticmethod
    def forward(ctx, basis, op, dtype, names, x, weight, dropout_mask, *tensors):  # noqa: ANN001, ANN205
        ctx.basis, ctx.op, ctx.dtype, ctx.names = basis, op, dtype, names
        ctx.num_functions = basis.num_functions
        ctx.save_for_backward(x, weight, dropout_mask, *tensors)
        return fused_forward(x, basis, op, weight, dropout_mask, dtype)

    @staticmethod
    def backward(ctx, grad_output):  # noqa: ANN001, ANN205
        x, weight, dropout_mask, *tensors = ctx.saved_tensors
        if ctx.basis.num_functions != ctx.num_functions:
            raise RuntimeError(
                f"{ctx.basis} had {ctx.num_functions} functions in forward: do not refine or raise"
                " degrees between forward and backward"
            )
        needs_x, needs_weight, _, *needs_tensors = ctx.needs_input_grad[4:]
        parameters = {}
        for name, tensor, needed in zip(ctx.names, tensors, needs_tensors, strict=True):
            if needed:
                parameters[name] = tensor
        # The basis may have other tensors by now, after functional_call or a grid update.
        basis = with_tensors(ctx.basis, dict(zip(ctx.names, tensors, strict=True)))
        arguments = x, basis, ctx.op, weight, dropout_mask, ctx.dtype
        with without_autocast(x):
            if _needs_graph(grad_output):
                grad_x, grad_weight, *others = _graph_gradients(
                    lambda: unfused_forward(*arguments),
                    [x if needs_x else None, weight if needs_weight else None],
                    parameters.values(),
                    grad_output,
                )
                grads = dict(zip(parameters, others, strict=True))
            else:
                grad_x, grad_weight, grads = fused_backward(
                    grad_output,
                    *arguments,
                    needs_x=needs_x,
                    needs_weight=needs_weight,
                    parameters=parameters,
                )
        grad_tensors = [grads.get(name) for name in ctx.names]
        return None, None, None, None, grad_x, grad_weight, None, *grad_tensors


class FusedActivation(torch.autograd.Function):
    """op(activation(x)); saves x, the weight and the parameters of the activation.

    Arguments: the activation, the linear operation, its dtype, the names of the activation's
    parameters, x, weight, and then these parameters.
    """

    @staticmethod
    def forward(ctx, activation, op, dtype, names, x, weight, *parameters):  # noqa: ANN001, ANN205
        ctx.activation, ctx.op, ctx.dtype, ctx.names = activation, op, dtype, names
        ctx.save_for_backward(x, weight, *parameters)
        with without_autocast(x):
            return op.forward(activation(x).to(dtype), weight.to(dtype))

    @staticmethod
    def backward(ctx, grad_output):  # noqa: ANN001, ANN205
        x, weight, *parameters = ctx.saved_tensors
        op, dtype = ctx.op, ctx.dtype
        activation = with_tensors(ctx.activation, dict(zip(ctx.names, parameters, strict=True)))
        needs_x, needs_weight, *needs_parameters = ctx.needs_input_grad[4:]
        wanted = [p for p, needed in zip(parameters, needs_parameters, strict=True) if needed]
        with without_autocast(x):
            if _needs_graph(grad_output):
                grad_x, grad_weight, *grads = _graph_gradients(
                    lambda: op.forward(activation(x).to(dtype), weight.to(dtype)),
                    [x if needs_x else None, weight if needs_weight else None],
                    wanted,
                    grad_output,
                )
            else:
                with torch.enable_grad():
                    inner = x.detach().requires_grad_(needs_x)
                    activated = activation(inner)
                values, kernel = activated.detach().to(dtype), weight.to(dtype)
                grad_output = grad_output.to(dtype)
                grad_x = grad_weight = None
                grads = []
                if needs_weight:
                    grad_weight = op.grad_weight(grad_output, values, kernel).to(weight.dtype)
                if needs_x or wanted:
                    upstream = op.grad_values(grad_output, values, kernel).to(activated.dtype)
                    inputs = [inner, *wanted] if needs_x else wanted
                    grads = list(torch.autograd.grad(activated, inputs, upstream))
                if needs_x:
                    grad_x = grads.pop(0)
        remaining = iter(grads)
        grad_parameters = [next(remaining) if needed else None for needed in needs_parameters]
        return None, None, None, None, grad_x, grad_weight, *grad_parameters


def _needs_graph(grad_output: Tensor) -> bool:
    """True if backward needs plain operations: for second derivatives (create_graph) and batched
    gradients (is_grads_batched).
    """
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad_output)


def _graph_gradients(
    forward: Callable[[], Tensor],
    optional: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    grad_output: Tensor,
) -> list[Tensor | None]:
    """Gradients by autograd through another call of `forward`; None for inputs that are None."""
    inputs = [each for each in (*optional, *parameters) if each is not None]
    with torch.enable_grad():
        y = forward()
    grads = iter(
        torch.autograd.grad(
            y,
            inputs,
            grad_output,
            create_graph=torch.is_grad_enabled(),
            materialize_grads=True,
        )
    )
    return [None if each is None else next(grads) for each in (*optional, *parameters)]


def _functions(
    basis: Basis, u: Tensor, count: int, *, derivatives: bool = False
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Value and derivative of the last `count` functions: all, or all but the constant one."""
    return islice(basis.values_and_derivatives(u, derivatives), basis.num_functions - count, None)


def _domain_map(basis: Basis, x: Tensor) -> Tensor:
    """u(x) in float32 at least: (B, C, *S) -> the same shape."""
    return basis.pointwise_map.value(at_least_float32(x))


def _chunks_and_buffer(
    x: Tensor, num_functions: int, dtype: torch.dtype
) -> tuple[list[slice], Tensor]:
    """The chunks, and a buffer for the values of each in turn, (samples, C * K, *S) in the memory
    format of x. New memory for each chunk would cause page faults.
    """
    chunks = sample_chunks(x, x[0].numel() * num_functions * dtype.itemsize)
    shape = (chunks[0].stop, x.shape[1] * num_functions, *x.shape[2:])
    buffer = torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format(x))
    return chunks, buffer


def _apply_mask(values: Tensor, dropout_mask: Tensor | None, chunk: slice) -> None:
    """Multiply the values (b, C, K, *S) of a chunk in place by the mask of its samples."""
    if dropout_mask is not None:
        values.mul_(_per_function(dropout_mask[chunk], values))


def _per_function(dropout_mask: Tensor, values: Tensor) -> Tensor:
    """(B, C, K) -> (B, C, K, 1, ...), which broadcasts with values (B, C, K, *S)."""
    ones = [1] * (values.dim() - 3)
    return dropout_mask.to(values.dtype).reshape(*dropout_mask.shape, *ones)


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last if x (B, C, H, W) or (B, C, D, H, W) has this layout only, else contiguous."""
    format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if format is None or x.is_contiguous() or not x.is_contiguous(memory_format=format):
        return torch.contiguous_format
    return format

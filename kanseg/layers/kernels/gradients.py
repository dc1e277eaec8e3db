"""Gradients by autograd for the backward passes of learned activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def needs_traceable_backward(grad: Tensor) -> bool:
    """True if a backward pass must consist of operations that autograd can trace: for second
    derivatives and for batched gradients.
    """
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad)


def gradients(
    y: Tensor,
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    grad: Tensor,
    create_graph: bool = False,
) -> list[Tensor | None]:
    """Gradients of y by autograd: one for each of the inputs, None where it is not needed."""
    chosen = [each for each, is_needed in zip(inputs, needed, strict=True) if is_needed]
    grads: list[Tensor | None] = [None] * len(inputs)
    if not chosen:
        return grads
    found = torch.autograd.grad(
        y, chosen, grad.to(y.dtype), create_graph=create_graph, materialize_grads=True
    )
    indices = [i for i, is_needed in enumerate(needed) if is_needed]
    for i, gradient in zip(indices, found, strict=True):
        grads[i] = gradient
    return grads

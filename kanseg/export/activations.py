"""Learned activations as constants of an exported graph, in few operations."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from kanseg.bases.base import at_least_float32
from kanseg.layers.activation import KANActivation
from kanseg.layers.kernels.horner import (
    PolynomialVariable,
    is_low_degree_polynomial,
    polynomial_variable,
    power_coefficients,
)
from kanseg.layers.kernels.lookup import plain_lookup, sample_functions, tabulate


class FrozenActivation(nn.Module):
    """A `KANActivation` for evaluation, with its function stored as the constants of a polynomial
    or a table.
    """

    @torch.no_grad()
    def __init__(self, learned: KANActivation):
        super().__init__()
        self.base, self.basis = learned.base, learned.basis
        self.adds_silu = type(self.base) is nn.SiLU and self.basis.is_pointwise
        weight = at_least_float32(learned.channel_weight().detach())
        if is_low_degree_polynomial(self.basis):
            powers = power_coefficients(self.basis, weight.device).to(weight.dtype)
            coefficients = (weight @ powers).expand(learned.channels, -1)
            variable = polynomial_variable(self.basis)
            self.functions = FrozenPolynomial(coefficients, variable, self.adds_silu)
        else:
            self.functions = FrozenTable(weight, self.basis, self.adds_silu)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        y = self.functions(self.basis.normalized(x))
        if self.base is None or self.adds_silu:
            return y
        return y + self.base(x)


class FrozenPolynomial(nn.Module):
    """sum_n coefficients[c, n] t(x)^n, plus SiLU of x on request: (B, C, *S) -> the same shape.

    Every two powers are an affine map of t. A constant per channel between other operations would
    make onnxruntime copy the values out of the layout of its convolutions and back: a U-Net of
    width 16 took 1.7 times as long as one with SiLU, and takes 1.3 times as long (one thread).

    Args:
        coefficients: (C, N).
        variable: t.
        silu: add silu(x).
    """

    def __init__(self, coefficients: Tensor, variable: PolynomialVariable, silu: bool):
        super().__init__()
        self.variable, self.silu = variable, silu
        if coefficients.shape[1] % 2:
            coefficients = functional.pad(coefficients, (0, 1))
        pairs = coefficients.unflatten(1, (-1, 2)).unbind(1)  # of the powers 2n and 2n + 1
        self.maps = nn.ModuleList([ChannelAffine(pair[:, 1], pair[:, 0]) for pair in pairs])

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        wide, (scale, center), silu = at_least_float32(x), self.variable, self.silu
        t = sigmoid = torch.sigmoid(wide)
        if scale == 0:
            t = wide
        elif self.variable != (1, 0):
            t = torch.sigmoid(scale * wide) - center
        *maps, last = self.maps
        y = last(t)
        for affine in reversed(maps):
            y = y * t
            if silu and affine is self.maps[0] and self.variable == (1, 0):
                y, silu = y + wide, False  # x sigmoid(x) is a term of degree 1
            y = y * t + affine(t)
        if silu:
            y = y + wide * sigmoid
        return y.to(x.dtype)


class ChannelAffine(nn.Module):
    """factor * x + offset for each channel of x (B, C, *S), as the single operation of a batch
    norm.
    """

    def __init__(self, factor: Tensor, offset: Tensor):
        super().__init__()
        self.register_buffer("factor", factor.clone())
        self.register_buffer("offset", offset.clone())
        self.register_buffer("mean", torch.zeros_like(factor))
        self.register_buffer("variance", torch.ones_like(factor))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        constants = self.mean, self.variance, self.factor, self.offset
        return functional.batch_norm(x, *[each.to(x.dtype) for each in constants], eps=0.0)


class FrozenTable(nn.Module):
    """The functions of a basis from a table, plus SiLU of x on request: (B, C, *S) -> the same
    shape.
    """

    def __init__(self, weight: Tensor, basis: nn.Module, silu: bool):
        super().__init__()
        self.silu = silu
        self.table = tabulate(weight, basis, sample_functions(basis))
        self.register_buffer("pieces", self.table.pieces)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return plain_lookup(x, self.table._replace(pieces=self.pieces), self.silu)


def with_frozen_activations(model: nn.Module) -> nn.Module:
    """A copy of a network for evaluation, with `FrozenActivation` in place of its learned
    activations; the network itself if it has none.
    """
    if not any(isinstance(module, KANActivation) for module in model.modules()):
        return model
    if isinstance(model, KANActivation):
        if not model.can_freeze():
            return model
        return FrozenActivation(copy.deepcopy(model))
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, KANActivation) and part.can_freeze():
                setattr(module, name, FrozenActivation(part))
    return model

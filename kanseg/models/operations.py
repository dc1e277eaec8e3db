"""The cost of a forward pass in hardware-independent numbers: multiply-adds, operations of the
functions, bytes kept for backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from kanseg.bases import Basis
from kanseg.bases.domains import DOMAINS
from kanseg.bases.fourier import Fourier
from kanseg.layers.activation import KANActivation
from kanseg.layers.kernels.horner import is_low_degree_polynomial, polynomial_variable
from kanseg.layers.kernels.rational import is_rational

Counter = Callable[[int], None]


class OperationCounter(TorchDispatchMode):
    """Counts PyTorch operations as they are executed, including those inside autograd functions.

    Norms, other activations, additions and resizing are not counted, as is usual.

    Args:
        linear: called with the multiply-adds of every convolution and matrix product
            (attention included), by the formulas of `torch.utils.flop_counter`, without biases.
        functions: called with the operations of evaluating bases: one per entry that an elementwise
            operation writes while a basis is evaluated, including its domain map; exp and a
            normalization count as one. For a `KANActivation`, whose functions and base are
            computed together, see `operations_per_value`.
    """

    def __init__(self, linear: Counter, functions: Counter):
        super().__init__()
        self.linear, self.functions = linear, functions
        self.in_basis = False
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.paused:
            return result
        flops = flop_registry.get(func.overloadpacket)
        if flops is not None:
            self.linear(int(flops(*args, **kwargs, out_val=result)) // 2)
        elif self.in_basis and _is_elementwise(func.overloadpacket):
            output = result[0] if isinstance(result, tuple) else result
            if isinstance(output, Tensor):  # a comparison of two tensors returns a bool
                self.functions(output.numel())
        return result

    @contextmanager
    def basis_evaluation(self) -> Iterator[None]:
        """Count elementwise operations inside this context."""
        before, self.in_basis = self.in_basis, True
        try:
            yield
        finally:
            self.in_basis = before

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count nothing inside this context."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def hook_activation(self, layer: KANActivation) -> list[RemovableHandle]:
        """Register hooks that count a learned activation.

        A function with a formula (`has_formula`) is counted by it: the operations differ between
        devices, and cached tables and coefficients are computed in the first pass only.
        """
        entered: list[AbstractContextManager] = []

        def before_forward(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if has_formula(layer):
                self.functions(inputs[0].numel() * operations_per_value(layer))
                entered.append(self.pause())
            else:
                entered.append(self.basis_evaluation())
            entered[-1].__enter__()

        def after_forward(*_: object) -> None:
            entered.pop().__exit__(None, None, None)

        return [
            layer.register_forward_pre_hook(before_forward),
            layer.register_forward_hook(after_forward),
        ]

    def wrap_basis(self, basis: Basis) -> Callable[..., Iterator[tuple[Tensor, Tensor | None]]]:
        """`values_and_derivatives` of a basis, with its operations counted."""
        original = basis.values_and_derivatives

        def values_and_derivatives(
            u: Tensor, derivatives: bool = False
        ) -> Iterator[tuple[Tensor, Tensor | None]]:
            with self.basis_evaluation():
                # The domain map was applied outside: count it by running it again without data.
                DOMAINS[basis.domain](torch.empty_like(u, device="meta"))
            functions = original(u, derivatives)
            while True:
                with self.basis_evaluation():
                    value_and_derivative = next(functions, None)
                if value_and_derivative is None:
                    return
                yield value_and_derivative

        return values_and_derivatives


def has_formula(layer: KANActivation) -> bool:
    """True if a learned activation is computed as a polynomial, a rational function, a sum of sines
    or a table.
    """
    if is_rational(layer.basis) or isinstance(layer.basis, Fourier):
        return True
    # Fake tensors do not show the values that could prevent a table.
    is_fake = isinstance(layer.weight, FakeTensor)
    return layer.can_freeze() or (is_fake and layer.basis.has_table)


def operations_per_value(layer: KANActivation) -> int:
    """Operations per value of a learned activation that has a formula (`has_formula`).

    A polynomial costs one multiply-add per degree, and one operation each for the scale, sigmoid
    and center of its variable. A table costs five: the index of the piece, the position inside the
    piece, and a cubic polynomial. A rational function costs its two polynomials plus three: the
    absolute value, adding one, and the division. A sum of sines costs two, a sine and a cosine, and
    four multiply-adds per frequency. A domain map and a base cost one more each.
    """
    basis = layer.basis
    common = int(not basis.is_pointwise) + int(layer.base is not None)
    if is_rational(basis):
        return common + basis.degree + basis.denominator_degree + 3
    if not is_low_degree_polynomial(basis):
        common += basis.is_pointwise and basis.domain != "identity"
        if isinstance(basis, Fourier):
            return common + 2 + 4 * basis.num_frequencies
        return common + 5
    scale, center = polynomial_variable(basis)
    if scale == 0:
        return common + basis.polynomial_degree
    return common + 1 + (scale != 1) + (center != 0) + basis.polynomial_degree


@cache
def _is_elementwise(operation) -> bool:  # noqa: ANN001 - an OpOverloadPacket
    """True for operations with PyTorch's tag "pointwise" (which some in-place forms lack) and for
    layer norm; copies do not count.
    """
    name = operation.__name__.rstrip("_")
    if name == "native_layer_norm":
        return True
    if name == "clone":
        return False
    out_of_place = getattr(torch.ops.aten, name, operation)
    for overload in out_of_place.overloads():
        if torch.Tag.pointwise in getattr(out_of_place, overload).tags:
            return True
    return False


@contextmanager
def count_operations(model: nn.Module, linear: Counter, functions: Counter) -> Iterator[None]:
    """Context in which the operations of a model are counted (see `OperationCounter`)."""
    counter = OperationCounter(linear, functions)
    learned = [module for module in model.modules() if isinstance(module, KANActivation)]
    by_formula = {layer.basis for layer in learned if has_formula(layer)}
    bases = [module for module in model.modules() if isinstance(module, Basis)]
    bases = [basis for basis in bases if basis not in by_formula]
    hooks: list[RemovableHandle] = []
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        for layer in learned:
            hooks += counter.hook_activation(layer)
        for basis in bases:
            basis.values_and_derivatives = counter.wrap_basis(basis)
        # Fused attention has no formula in torch's flop counter on every device.
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for hook in hooks:
            hook.remove()
        for basis in bases:
            del basis.values_and_derivatives  # back to the method of the class


# Attributes in which layers store a penalty of the latest training forward.
TRANSIENT = ("balance", "elbo")


@contextmanager
def preserve_state(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the model into training or evaluation mode, and restore it afterwards.

    Modes, running statistics, stored penalties and the random generators are as before.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if training]
    penalties = []
    for module in model.modules():
        for name in TRANSIENT:
            if name in vars(module):
                penalties.append((module, name, vars(module)[name]))
    device, _ = device_and_dtype(model)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            model.train(training)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module, name, value in penalties:
            setattr(module, name, value)
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.detach().copy_(before)


def device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the first floating-point parameter or buffer of a model."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    default = torch.empty(0)
    return default.device, default.dtype


def num_parameters(model: nn.Module) -> int:
    """Number of values in all parameters of a model, including frozen ones."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds of a forward pass in evaluation mode for an input of the given shape, including
    the evaluation of the functions (see `OperationCounter`).

    With fake tensors (`torch._subclasses.FakeTensorMode`) nothing is computed.
    """
    counts: list[int] = []
    device, dtype = device_and_dtype(model)
    with (
        preserve_state(model, training=False),
        torch.no_grad(),
        count_operations(model, counts.append, counts.append),
    ):
        model(torch.zeros(*shape, device=device, dtype=dtype))
    return sum(counts)


def saved_bytes(
    function: Callable[[], object], own: Iterable[Tensor] = (), on_save: Counter | None = None
) -> int:
    """Bytes that a call keeps for backward; each storage counts once, in full.

    Args:
        function: called once, with gradients enabled by the caller.
        own: tensors that exist anyway (parameters, buffers) and are not counted.
        on_save: called with the bytes of each storage when it is saved for the first time.
    """
    counted = {tensor.untyped_storage().data_ptr() for tensor in own}
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            sizes.append(storage.nbytes())
            if on_save is not None:
                on_save(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()  # keeps the graph alive, so that no address is reused
    del result
    return sum(sizes)

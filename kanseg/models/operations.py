"""What a forward pass costs, in numbers that do not depend on the machine: multiply-adds,
operations of the functions, bytes kept for backward.
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
from kanseg.bases.base import DOMAINS
from kanseg.layers.activation import KANActivation
from kanseg.layers.kernels.horner import collapses, variable
from kanseg.layers.kernels.rational import is_rational

Note = Callable[[int], None]


class Operations(TorchDispatchMode):
    """Counts, while it is on, the operations of PyTorch as they are executed - those inside our own
    autograd functions too.

    `contraction` is told the multiply-adds of every convolution and matrix product (those of
    attention too), by PyTorch's own formulas of `torch.utils.flop_counter`, without biases.
    `functions` is told the work of evaluating bases: one operation per entry that an elementwise
    operation writes while a basis is evaluated, its domain map included, and all of a
    `KANActivation`, whose functions and base are computed together (`operations_of_a_value`); exp
    is one operation, and so is a normalization. What norms, other activations, additions and
    resizing do is counted nowhere, as is usual.
    """

    def __init__(self, contraction: Note, functions: Note):
        super().__init__()
        self.contraction, self.functions = contraction, functions
        self.evaluates = False
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.paused:
            return result
        flops = flop_registry.get(func.overloadpacket)
        if flops is not None:
            self.contraction(int(flops(*args, **kwargs, out_val=result)) // 2)
        elif self.evaluates and _elementwise(func.overloadpacket):
            self.functions((result if isinstance(result, Tensor) else result[0]).numel())
        return result

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within it a basis is evaluated."""
        before, self.evaluates = self.evaluates, True
        try:
            yield
        finally:
            self.evaluates = before

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Within it nothing is counted."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def watch(self, layer: KANActivation) -> list[RemovableHandle]:
        """Hooks within which a learned activation is evaluated.

        A polynomial or a table is counted by its formula: its operations differ from device to
        device, and what the first ones find later ones look up.
        """
        entered: list[AbstractContextManager] = []

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if has_formula(layer):
                self.functions(inputs[0].numel() * operations_of_a_value(layer))
                entered.append(self.pause())
            else:
                entered.append(self.evaluation())
            entered[-1].__enter__()

        def after(*_: object) -> None:
            entered.pop().__exit__(None, None, None)

        return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]

    def watched(self, basis: Basis) -> Callable[..., Iterator[tuple[Tensor, Tensor | None]]]:
        """The `values_and_derivatives` of a basis that tell when they are at work."""
        terms = basis.values_and_derivatives

        def told(u: Tensor, derivatives: bool = False) -> Iterator[tuple[Tensor, Tensor | None]]:
            with (
                self.evaluation()
            ):  # u is mapped already, wherever that was: once more, without numbers
                DOMAINS[basis.domain](torch.empty_like(u, device="meta"))
            each = terms(u, derivatives)
            while True:
                with self.evaluation():
                    term = next(each, None)
                if term is None:
                    return
                yield term

        return told


def has_formula(layer: KANActivation) -> bool:
    """Whether shared functions are computed as polynomials, their quotients or tables. A fake
    tensor does not show the numbers that may be against it.
    """
    if is_rational(layer.basis):
        return True
    is_fake = isinstance(layer.weight, FakeTensor)
    return layer.can_freeze() or (is_fake and layer.basis.has_table)


def operations_of_a_value(layer: KANActivation) -> int:
    """Of shared functions that are a polynomial, a quotient of two or a table.

    A polynomial costs a multiply-add a degree, and its variable one operation each for the scale,
    the sigmoid and the center that it has. A table costs five: the place in it, the share of the
    way through the piece there, a cubic polynomial of that. A quotient costs three beside its
    polynomials: the absolute value, the one, the division. A domain map and a base cost one more
    each.
    """
    basis = layer.basis
    common = int(not basis.is_pointwise) + int(layer.base is not None)
    if is_rational(basis):
        return common + basis.degree + basis.denominator_degree + 3
    if not collapses(basis):
        return common + (basis.is_pointwise and basis.domain != "identity") + 5
    scale, center = variable(basis)
    if scale == 0:
        return common + basis.polynomial_degree
    return common + 1 + (scale != 1) + (center != 0) + basis.polynomial_degree


@cache
def _elementwise(operation) -> bool:  # noqa: ANN001 - an OpOverloadPacket
    """PyTorch tags them, but not every in-place form; copies compute nothing."""
    name = operation.__name__.rstrip("_")
    if name == "native_layer_norm":
        return True
    same = getattr(torch.ops.aten, name, operation)
    return name != "clone" and any(
        torch.Tag.pointwise in getattr(same, overload).tags for overload in same.overloads()
    )


@contextmanager
def counted(model: nn.Module, contraction: Note, functions: Note) -> Iterator[None]:
    """Within it what the model computes is told to both (see `Operations`)."""
    operations = Operations(contraction, functions)
    learned = [module for module in model.modules() if isinstance(module, KANActivation)]
    by_formula = {layer.basis for layer in learned if has_formula(layer)}
    bases = [module for module in model.modules() if isinstance(module, Basis)]
    bases = [basis for basis in bases if basis not in by_formula]
    hooks: list[RemovableHandle] = []
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        for layer in learned:
            hooks += operations.watch(layer)
        for basis in bases:
            basis.values_and_derivatives = operations.watched(basis)
        # One operation for a whole block of attention, and fused attention on some devices, would
        # be counted as nothing.
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), operations:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
        for basis in bases:
            del basis.values_and_derivatives  # the method of the class is seen again


TRANSIENT = ("balance", "elbo")  # what layers keep of a training forward for a penalty


@contextmanager
def left_as_found(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Within it the model is in training mode or not; afterwards modes, running statistics and the
    random numbers are as before.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if training]
    kept = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if name in TRANSIENT
    ]
    device, _ = place(model)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.train(training)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module, name, value in kept:
            setattr(module, name, value)
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.detach().copy_(before)


def place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where the model is, and what it computes in: of its first floating-point parameter or
    buffer.
    """
    held = [*model.parameters(), *model.buffers()]
    first = next((tensor for tensor in held if tensor.is_floating_point()), torch.empty(0))
    return first.device, first.dtype


def num_parameters(model: nn.Module) -> int:
    """Numbers in its parameters, frozen ones too, each parameter once."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, shape: Sequence[int]) -> int:
    """Of a forward pass in evaluation mode for an input of that shape, evaluating the functions
    included (see `Operations`).

    Works for fake tensors too (`torch._subclasses.FakeTensorMode`), that is without computing
    anything.
    """
    counts: list[int] = []
    device, dtype = place(model)
    with (
        left_as_found(model, training=False),
        torch.no_grad(),
        counted(model, counts.append, counts.append),
    ):
        model(torch.zeros(*shape, device=device, dtype=dtype))
    return sum(counts)


def saved_bytes(
    function: Callable[[], object], own: Iterable[Tensor] = (), note: Note | None = None
) -> int:
    """Bytes that a call keeps for backward: every storage once and whole; those of `own`
    (parameters, buffers) exist anyway and are left out.

    `note` is told the bytes of each storage when it is kept for the first time.
    """
    seen = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(storage.nbytes())
            if note is not None:
                note(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = function()  # while it is held its graph is, and no address is given out twice
    del held
    return sum(kept)

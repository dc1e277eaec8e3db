"""Checks whether a layer may compute from the tensors of its parts instead of calling them.

The fused step reads `conv.weight` and the tensors of the basis, and calls neither module. This is
correct only for parts that do no more than torch's own classes. Other parts are called as modules:
subclasses and wrappers (LoRA, weight standardization, quantization, FSDP), modules with hooks, with
a patched `forward` (accelerate's offloading) or with parametrized or pruned weights, and tensors of
other classes (DTensor, quantized tensors).
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

from kanseg.bases import Basis

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Elementwise and without state that a call changes, so that backward may run them again.
ACTIVATIONS = (
    nn.SiLU,
    nn.GELU,
    nn.ReLU,
    nn.PReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.LeakyReLU,
    nn.ELU,
    nn.Hardswish,
    nn.Mish,
)
# Code objects of the original methods, to detect methods that were replaced on the instance or on
# the class. torch.compile recompiles if one is replaced later.
_CODE = {kind: kind.forward.__code__ for kind in (*CONVOLUTIONS, nn.Linear, *ACTIVATIONS, Basis)}
_CONV_CODE = {kind: kind._conv_forward.__code__ for kind in CONVOLUTIONS}
_BASIS_CODE = (Basis.functions.__code__, Basis.mapped.__code__)
# The last two replace plain tensors while torch.export traces a network.
_TENSORS = (Tensor, nn.Parameter, FakeTensor, FunctionalTensor)


def is_plain_tensor(tensor: Tensor) -> bool:
    """True for a tensor of torch's own classes, without special behavior."""
    return type(tensor) in _TENSORS


def is_plain_map(module: nn.Module) -> bool:
    """True for a torch.nn.Conv1d, Conv2d, Conv3d or Linear that only applies its weight."""
    kind = type(module)
    if kind is nn.Linear:
        return _runs_forward_only(module, nn.Linear) and is_plain_tensor(module.weight)
    return (
        kind in CONVOLUTIONS
        and _runs_forward_only(module, kind)
        and getattr(module._conv_forward, "__code__", None) is _CONV_CODE[kind]
        and is_plain_tensor(module.weight)
    )


def reads_its_weight(module: nn.Module) -> bool:
    """True for a torch.nn.Linear or convolution that multiplies by its weight, which may be pruned
    or parametrized.
    """
    forward = getattr(module.forward, "__code__", None)
    kinds = (nn.Linear, *CONVOLUTIONS)
    return any(isinstance(module, kind) and forward is _CODE[kind] for kind in kinds)


def is_plain_activation(module: nn.Module) -> bool:
    """True for an elementwise activation of torch that does not change its input."""
    return (
        type(module) in ACTIVATIONS
        and _runs_forward_only(module, type(module))
        and not getattr(module, "inplace", False)
        and all(is_plain_tensor(parameter) for parameter in module._parameters.values())
    )


def is_plain_basis(basis: nn.Module) -> bool:
    """True for a basis that only evaluates `values_and_derivatives`, with its own tensors."""
    if not isinstance(basis, Basis) or hasattr(basis, "parametrizations"):
        return False
    code = tuple(getattr(each, "__code__", None) for each in (basis.functions, basis.mapped))
    tensors = named_tensors(basis).values()
    return (
        _runs_forward_only(basis, Basis)
        and code == _BASIS_CODE
        and all(is_plain_tensor(tensor) for tensor in tensors)
        and len({id(tensor) for tensor in tensors}) == len(tensors)  # no tensor has two names
        and all(is_plain_activation(part) for part in basis._modules.values())
    )


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module and its submodules, by name.

    Includes tensors that are plain attributes, as in replicas of `torch.nn.DataParallel` and under
    FSDP.
    """
    named: dict[str, Tensor] = {}
    for store in (module._parameters, module._buffers, vars(module)):
        for name, value in store.items():
            if isinstance(value, Tensor):
                named[name] = value
    for prefix, part in module._modules.items():
        if part is not None:
            named |= {f"{prefix}.{name}": value for name, value in named_tensors(part).items()}
    return named


def with_tensors(module: nn.Module, tensors: dict[str, Tensor], prefix: str = "") -> nn.Module:
    """A shallow copy of a module and its submodules that computes with the given tensors.

    `torch.func.functional_call` would change the module itself during the call, which other threads
    may be using.

    Args:
        module: is not changed.
        tensors: name as of `named_tensors` -> tensor.
        prefix: prefix of the names, for submodules.
    """
    shallow_copy = module.__new__(type(module))
    shallow_copy.__dict__ = {
        **vars(module),
        "_parameters": dict(module._parameters),
        "_buffers": dict(module._buffers),
        "_modules": {
            name: part if part is None else with_tensors(part, tensors, f"{prefix}{name}.")
            for name, part in module._modules.items()
        },
    }
    for store in (shallow_copy._parameters, shallow_copy._buffers, vars(shallow_copy)):
        store.update({name: tensors[prefix + name] for name in store if prefix + name in tensors})
    return shallow_copy


def is_transformed() -> bool:
    """True while a compiler, exporter, tracer, torch.func or forward-mode differentiation
    transforms the operations, which must then be plain PyTorch operations.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()  # what autograd.Function.apply itself asks
        or forward_ad._current_level >= 0
    )


@cache
def has_numba() -> bool:
    """True if Numba, which compiles the kernels for a CPU, can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        warnings.warn(
            f"Numba cannot be imported ({error}): learned activations take several times as long"
            " without it; install it with python -m pip install numba",
            stacklevel=2,
        )
        return False
    return True


def _runs_forward_only(module: nn.Module, kind: type[nn.Module]) -> bool:
    """True if calling the module runs the forward of `kind` only: no hooks, no patched method."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None
        or getattr(module.forward, "__code__", None) is not _CODE[kind]
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )

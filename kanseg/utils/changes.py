"""Compare a network with one that was built with the same arguments."""

from __future__ import annotations

from torch import nn

# These compute the same in evaluation mode; distributed training converts to SyncBatchNorm.
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Attributes that have no effect in evaluation mode.
_TRAINING_ONLY = ("training", "momentum", "p", "inplace", "drop_prob", "grad_checkpointing")


def first_change(model: nn.Module, rebuilt: nn.Module) -> str | None:
    """Describe the first difference between a network and one that was built with its arguments: a
    tensor, the class of a module, or one of its settings. None without a difference.
    """
    shapes, built_shapes = state_shapes(model), state_shapes(rebuilt)
    for name in {**shapes, **built_shapes}:
        if shapes.get(name) != built_shapes.get(name):
            return f"{name}: {shapes.get(name)}, built as {built_shapes.get(name)}"
    modules, built_modules = dict(model.named_modules()), dict(rebuilt.named_modules())
    for name in {**modules, **built_modules}:
        difference = _difference(modules.get(name), built_modules.get(name))
        if difference is not None:
            return f"{name or 'the network'}: {difference}"
    return None


def state_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters and buffers."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _difference(module: nn.Module | None, built: nn.Module | None) -> str | None:
    """Describe how a module differs from the same module as built: in its class, in a plain
    attribute, or by a replaced method. None without a difference.
    """
    class_name, built_name = _class_name(module), _class_name(built)
    if class_name != built_name:
        return f"{class_name}, built as {built_name}"
    attributes, built_attributes = vars(module), vars(built)
    for name, value in attributes.items():
        if name == "forward" and "_original_forward" in attributes:  # Accelerate's mixed precision
            continue
        if callable(value) and callable(getattr(type(module), name, None)):
            return f"its method {name} was replaced"
        if name not in built_attributes or name.startswith("_") or name in _TRAINING_ONLY:
            continue
        expected = built_attributes[name]
        if _is_plain(value) and _is_plain(expected) and value != expected:
            return f"{name}={value!r}, built with {expected!r}"
    return None


def _class_name(module: nn.Module | None) -> str:
    if module is None:
        return "nothing"
    kind = type(module)
    if kind in _BATCH_NORMS:
        return "BatchNorm"
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_plain(value: object) -> bool:
    """True for a number, a string, None, or a list of these."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))

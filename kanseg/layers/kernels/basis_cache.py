"""Caches of values that are computed from a basis and a few tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from kanseg.bases import Basis

Value = TypeVar("Value")


class Entry(NamedTuple, Generic[Value]):
    """A cached value with the options and tensors it was computed from."""

    options: dict[str, object]
    tensors: list[Tensor]
    value: Value


class BasisCache(Generic[Value]):
    """Keeps the latest value of each basis until an option or a tensor changes.

    The entry is dropped together with its basis; copies of the basis start without one.
    """

    def __init__(self) -> None:
        self._entries: weakref.WeakKeyDictionary[Basis, Entry[Value]] = weakref.WeakKeyDictionary()

    def get(self, basis: Basis, tensors: Sequence[Tensor], compute: Callable[[], Value]) -> Value:
        """The value of the basis for these tensors; on a miss `compute` runs without gradients."""
        # Degrees, names and other plain attributes of the basis.
        options = {
            name: value for name, value in vars(basis).items() if type(value) in (int, float, str)
        }
        entry = self._entries.get(basis)
        if entry is not None and entry.options == options and _equal(entry.tensors, tensors):
            return entry.value
        with torch.inference_mode(False), torch.no_grad():
            value = compute()
            copies = [tensor.detach().clone() for tensor in tensors]
        self._entries[basis] = Entry(options, copies, value)
        return value


def _equal(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Compare the numbers themselves: `parameter.data.copy_` leaves no other trace."""
    if len(tensors) != len(others):
        return False
    for a, b in zip(tensors, others, strict=True):
        if a.dtype != b.dtype or a.device != b.device or not torch.equal(a, b):
            return False
    return True

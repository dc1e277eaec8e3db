"""What is found once for the functions of a basis, and kept until one of their numbers changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from kanseg.bases import Basis

Value = TypeVar("Value")


class Known(NamedTuple, Generic[Value]):
    """A value, and what it was made of."""

    options: list[tuple[str, object]]
    tensors: list[Tensor]
    value: Value


class Remembered(Generic[Value]):
    """The last value of each basis; it goes with the basis, but not into its copies."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Basis, Known[Value]] = weakref.WeakKeyDictionary()

    def find(self, basis: Basis, tensors: Sequence[Tensor], make: Callable[[], Value]) -> Value:
        """The value for tensors of these numbers, made without a gradient if need be."""
        options = _options(basis)
        known = self._known.get(basis)
        if known is not None and known.options == options and _equal(known.tensors, tensors):
            return known.value
        with torch.inference_mode(False), torch.no_grad():
            value = make()
            copies = [each.detach().clone() for each in tensors]
        self._known[basis] = Known(options, copies, value)
        return value


def _options(basis: Basis) -> list[tuple[str, object]]:
    """What a basis holds beside tensors: degrees, names."""
    return [item for item in vars(basis).items() if type(item[1]) in (int, float, str)]


def _equal(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """By the numbers: nothing else tells of `parameter.data.copy_`."""
    return len(tensors) == len(others) and all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
        for a, b in zip(tensors, others, strict=True)
    )

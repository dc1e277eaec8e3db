"""Weighted sums of named losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.bases.base import without_autocast
from kanseg.losses.inputs import LOSSES, LossInputs
from kanseg.losses.weights import check_class_weights, is_weighting
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

# Limits of the options: of one loss ("loss.option"), or of all others that have the option.
RANGES = {
    "alpha": (0.0, 100.0),
    "beta": (0.0, 100.0),
    "gamma": (0.0, 100.0),
    "smooth": (0.0, 1e6),
    "tversky.gamma": (0.01, 100.0),
    "focal.alpha": (0.0, 1.0),
}


def check_weights(weights: Mapping[str, float]) -> None:
    """InputError unless the names are losses, and the weights finite, not negative, and one of them
    positive.
    """
    unknown = [name for name in weights if name not in LOSSES]
    if unknown or not is_weighting(weights.values()):
        hint = nearest(unknown[0], LOSSES) if unknown else ""
        raise InputError(
            f"training.loss must weigh at least one of {', '.join(LOSSES)}, none of them"
            f" negatively, got {dict(weights)}{hint}"
        )


def check_options(options: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float]) -> None:
    """InputError unless the options are those of losses in `weights`, and numbers in their
    range.
    """
    for name, given in options.items():
        if name not in weights:
            hint = nearest(name, weights) or f" (which has {', '.join(weights)})"
            raise InputError(f"training.loss_options: {name!r} is not in training.loss{hint}")
        parameters = inspect.signature(LOSSES[name]).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for option, value in given.items():
            if option not in known:
                raise InputError(
                    f"training.loss_options: {name} has no option"
                    f" {option!r}{nearest(option, known)} (its options:"
                    f" {', '.join(known) or 'none'})"
                )
            _check_range(name, option, value)


def _check_range(loss: str, option: str, value: object) -> None:
    least, most = RANGES.get(f"{loss}.{option}", RANGES[option])
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise InputError(
            f"training.loss_options: {loss}.{option} must be a number from {least:g} to"
            f" {most:g}, got {value!r}"
        )


class WeightedLoss(nn.Module):
    """A weighted sum of named losses.

    Args:
        weights: name of a loss -> its weight.
        task: "binary" (one logit), "multiclass" or "multilabel".
        options: name of a loss -> its options.
        class_weights: one number a class, of the binary task of background and foreground; None for
            equal ones. Means over pixels (ce, focal) weigh each pixel by its class, means over
            classes (the others) each class; those of a binary task have the foreground only.
        supervision: weights of a network's several outputs (deep supervision), which need not sum
            to 1; None for equal ones.

    Raises:
        InputError: no losses, or an unknown one; options or weights out of range.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        task: str,
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        class_weights: Sequence[float] | None = None,
        supervision: Sequence[float] | None = None,
    ):
        super().__init__()
        options = options or {}
        check_weights(weights)
        check_options(options, weights)
        if class_weights is not None:
            check_class_weights(class_weights)
        check_supervision(supervision)
        if task == "multiclass" and options.get("focal", {}).get("alpha") is not None:
            raise InputError(
                "training.loss_options: focal.alpha weighs foreground against background; for a"
                " multiclass task set training.class_weights"
            )
        self.task, self.supervision = task, supervision
        self.terms: list[tuple[float, Callable[[LossInputs], Tensor]]] = []
        for name, weight in weights.items():
            if weight:
                self.terms.append((float(weight), partial(LOSSES[name], **options.get(name, {}))))
        if class_weights is not None:
            class_weights = torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Logits (B, N, H, W) of any float type and targets (B, H, W), of a multilabel task (B, N,
        H, W), int64, 255 = ignored -> float32 scalar.

        Of several logits (deep supervision) it is the mean of their losses, weighted by
        `supervision`.
        """
        outputs = [logits] if isinstance(logits, Tensor) else list(logits)
        weights = [1.0] * len(outputs) if self.supervision is None else list(self.supervision)
        if len(weights) != len(outputs):
            raise InputError(
                f"training.supervision has {len(weights)} weights, but the network gives"
                f" {len(outputs)} output(s); give one an output"
            )
        losses = []
        for output, weight in zip(outputs, weights, strict=True):
            if weight:
                losses.append(weight * self._loss_of(output, target))
        return torch.stack(losses).sum() / sum(weights)

    def _loss_of(self, logits: Tensor, target: Tensor) -> Tensor:
        with without_autocast(logits):
            inputs = LossInputs(logits.float(), target, self.task, self.class_weights)
            return torch.stack([weight * loss(inputs) for weight, loss in self.terms]).sum()


def check_supervision(weights: Sequence[float] | None) -> None:
    """InputError unless the weights of the outputs are 0 or more and one of them positive."""
    if weights is not None and not is_weighting(weights):
        raise InputError(
            f"training.supervision must be 0 or more and one of them positive, got {list(weights)}"
        )

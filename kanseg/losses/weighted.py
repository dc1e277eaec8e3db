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

# Ranges of the options: of one loss ("loss.option"), or of all other losses with the option;
# between integers, integers.
RANGES = {
    "alpha": (0.0, 100.0),
    "beta": (0.0, 100.0),
    "gamma": (0.0, 100.0),
    "smooth": (0.0, 1e6),
    "iterations": (1, 100),
    "tversky.gamma": (0.01, 100.0),
    "focal.alpha": (0.0, 1.0),
}


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise InputError unless the names are losses, and the weights are finite and 0 or more, one
    of them positive.
    """
    unknown = [name for name in weights if name not in LOSSES]
    if unknown or not is_weighting(weights.values()):
        hint = nearest(unknown[0], LOSSES) if unknown else ""
        raise InputError(
            "training.loss must map one or more of {known} to weights of 0 or more, one of"
            " them positive, got {weights}{hint}",
            known=", ".join(LOSSES),
            weights=dict(weights),
            hint=hint,
        )


def check_options(options: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float]) -> None:
    """Raise InputError unless the options belong to losses in `weights` and are in range."""
    for name, given in options.items():
        if name not in weights:
            hint = nearest(name, weights) or f" ({', '.join(weights)})"
            raise InputError(
                "training.loss_options: {name!r} is not in training.loss{hint}",
                name=name,
                hint=hint,
            )
        parameters = inspect.signature(LOSSES[name]).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        for option, value in given.items():
            if option not in known:
                raise InputError(
                    "training.loss_options: {name} has no option {option!r}{hint} (its"
                    " options: {known})",
                    name=name,
                    option=option,
                    hint=nearest(option, known),
                    known=", ".join(known) or "none",
                )
            _check_range(name, option, value)


def _check_range(loss: str, option: str, value: object) -> None:
    least, most = RANGES.get(f"{loss}.{option}", RANGES[option])
    kinds, word = (int, float), "a number"
    if isinstance(least, int):
        kinds, word = int, "an integer"
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise InputError(
            "training.loss_options: {loss}.{option} must be {word} from {least} to {most}, got"
            " {value!r}",
            loss=loss,
            option=option,
            word=word,
            least=f"{least:g}",
            most=f"{most:g}",
            value=value,
        )


class WeightedLoss(nn.Module):
    """A weighted sum of named losses.

    Args:
        weights: name of a loss -> its weight.
        task: "binary" (one logit), "multiclass" or "multilabel".
        options: name of a loss -> its options.
        class_weights: a number per class (binary: of background and foreground); None for equal
            weights. Pixel-wise losses (ce, focal) weight each pixel by its class, the others are
            weighted means over classes (binary: the foreground only).
        supervision: weights of the outputs of a network with deep supervision, which need not sum
            to 1; None for equal weights.

    Raises:
        InputError: no losses, an unknown loss, or options or weights out of range.
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
                "training.loss_options: focal.alpha is the weight of a foreground; for a"
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
        """Compute the loss, a float32 scalar.

        Args:
            logits: (B, N, H, W) of any float type; or several (deep supervision), whose losses are
                averaged with the weights `supervision`.
            target: (B, H, W) int64, of a multilabel task (B, N, H, W); 255 = ignored.
        """
        outputs = [logits] if isinstance(logits, Tensor) else list(logits)
        weights = self.supervision
        if weights is None:
            weights = [1.0] * len(outputs)
        if len(weights) != len(outputs):
            raise InputError(
                "training.supervision has {count} weights, but the network has {outputs}"
                " output(s); give one per output",
                count=len(weights),
                outputs=len(outputs),
            )
        losses = []
        for output, weight in zip(outputs, weights, strict=True):
            if not weight:
                continue
            with without_autocast(output):
                inputs = LossInputs(output.float(), target, self.task, self.class_weights)
                terms = [term_weight * loss(inputs) for term_weight, loss in self.terms]
                losses.append(weight * torch.stack(terms).sum())
        return torch.stack(losses).sum() / sum(weights)


def check_supervision(weights: Sequence[float] | None) -> None:
    """Raise InputError unless the weights of the outputs are 0 or more, one of them positive."""
    if weights is not None and not is_weighting(weights):
        raise InputError(
            "training.supervision must be 0 or more and one of them positive, got {weights}",
            weights=list(weights),
        )

"""Losses on raw logits, in float32 whatever the precision of the network, honouring ignored pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.data.info import IGNORED
from kanseg.errors import InputError
from kanseg.registry import Registry

# name -> builder(task) -> loss(logits (B, N, H, W) float32, target (B, H, W) int64 with 255 = ignored) -> scalar
LOSSES: Registry[Callable[[str], Callable[[Tensor, Tensor], Tensor]]] = Registry("loss")


@LOSSES.register("ce")
def cross_entropy(task: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy over the classes; for a binary task the binary one. Mean over the pixels that count; 0 if none does."""
    return _binary_cross_entropy if task == "binary" else _multiclass_cross_entropy


def _multiclass_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp_min(1)


def _binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    valid = (target != IGNORED).unsqueeze(1)
    truth = (target.unsqueeze(1) == 1).to(logits)
    total = (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * valid).sum()
    return total / valid.sum().clamp_min(1)


@LOSSES.register("dice")
def dice(task: str) -> Callable[[Tensor, Tensor], Tensor]:
    """1 - Dice of the probabilities over the batch, mean over classes; a class absent from the batch counts 0 (SMP's loss)."""
    from segmentation_models_pytorch.losses import DiceLoss

    return DiceLoss("binary" if task == "binary" else "multiclass", from_logits=True, ignore_index=IGNORED)


def check_weights(weights: Mapping[str, float]) -> None:
    """InputError unless the names are losses, the weights not negative and one of them positive."""
    if any(name not in LOSSES for name in weights) or any(not weight >= 0 for weight in weights.values()) or not sum(weights.values()) > 0:
        raise InputError(f"training.loss must weigh at least one of {', '.join(LOSSES)}, none of them negatively, got {dict(weights)}")


class WeightedLoss(nn.Module):
    """A weighted sum of named losses.

    Args:
        weights: name of a loss -> its weight.
        task: "binary" (one logit) or "multiclass".

    Raises:
        InputError: no losses, or an unknown one.
    """

    def __init__(self, weights: Mapping[str, float], task: str):
        super().__init__()
        check_weights(weights)
        self.parts = [(float(weight), LOSSES[name](task)) for name, weight in weights.items()]

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Logits (B, N, H, W) of any float type and targets (B, H, W) int64, 255 = ignored -> float32 scalar.

        Several logits (deep supervision) count alike: the mean of their losses.
        """
        if not isinstance(logits, Tensor):
            return torch.stack([self(each, target) for each in logits]).mean()
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            return torch.stack([weight * part(logits, target) for weight, part in self.parts]).sum()

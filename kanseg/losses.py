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


class ClassificationLoss(nn.Module):
    """Cross entropy of labelled pictures, in float32 whatever the precision of the network.

    With targets t (after smoothing s) and weights w: -sum w_c s_c log p_c / sum w_c t_c over batch and classes, for class indices that of
    `torch.nn.functional.cross_entropy`.

    Args:
        label_smoothing: share of each target that is spread evenly over all classes.
        class_weights: one positive number a class, such as those of `balanced_weights`; None for equal ones.

    Raises:
        InputError: values out of range.
    """

    def __init__(self, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(f"training.label_smoothing must be from 0 to below 1, got {label_smoothing}")
        if class_weights is not None and (not all(0 <= w < float("inf") for w in class_weights) or not sum(class_weights) > 0):
            raise InputError(f"class weights must be 0 or more and one of them positive, got {list(class_weights)}")
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (B, N) of any float type; targets (B,) int64, or (B, N) floats whose rows sum to 1 -> float32 scalar."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            count = logits.shape[1]
            if self.class_weights is not None and len(self.class_weights) != count:
                raise InputError(f"there are {len(self.class_weights)} class weights for {count} classes; give one a class")
            truth = F.one_hot(target, count).float() if target.ndim == 1 else target.float()
            smooth = truth * (1 - self.label_smoothing) + self.label_smoothing / count
            weights = torch.ones(count, device=logits.device) if self.class_weights is None else self.class_weights.to(logits.device)
            return -(weights * smooth * F.log_softmax(logits, dim=1)).sum() / (weights * truth).sum().clamp_min(1e-12)


def balanced_weights(labels: Sequence[int], num_classes: int) -> list[float]:
    """Weights in inverse proportion to the frequency of the classes, n / (N * n_c); 0 for a class without pictures."""
    counts = torch.bincount(torch.as_tensor(labels, dtype=torch.int64), minlength=num_classes)
    return [len(labels) / (num_classes * n) if n else 0.0 for n in counts.tolist()]

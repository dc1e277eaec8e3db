"""The loss of image classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.bases.base import without_autocast
from kanseg.losses.weights import is_weighting
from kanseg.utils.errors import InputError


class ClassificationLoss(nn.Module):
    """Cross entropy of image classification, in float32 whatever the precision of the network.

    - sum_ic w_c s_ic log p_ic / sum_ic w_c t_ic

    over images i and classes c, with probabilities p (softmax), targets t, smoothed targets s and
    class weights w. For class indices it equals `torch.nn.functional.cross_entropy`.

    Args:
        label_smoothing: share of each target that is spread evenly over all classes.
        class_weights: a number per class, such as those of `balanced_weights`; None for equal
            weights.

    Raises:
        InputError: values out of range.
    """

    def __init__(
        self, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(
                f"training.label_smoothing must be from 0 to below 1, got {label_smoothing}"
            )
        if class_weights is not None:
            if not is_weighting(class_weights):
                raise InputError(
                    "class weights must be 0 or more and one of them positive, got"
                    f" {list(class_weights)}"
                )
            class_weights = torch.tensor(list(class_weights), dtype=torch.float32)
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss, a float32 scalar.

        Args:
            logits: (B, N) of any float type.
            target: (B,) int64, or (B, N) floats whose rows sum to 1.
        """
        with without_autocast(logits):
            logits = logits.float()
            count = logits.shape[1]
            if self.class_weights is not None and len(self.class_weights) != count:
                raise InputError(
                    f"got {len(self.class_weights)} class weights for {count} classes; give one per"
                    " class"
                )
            if target.ndim == 1:
                target = F.one_hot(target, count)
            target = target.float()
            smoothed = target * (1 - self.label_smoothing) + self.label_smoothing / count
            weights = torch.ones(count, device=logits.device)
            if self.class_weights is not None:
                weights = self.class_weights.to(logits.device)
            log_probabilities = F.log_softmax(logits, dim=1)
            total_weight = (weights * target).sum().clamp_min(1e-12)
            return -(weights * smoothed * log_probabilities).sum() / total_weight

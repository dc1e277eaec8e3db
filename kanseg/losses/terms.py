"""What the losses of masks have in common: truth, probabilities and the pixels that count, each
computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.utils.registry import Registry

# name -> loss(pixels: Pixels, *, options with defaults) -> scalar
LOSSES: Registry[Callable[..., Tensor]] = Registry("loss")


class Pixels:
    """Logits and truth of a batch as all losses see them; N is the number of logits: 1 of a binary
    task, else one a class.

    Args:
        logits: (B, N, H, W) floats.
        target: (B, H, W) int64 class indices, or of a multilabel task (B, N, H, W) of 0 and 1; 255
            = ignored.
        task: "binary", "multiclass" or "multilabel".
        class_weights: one number a class (binary: of background and foreground), or None for equal
            ones.
    """

    def __init__(
        self, logits: Tensor, target: Tensor, task: str, class_weights: Tensor | None = None
    ):
        self.logits, self.task = logits, task
        self.target = target if task == "multilabel" else target.unsqueeze(1)
        self.class_weights = None if class_weights is None else class_weights.to(logits)

    @cached_property
    def counted(self) -> Tensor:
        """(B, N, H, W), or (B, 1, H, W) of a multiclass task: whether the pixel counts."""
        return self.target != IGNORE_INDEX

    @cached_property
    def truth(self) -> Tensor:
        """(B, N, H, W) floats: 1 where the class is, 0 elsewhere and at ignored pixels."""
        if self.task == "multiclass":
            classes = torch.arange(self.logits.shape[1], device=self.logits.device).view(
                1, -1, 1, 1
            )
            return (self.target == classes).to(self.logits)
        return (self.target == 1).to(self.logits)

    @cached_property
    def probabilities(self) -> Tensor:
        """(B, N, H, W): softmax over the classes, or the sigmoid of each; 0 at ignored pixels."""
        values = (
            torch.softmax(self.logits, dim=1)
            if self.task == "multiclass"
            else torch.sigmoid(self.logits)
        )
        return torch.where(self.counted, values, 0.0)

    @cached_property
    def log_likelihood(self) -> Tensor:
        """Of the shape of `counted`: the log-probability of the truth, 0 at ignored pixels."""
        if self.task == "multiclass":
            return -F.cross_entropy(
                self.logits, self.target[:, 0], ignore_index=IGNORE_INDEX, reduction="none"
            ).unsqueeze(1)
        values = F.binary_cross_entropy_with_logits(self.logits, self.truth, reduction="none")
        return torch.where(self.counted, -values, 0.0)

    @cached_property
    def pixel_weights(self) -> Tensor:
        """Of the shape of `counted`: the weight of the pixel's class, 0 at ignored pixels."""
        counted = self.counted.to(self.logits)
        if self.class_weights is None:
            return counted
        if self.task == "multilabel":
            return counted * self.class_weights.view(1, -1, 1, 1)
        return counted * self.class_weights[torch.where(self.counted, self.target, 0)]

    def mean_over_pixels(self, values: Tensor) -> Tensor:
        """Values of the shape of `counted` -> their mean, weighted by class; 0 where no pixel
        counts.
        """
        return (values * self.pixel_weights).sum() / self.pixel_weights.sum().clamp_min(1e-12)

    def mean_over_classes(self, values: Tensor, used: Tensor | None = None) -> Tensor:
        """(N,) -> the mean weighted by class, over those in `used` (N,) if given; 0 where there is
        none.

        A binary task has one such value, that of the foreground, and no weights.
        """
        weights = (
            torch.ones_like(values)
            if self.class_weights is None or self.task == "binary"
            else self.class_weights
        )
        weights = weights if used is None else weights * used
        return (values * weights).sum() / weights.sum().clamp_min(1e-12)

"""The inputs of segmentation losses, each computed once: one-hot target, probabilities, valid
pixels.

Symbols for pixel i and class c (a binary task has a single c, the foreground):

    x_ic   logit
    p_ic   probability: softmax over the classes, or the sigmoid of each
    t_ic   1 where the target has the class, else 0
    w_c    weight of the class
    v_i    1 where the pixel is valid, 0 where the target is 255 (ignored)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.utils.registry import Registry

# name -> loss(inputs: LossInputs, *, options with defaults) -> scalar
LOSSES: Registry[Callable[..., Tensor]] = Registry("loss")


class LossInputs:
    """Logits and target of a batch.

    Args:
        logits: (B, N, H, W) floats.
        target: (B, H, W) int64 class indices, or of a multilabel task (B, N, H, W) of 0 and 1; 255
            = ignored.
        task: "binary", "multiclass" or "multilabel".
        class_weights: a number per class (binary: of background and foreground); None for equal
            weights.

    Raises:
        ValueError: shapes that do not belong together.
    """

    def __init__(
        self, logits: Tensor, target: Tensor, task: str, class_weights: Tensor | None = None
    ):
        expected = logits.shape
        if task != "multilabel":
            expected = logits.shape[:1] + logits.shape[2:]
        if target.shape != expected:
            raise ValueError(
                f"the target of {task} logits {tuple(logits.shape)} must have the shape"
                f" {tuple(expected)}, got {tuple(target.shape)}"
            )
        if task == "binary" and logits.shape[1] != 1:
            raise ValueError(f"a binary task has 1 logit per pixel, got {logits.shape[1]}")
        self.logits, self.task = logits, task
        self.target = target if task == "multilabel" else target.unsqueeze(1)
        self.class_weights = class_weights
        if class_weights is not None:
            self.class_weights = class_weights.to(logits)

    @cached_property
    def valid(self) -> Tensor:
        """v: bool (B, N, H, W), or (B, 1, H, W) of a binary or multiclass task."""
        return self.target != IGNORE_INDEX

    @cached_property
    def one_hot(self) -> Tensor:
        """t: (B, N, H, W) floats, 0 at ignored pixels."""
        if self.task != "multiclass":
            return (self.target == 1).to(self.logits)
        classes = torch.arange(self.logits.shape[1], device=self.logits.device)
        return (self.target == classes.view(1, -1, 1, 1)).to(self.logits)

    @cached_property
    def probabilities(self) -> Tensor:
        """p: (B, N, H, W), 0 at ignored pixels."""
        if self.task == "multiclass":
            probabilities = torch.softmax(self.logits, dim=1)
        else:
            probabilities = torch.sigmoid(self.logits)
        return torch.where(self.valid, probabilities, 0.0)

    @cached_property
    def log_likelihood(self) -> Tensor:
        """Log-probability of the target, of the shape of `valid`; 0 at ignored pixels."""
        if self.task == "multiclass":
            loss = F.cross_entropy(
                self.logits, self.target[:, 0], ignore_index=IGNORE_INDEX, reduction="none"
            )
            return -loss.unsqueeze(1)
        loss = F.binary_cross_entropy_with_logits(self.logits, self.one_hot, reduction="none")
        return torch.where(self.valid, -loss, 0.0)

    @cached_property
    def pixel_weights(self) -> Tensor:
        """Weight of each pixel's class, of the shape of `valid`; 0 at ignored pixels."""
        valid = self.valid.to(self.logits)
        if self.class_weights is None:
            return valid
        if self.task == "multilabel":
            return valid * self.class_weights.view(1, -1, 1, 1)
        return valid * self.class_weights[torch.where(self.valid, self.target, 0)]

    def mean_over_pixels(self, values: Tensor) -> Tensor:
        """sum_i w_i values_i / sum_i w_i for values of the shape of `valid`; 0 without valid
        pixels.
        """
        return (values * self.pixel_weights).sum() / self.pixel_weights.sum().clamp_min(1e-12)

    def mean_over_classes(self, values: Tensor, used: Tensor | None = None) -> Tensor:
        """sum_c w_c values_c / sum_c w_c for values (N,), over the classes where `used` (N,) is
        True; 0 if there is none.

        A binary task has a single value, that of the foreground, and no weights.
        """
        weights = torch.ones_like(values)
        if self.class_weights is not None and self.task != "binary":
            weights = self.class_weights
        if used is not None:
            weights = weights * used
        return (values * weights).sum() / weights.sum().clamp_min(1e-12)

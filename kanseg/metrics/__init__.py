"""Scores of predictions, the same for any batch size, order and number of processes."""

from kanseg.metrics.classification import ClassificationMetrics, classification_table
from kanseg.metrics.segmentation import SCORES, SegmentationMetrics, confusion_matrices, predicted_classes, scores, table

__all__ = [
    "SCORES",
    "ClassificationMetrics",
    "SegmentationMetrics",
    "classification_table",
    "confusion_matrices",
    "predicted_classes",
    "scores",
    "table",
]

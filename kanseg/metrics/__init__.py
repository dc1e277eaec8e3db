"""Scores of predictions, the same for any batch size, order and number of processes."""

from kanseg.metrics.calibration import Calibration, calibrations
from kanseg.metrics.classification import ClassificationMetrics, classification_table
from kanseg.metrics.confusion import SCORES, confusion_matrices, outcomes, scores
from kanseg.metrics.segmentation import SegmentationMetrics
from kanseg.metrics.surfaces import SURFACE_SCORES, SurfaceOptions, boundary_counts, surface_scores
from kanseg.metrics.u_kan import u_kan_scores

__all__ = [
    "SCORES",
    "SURFACE_SCORES",
    "Calibration",
    "ClassificationMetrics",
    "SegmentationMetrics",
    "SurfaceOptions",
    "boundary_counts",
    "calibrations",
    "classification_table",
    "confusion_matrices",
    "outcomes",
    "scores",
    "surface_scores",
    "u_kan_scores",
]

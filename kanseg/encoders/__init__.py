"""Encoders: image -> feature pyramid."""

from kanseg.encoders.external import ForeignEncoder, foreign_encoder, is_foreign
from kanseg.encoders.pyramid import (
    ENCODERS,
    Encoder,
    check_size,
    residual_encoder,
    scaled,
    stacked_encoder,
)
from kanseg.encoders.stems import check_width, first_stages, shrinking_stem

__all__ = [
    "ENCODERS",
    "Encoder",
    "ForeignEncoder",
    "check_size",
    "check_width",
    "first_stages",
    "foreign_encoder",
    "is_foreign",
    "residual_encoder",
    "scaled",
    "shrinking_stem",
    "stacked_encoder",
]

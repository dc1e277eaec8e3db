"""Encoders: image -> feature pyramid."""

from kanseg.encoders.external import ExternalEncoder, external_encoder, is_external
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
    "ExternalEncoder",
    "check_size",
    "check_width",
    "first_stages",
    "external_encoder",
    "is_external",
    "residual_encoder",
    "scaled",
    "shrinking_stem",
    "stacked_encoder",
]

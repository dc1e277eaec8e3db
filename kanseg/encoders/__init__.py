"""Encoders: image -> feature pyramid."""

from kanseg.encoders.external import (
    EncoderWeights,
    ExternalEncoder,
    ImageStatistics,
    external_encoder,
    find_encoder_weights,
    full_encoder_name,
    is_external,
    stored_statistics,
)
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
    "EncoderWeights",
    "ExternalEncoder",
    "ImageStatistics",
    "check_size",
    "check_width",
    "first_stages",
    "external_encoder",
    "find_encoder_weights",
    "full_encoder_name",
    "is_external",
    "residual_encoder",
    "scaled",
    "shrinking_stem",
    "stored_statistics",
    "stacked_encoder",
]

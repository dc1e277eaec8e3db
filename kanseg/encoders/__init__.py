"""Encoders: image -> feature pyramid."""

from kanseg.encoders.foreign import ForeignEncoder, foreign_encoder, is_foreign
from kanseg.encoders.pyramid import ENCODERS, Encoder, residual_encoder, stacked_encoder

__all__ = ["ENCODERS", "Encoder", "ForeignEncoder", "foreign_encoder", "is_foreign", "residual_encoder", "stacked_encoder"]

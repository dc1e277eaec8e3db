"""Encoders: image -> feature pyramid."""

from kanseg.encoders.pyramid import ENCODERS, Encoder, residual_encoder, scaled, stacked_encoder

__all__ = ["ENCODERS", "Encoder", "residual_encoder", "scaled", "stacked_encoder"]

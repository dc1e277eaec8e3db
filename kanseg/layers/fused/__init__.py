"""Fused basis convolution: one differentiable step that saves its input, not the basis values.

Import `basis_convolution` and related functions from `kanseg.layers.fused.functional`.
"""

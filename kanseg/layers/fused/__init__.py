"""Basis and convolution in one differentiable step that keeps its input, not the basis values.

Import `basis_convolution` and its relatives from the module `functional`.
"""

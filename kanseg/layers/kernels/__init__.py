"""Kernels of learned activations: polynomials by Horner's rule and tables, on CPU and GPU.

Only `kanseg.layers.activation` needs them.
"""

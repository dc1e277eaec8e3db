"""Layers, networks and checkpoints of other libraries: `kanseg.compat.torch_conv_kan`. Nothing else
in kanseg imports from here.
"""

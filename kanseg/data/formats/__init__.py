"""Readers of the layouts of a data set on disk, one module per layout.

Import `open_data` from `kanseg.data`.
"""

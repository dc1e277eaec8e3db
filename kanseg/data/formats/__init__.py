"""Layouts of a data set on disk -> its samples, one file a layout.

Import `open_data` from `kanseg.data`.
"""

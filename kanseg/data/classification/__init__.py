"""Labeled images -> tensors: formats on disk, augmentation, the dataset.

Import from `kanseg.data`.
"""

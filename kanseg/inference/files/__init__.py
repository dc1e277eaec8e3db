"""Predict files of images and videos, and write files of masks.

Import from `kanseg.inference`.
"""

"""Files of images and videos -> files of masks.

Import from `kanseg.inference`.
"""

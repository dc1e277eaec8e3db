"""Transforms of other libraries, named in the settings and applied to an image and its mask."""

"""Image and mask files <-> arrays: PNG, JPEG, TIFF, polygons and run lengths.

Import from the modules; `kanseg.data` has `read_image` and `write_png`.
"""

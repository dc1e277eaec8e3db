"""Read and write image and mask files as arrays: PNG, JPEG, TIFF, polygons and run lengths.

Import from the modules; `kanseg.data` has `read_image` and `write_png`.
"""

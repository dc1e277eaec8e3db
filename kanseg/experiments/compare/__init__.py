"""Variants of an experiment, each with several seeds, and studies over several data sets.

Import from the modules.
"""

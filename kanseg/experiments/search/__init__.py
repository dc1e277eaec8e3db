"""A search for the settings that score best on validation splits.

Import `search` from the module of this name.
"""

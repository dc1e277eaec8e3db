"""Shared helpers that import nothing else of kanseg: errors, registries, files, text.

Import from the modules.
"""

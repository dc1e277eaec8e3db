"""Images for people: panels of samples, learning curves, confusion matrices, the report of a run.

Import from the modules.
"""

"""Evaluate a network on a split of a data set, and write tables of scores.

Import from the modules.
"""

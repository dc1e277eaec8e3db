"""A network on a split of a data set -> tables of scores.

Import from the modules.
"""

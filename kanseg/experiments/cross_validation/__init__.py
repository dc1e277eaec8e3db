"""Cross-validation: train every fold of a data set, and sum up their scores.

Import from the modules.
"""

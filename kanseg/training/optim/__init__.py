"""Optimizers, learning-rate schedules and the moving average of weights.

Import from the modules.
"""

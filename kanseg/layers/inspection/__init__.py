"""Look into the functions of KAN layers: their curves, statistics of them over data, and formulas
in place of them.
"""

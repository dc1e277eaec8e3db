"""Many runs: comparisons of variants, searches for settings, tables of finished runs.

Import from the modules.
"""

"""What every other part uses, and what knows none of them: errors, registries, files, text.

Import from the modules.
"""

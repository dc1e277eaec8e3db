"""What a trained network has learned, and what it can do without: `curves`, `health`, `response`,
`attribution`, `saliency` and `formulas` of a network; `page`, `snap` and `pruning` of a checkpoint.

Import from the modules.
"""

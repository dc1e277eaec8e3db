"""Which samples train, validate and test: assigned by hash, recorded in a run, compared later.

Import the assignment from here, `SplitRecord` and its comparisons from their modules.
"""

from kanseg.data.splits.assign import (
    SPLITS,
    check_folds,
    crossing_groups,
    cut_folds,
    group_each,
    seeded_split,
    share_of,
)

__all__ = [
    "SPLITS",
    "check_folds",
    "crossing_groups",
    "cut_folds",
    "group_each",
    "seeded_split",
    "share_of",
]

"""Structured pruning: remove the channels, basis branches and functions that matter least on data.

`find_units` lists what could be removed, `exact_units` what can be, `rank` orders it, and `prune`
removes the first of the list. `kanseg.explain.pruning.curve` does all of it for a checkpoint, with
fine-tuning and scores (`kanseg prune`).
"""

from kanseg.explain.pruning.importance import CRITERIA, rank
from kanseg.explain.pruning.remove import Pruned, exact_units, masked, prune, remove
from kanseg.explain.pruning.units import Unit, find_units

__all__ = [
    "CRITERIA",
    "Pruned",
    "Unit",
    "exact_units",
    "find_units",
    "masked",
    "prune",
    "rank",
    "remove",
]

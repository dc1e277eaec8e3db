"""Structured pruning: remove the channels, basis branches and functions that matter least on data.

`find_units` lists what can be removed, `rank` orders it, `prune` removes the first of the list;
`prune_curve` does all of it for a checkpoint, with fine-tuning and scores (`kanseg prune`).
"""

from kanseg.explain.pruning.importance import CRITERIA, rank
from kanseg.explain.pruning.remove import Pruned, masked, prune, remove
from kanseg.explain.pruning.units import Unit, find_units

__all__ = ["CRITERIA", "Pruned", "Unit", "find_units", "masked", "prune", "rank", "remove"]

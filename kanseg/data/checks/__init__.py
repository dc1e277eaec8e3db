"""Look at every file of a data set, report all faults at once, and remember what was seen."""

from kanseg.data.checks.cache import cache_folder
from kanseg.data.checks.check import check_data, check_samples
from kanseg.data.checks.kinds import KINDS, Issue
from kanseg.data.checks.report import Report
from kanseg.data.checks.statistics import Statistics

__all__ = ["KINDS", "Issue", "Report", "Statistics", "cache_folder", "check_data", "check_samples"]

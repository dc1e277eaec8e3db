"""Check every file of a data set, report all problems at once, and cache what was found."""

from kanseg.data.checks.cache import cache_folder
from kanseg.data.checks.check import check_data, check_samples
from kanseg.data.checks.report import Report
from kanseg.data.checks.statistics import Statistics
from kanseg.data.formats.issues import KINDS, Issue

__all__ = ["KINDS", "Issue", "Report", "Statistics", "cache_folder", "check_data", "check_samples"]

"""What a model costs, and where it errs: the library under tools/analyze.py."""

from .cost import StageCost, measure_cost
from .errors import ErrorReport, find_errors

__all__ = ["ErrorReport", "StageCost", "find_errors", "measure_cost"]

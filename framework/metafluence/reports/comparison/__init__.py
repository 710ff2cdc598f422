"""The report of several variations or stores: what is merged, verdict and page."""

from metafluence.reports.comparison.merged import Merged, merged
from metafluence.reports.comparison.report import write_comparison
from metafluence.reports.comparison.side_by_side import SideBySide, compare_stores
from metafluence.reports.comparison.verdict_sentences import comparison_verdict

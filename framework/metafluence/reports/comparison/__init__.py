"""The report of several variations or stores: means over seeds, tables, figures, verdict and page."""

from metafluence.reports.comparison.report import Merged, merged, write_comparison
from metafluence.reports.comparison.tables import brief_table
from metafluence.reports.comparison.verdict_sentences import comparison_verdict

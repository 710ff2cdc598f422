"""The report of one study: its table, figures, verdict and page."""

from metafluence.reports.study.figures import NOUNS
from metafluence.reports.study.report import write_report
from metafluence.reports.study.result_table import COLUMN, COLUMNS, Column, cell, columns, table
from metafluence.reports.study.verdicts import verdict

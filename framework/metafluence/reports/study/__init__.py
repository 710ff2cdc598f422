"""The report of one study: its verdict and page; and a damping sweep of one study."""

from metafluence.reports.study.damping_sweep import sweep_cells, write_sweep
from metafluence.reports.study.report import write_report
from metafluence.reports.study.section import level_section
from metafluence.reports.study.verdicts import verdict

"""The report of one study: its verdict and page; a damping sweep of one study; the scores of a recorded run."""

from metafluence.reports.study.answers import answers, overview_table
from metafluence.reports.study.cleaning_files import cleaning_answer, write_cleaning
from metafluence.reports.study.damping_sweep import sweep_cells, write_sweep
from metafluence.reports.study.report import write_report
from metafluence.reports.study.run_report import ends_table, run_answer, write_scores
from metafluence.reports.study.section import level_section
from metafluence.reports.study.verdicts import verdict

"""The figures of reports, each in a file of its name."""

from metafluence.reports.figures.damping_sweep import damping_figure
from metafluence.reports.figures.error_budget import error_budget
from metafluence.reports.figures.fidelity_against_runtime import on_front
from metafluence.reports.figures.harmful_and_helpful import drawn_ends, ends, exhibit, judge
from metafluence.reports.figures.level import level_figures
from metafluence.reports.figures.predicted_against_true import predicted_against_true
from metafluence.reports.figures.run_trust import trust_figure
from metafluence.reports.figures.solver_grid import grid_figures

"""Pages, tables and figures: what all reports share; one study's report in `study`, of several in `comparison`."""

from metafluence.reports.captions import FIGURE_TEXT, OVER_SEEDS
from metafluence.reports.damping_sweep import sweep_cells, write_sweep
from metafluence.reports.page import BROAD, picture, write_page
from metafluence.reports.point_labels import label_points
from metafluence.reports.similar_messages import alike
from metafluence.reports.solver_figures import draw_grid
from metafluence.reports.style import COLOURS, MARKERS, RED, legend, line, single
from metafluence.reports.task_pictures import HALVES, draw_curve, draw_image, drawn_as, points_of, share_legend
from metafluence.reports.task_preview import Summary, summarise, write_preview
from metafluence.reports.text_table import NOTHING, Better, best_cells, filled, write_tables

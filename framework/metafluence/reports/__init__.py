"""What all reports share: groups of outcomes, tables and their columns, pages, style; figures lie in `figures`."""

from metafluence.reports.attempts import Attempts, Notice
from metafluence.reports.captions import caption
from metafluence.reports.columns import Column, columns, comparable, known_columns
from metafluence.reports.data_dictionary import PARAMETER, SETTING
from metafluence.reports.extremes_table import extremes_table
from metafluence.reports.groups import (
    Array,
    Group,
    Mean,
    Method,
    common_seeds,
    compared,
    groups,
    lines,
    mean,
    mean_curve,
    methods,
    named,
    retrains,
    study_group,
    values,
    with_seeds,
    words_of,
)
from metafluence.reports.page import BROAD, write_page
from metafluence.reports.plain_text import in_figure, write_csv
from metafluence.reports.point_labels import label_points
from metafluence.reports.results import Results, load_results, write_parquet, write_results
from metafluence.reports.style import COLOURS, MARKERS, RED, legend, line, png, single
from metafluence.reports.tables import (
    BOLD,
    METHOD,
    Table,
    against,
    level_table,
    metric_tables,
    narrow_table,
    published_table,
)
from metafluence.reports.task_pictures import HALVES, Half, draw_curve, draw_image, drawn_as, points_of, share_legend
from metafluence.reports.task_preview import Summary, summarise, write_preview
from metafluence.reports.text_table import NOTHING, markdown, write_tables
from metafluence.reports.truth_findings import shared_part
from metafluence.reports.verdict import findings, listed
from metafluence.reports.winners import UNINFORMED, rank

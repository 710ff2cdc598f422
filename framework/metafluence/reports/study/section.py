"""The section of a page on one level of items: its tables, for the page and for papers, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from metafluence.reports import (
    Attempts,
    Group,
    against,
    caption,
    extremes_table,
    level_table,
    named,
    narrow_table,
    words_of,
    write_tables,
)
from metafluence.reports.figures import level_figures, on_front
from metafluence.tasks import ITEM_NAMES, Level

Draw = Callable[[], Figure | None]


def level_section(
    study: str, groups: Sequence[Group], level: Level, folder: Path, attempts: Attempts, first: dict[str, Draw]
) -> dict[str, Any]:
    """What the template shows of one level; also writes tables/LEVEL.tex and .md (and the same of
    LEVEL-best-and-worst, where that is asked), and figures/NAME-LEVEL.png.

    Args:
        study: Its name, for the caption of the tables.
        groups: The groups that have this level.
        level: Which items.
        folder: Of the report.
        attempts: Makes the parts, of which any may fail.
        first: What draws the figures that stand before those of all reports, by name.
    """
    noun, several_seeds = ITEM_NAMES[level], any(len(group.outcomes) > 1 for group in groups)
    words = words_of(groups)

    def for_papers() -> None:
        paper = narrow_table(groups, level, "paper")
        about = f"{study}: influence of {noun}, against {words.name}."
        write_tables(folder / "tables", level, paper.titles, paper.rows, paper.best, about)

    attempts.make(f"tables/{level}.tex and {level}.md", for_papers, None)
    table = attempts.make(f"The table of {noun}", lambda: level_table(groups, level).only_filled(), None)
    ends = attempts.make(f"The table of the best and the worst {noun}", lambda: extremes_table(groups, level), None)
    if ends is not None:
        parts = (ends.titles, ends.rows, ends.best, f"{study}: {ends.about}")
        write_tables(folder / "tables", f"{level}-best-and-worst", *parts)
    pictures = []
    for name, draw in {**first, **level_figures(groups, level)}.items():
        title, text = caption(name, words, several_seeds)
        if name == "fidelity-against-runtime" and len(groups) == 1:
            text += front_sentence(groups[0], level)
        pictures.append(attempts.picture(draw, title, text, folder / "figures" / f"{name}-{level}.png"))
    return {
        "title": noun.capitalize(),
        "level": level,
        "against": f"Methods are compared with {words.name}." if table is not None and against(groups, level) else "",
        "tables": [shown for shown in (table, ends) if shown is not None],
        "pictures": [shown for shown in pictures if shown is not None],
    }


def front_sentence(group: Group, level: Level) -> str:
    """Which estimators lie on the Pareto front, the fastest first; empty where there are none."""
    front = [named(method) for method in on_front(group, level)]
    return f" On the front, the fastest first: {', '.join(front)}." if front else ""

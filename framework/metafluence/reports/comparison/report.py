"""One self-contained page for several variations, from one store or many."""

from __future__ import annotations

import base64
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metafluence.registry import write_yaml
from metafluence.reports import (
    BOLD,
    Attempts,
    Group,
    Notice,
    Table,
    caption,
    published_table,
    write_page,
    write_results,
    write_tables,
)
from metafluence.reports.comparison.errors import budget_refusals, budget_table, cell_refusals, mean_cells
from metafluence.reports.comparison.merged import STUDY, Merged
from metafluence.reports.figures import grid_figures
from metafluence.reports.study import level_section
from metafluence.runtime import warn
from metafluence.studies import Published
from metafluence.tasks import ITEM_NAMES, Level


def write_comparison(whole: Merged, folder: str | Path, notice: Notice = warn) -> Path:
    """Write report.html, results.csv and .parquet, scores.parquet, results.json, tables/LEVEL.tex and .md, and
    figures/*.png.

    Args:
        whole: The outcomes.
        folder: Where to write.
        notice: Told in a sentence of each part that could not be made; the page says so too, and holds the rest.

    Returns:
        The page's path.
    """
    folder, attempts = Path(folder), Attempts(notice)
    write_results(folder, whole.outcomes, attempts)
    sections = [_section(whole, level, folder, attempts) for level in whole.levels]
    glossary = {heading: meaning for s in sections for table in s["tables"][:1] for heading, meaning in table.headings}
    return write_page(
        folder / "report.html",
        "comparison.html.j2",
        name=whole.name,
        about=whole.about,
        findings=attempts.make("The verdict", lambda: whole.findings, []),
        lost=whole.lost,
        missing=[id for source in whole.sources for id in source.missing],
        done=len(whole.outcomes),
        sections=sections,
        failed=[(", ".join(who), reason) for reason, who in whole.failed],
        failed_runs=[(", ".join(who), reason) for reason, who in whole.failed_runs],
        warnings=whole.warnings,
        certificates=_certificates(whole),
        budget=attempts.make("The table of the error budget", lambda: budget_table(whole.groups), None),
        unsplit=budget_refusals(whole.groups),
        solvers=_solvers(whole, folder, attempts),
        glossary=list(glossary.items()),
        exhibits=_exhibits(whole),
        links=_links(whole, folder),
        notices=attempts.notices,
        sources=[
            {
                "label": source.label,
                "config": write_yaml(dict(source.raw)),
                "made_with": [(what, value) for what, value in source.versions.items() if value],
            }
            for source in whole.sources
        ],
    )


def _section(whole: Merged, level: Level, folder: Path, attempts: Attempts) -> dict[str, Any]:
    """One level's tables and figures, as the page wants them, with published results beside ours."""
    some = whole.at(level)
    section = level_section(whole.name, some, level, folder, attempts, {})
    for group in some:
        for stated in _published(whole, group):
            if stated.level == level:
                make = partial(published_table, stated, group, level)
                beside = attempts.make(f"The table beside {stated.source}", make, None)
                section["tables"] += [beside.only_filled()] if beside is not None and beside.rows else []
    ranked: dict[str, Table] = attempts.make(f"The ranking of {section['title']}", lambda: whole.rankings(level), {})
    for name, table in ranked.items():
        section["tables"].append(table)
        said = f"{whole.name}: {table.title}. {table.about}"
        write_tables(folder / "tables", f"{level}-{name}", table.titles, table.rows, table.best, said)
    seeds = sorted(Counter(len(group.outcomes) for group in some))
    over = f"Means over {' or '.join(map(str, seeds))} seeds with Student's 95 % interval; of two seeds both values. "
    best = f"In bold{' for each variation' if len(some) > 1 else ''}: {BOLD} A click on a heading sorts."
    return {**section, "about": f"{section['against']} {over if seeds[-1] > 1 else ''}{best}"}


def _published(whole: Merged, group: Group) -> tuple[Published, ...]:
    """What is published beside the study that a group is of."""
    label = group.varied.get(STUDY, "")
    return next((s.published for s in whole.sources if s.published and s.label in ("", label)), ())


def _solvers(whole: Merged, folder: Path, attempts: Attempts) -> list[dict[str, Any]]:
    """The figures of the grids of solvers, as the page wants them."""
    shown = []
    for number, group in enumerate(whole.groups, start=1):
        for name, draw in grid_figures(mean_cells(group)).items():
            title, text = caption(name, group.words, len(group.outcomes) > 1)
            title = ": ".join(part for part in (title, group.label) if part)
            file = folder / "figures" / f"{name}{f'-{number}' if len(whole.groups) > 1 else ''}.png"
            drawn = attempts.picture(draw, title, text, file)
            if drawn is not None:
                shown.append({**drawn, "reasons": cell_refusals(group) if name == "inner-and-outer-solvers" else []})
    return shown


def _certificates(whole: Merged) -> list[dict[str, Any]]:
    """Verdicts with whom they concern; the seeds of a group that have one verdict stand together."""
    found: list[dict[str, Any]] = []
    for group in whole.groups:
        verdicts: dict[tuple[Level, str, bool], list[str]] = {}
        for one in group.outcomes:
            for c in one.certificates:
                verdicts.setdefault((c.level, c.verdict, c.grade == "sizes and order"), []).append(str(one.seed))
        for (level, verdict, trusted), seeds in verdicts.items():
            which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
            where = ", ".join(part for part in (group.label, which) if part)
            found.append({"noun": ITEM_NAMES[level].capitalize(), "where": where, "verdict": verdict, "ok": trusted})
    return found


def _links(whole: Merged, folder: Path) -> list[tuple[str, str]]:
    """The pages of the variations, from this one."""
    found = [(one.called, page / "report.html") for one, page in zip(whole.outcomes, whole.pages, strict=True)]
    own = (folder / "report.html").resolve()
    return [
        (who, quote(Path(os.path.relpath(page, folder)).as_posix()))
        for who, page in found
        if page.exists() and page.resolve() != own
    ]


def _exhibits(whole: Merged) -> list[dict[str, Any]]:
    """The most harmful and most helpful items of each group's first variation, as its own report shows them."""
    shown = []
    firsts = [group.outcomes[0] for group in whole.groups]
    for one, page in zip(whole.outcomes, whole.pages, strict=True):
        for level in one.sides if any(one is first for first in firsts) else ():
            for name in ("harmful", "helpful"):
                file = page / "figures" / f"{name}-{level}.png"
                if file.exists():
                    title, text = caption(name, one.truth.words)
                    where = f"{title} {ITEM_NAMES[level]}, {one.called}"
                    data = base64.b64encode(file.read_bytes()).decode()
                    shown.append({"title": where, "caption": text, "data": data, "broad": True, "reasons": []})
    return shown

"""One self-contained page for several variations, from one store or many."""

from __future__ import annotations

import base64
import os
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from metafluence.reports import (
    ITEM_NAMES,
    Group,
    caption,
    level_table,
    narrow_table,
    picture,
    published_table,
    rows_frame,
    write_page,
    write_tables,
)
from metafluence.reports.comparison.errors import budget_refusals, budget_table, cell_refusals, draw_solvers
from metafluence.reports.comparison.merged import STUDY, Merged
from metafluence.reports.figures import draw_level
from metafluence.runtime import write_atomically
from metafluence.studies import Published
from metafluence.tasks import Level


def write_comparison(whole: Merged, folder: Path) -> Path:
    """Write report.html, results.csv, tables/LEVEL.tex and .md, and figures/*.png. Returns the page's path."""
    write_atomically(folder / "results.csv", rows_frame(whole.outcomes).to_csv(index=False).encode())
    sections = [_section(whole, level, folder) for level in whole.levels]
    glossary = {h: m for level in whole.levels for h, m in level_table(whole.at(level), level).headings}
    budget = budget_table(whole.groups)
    return write_page(
        folder / "report.html",
        "comparison.html.j2",
        name=whole.name,
        about=whole.about,
        findings=whole.findings,
        lost=whole.lost,
        missing=[id for source in whole.sources for id in source.missing],
        done=len(whole.outcomes),
        sections=sections,
        failed=[(", ".join(who), reason) for reason, who in whole.failed],
        failed_runs=[(", ".join(who), reason) for reason, who in whole.failed_runs],
        warnings=whole.warnings,
        certificates=_certificates(whole),
        budget=budget,
        unsplit=budget_refusals(whole.groups),
        solvers=_solvers(whole, folder),
        glossary=list(glossary.items()),
        exhibits=_exhibits(whole),
        links=_links(whole, folder),
        sources=[
            {
                "label": source.label,
                "config": yaml.safe_dump(dict(source.raw), sort_keys=False, allow_unicode=True),
                "made_with": [(what, value) for what, value in source.versions.items() if value],
            }
            for source in whole.sources
        ],
    )


def _section(whole: Merged, level: Level, folder: Path) -> dict[str, Any]:
    """One level's tables and figures, as the page wants them."""
    some = whole.at(level)
    main = level_table(some, level).only_filled()
    about = f"{whole.name}: influence of {ITEM_NAMES[level]}s."
    paper = narrow_table(some, level, "paper")
    write_tables(folder / "tables", level, paper.titles, paper.rows, paper.best, about)
    tables = [main]
    for group in some:
        beside = [stated for stated in _published(whole, group) if stated.level == level]
        tables += [published_table(stated, group, level).only_filled() for stated in beside]
    seeds = sorted(Counter(len(group.outcomes) for group in some))
    several = seeds[-1] > 1
    pictures = []
    for name, figure in draw_level(some, level).items():
        file = folder / "figures" / f"{name}-{level}.png"
        pictures.append(picture(figure, *caption(name, several), file))
    over = (
        f"Means over {' or '.join(map(str, seeds))} seeds, ± half of Student's 95 % interval; the" if several else "The"
    )
    best = " of each variation" if len(some) > 1 else ""
    return {
        "title": f"{ITEM_NAMES[level].capitalize()}s",
        "level": level,
        "said": f"{over} best estimate{best} in each column is in bold. A click on a heading sorts.",
        "tables": [t for t in tables if t.rows],
        "pictures": pictures,
    }


def _published(whole: Merged, group: Group) -> tuple[Published, ...]:
    """What is published beside the study that a group is of."""
    label = group.varied.get(STUDY, "")
    return next((s.published for s in whole.sources if s.published and s.label in ("", label)), ())


def _solvers(whole: Merged, folder: Path) -> list[dict[str, Any]]:
    """The figures of the grids of solvers, as the page wants them."""
    shown = []
    for number, group in enumerate(whole.groups, start=1):
        for name, figure in draw_solvers(group).items():
            title, text = caption(name, len(group.outcomes) > 1)
            file = folder / "figures" / f"{name}{f'-{number}' if len(whole.groups) > 1 else ''}.png"
            drawn = picture(figure, ": ".join(p for p in (title, group.label) if p), text, file)
            shown.append({**drawn, "reasons": cell_refusals(group) if name == "inner-and-outer-solvers" else []})
    return shown


def _certificates(whole: Merged) -> list[dict[str, Any]]:
    """Verdicts with whom they concern; the seeds of a group that have one verdict stand together."""
    found: list[dict[str, Any]] = []
    for group in whole.groups:
        said: dict[tuple[Level, str, bool], list[str]] = {}
        for one in group.outcomes:
            for c in one.certificates:
                said.setdefault((c.level, c.verdict, c.grade == "sizes and order"), []).append(str(one.seed))
        for (level, verdict, trusted), seeds in said.items():
            which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
            where = ", ".join(part for part in (group.label, which) if part)
            found.append({"noun": f"{ITEM_NAMES[level].capitalize()}s", "where": where, "said": verdict, "ok": trusted})
    return found


def _links(whole: Merged, folder: Path) -> list[tuple[str, str]]:
    """The pages of the variations, from this one."""
    found = [(one.called, page / "report.html") for one, page in zip(whole.outcomes, whole.pages, strict=True)]
    own = (folder / "report.html").resolve()
    return [
        (who, Path(os.path.relpath(page, folder)).as_posix())
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
                    title, text = caption(name)
                    where = f"{title} {ITEM_NAMES[level]}s, {one.called}"
                    data = base64.b64encode(file.read_bytes()).decode()
                    shown.append({"title": where, "caption": text, "data": data, "broad": True, "reasons": []})
    return shown

"""One self-contained page for several variations, from one store or many."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from metafluence.aggregation import Group, groups, mean, rows_frame
from metafluence.budget import SOURCES
from metafluence.captions import FIGURE_TEXT, OVER_SEEDS
from metafluence.comparison import Comparing, Stored
from metafluence.comparison_figures import draw_level
from metafluence.comparison_tables import Table, level_table, published_table
from metafluence.comparison_verdict import comparison_verdict
from metafluence.figures import NOUNS
from metafluence.outcomes import Outcome
from metafluence.pages import picture, write_page
from metafluence.provenance import versions
from metafluence.store import write_atomically
from metafluence.tables import filled, write_tables
from metafluence.tasks import LEVELS, Level
from metafluence.variations import Published


@dataclass(frozen=True)
class Merged:
    """The outcomes of one study, or of several that are reported as one. pages: the folders of their own reports."""

    name: str
    about: str
    outcomes: tuple[Outcome, ...]
    published: Published | None
    raws: tuple[dict[str, object], ...]
    pages: tuple[Path, ...]

    @classmethod
    def of(cls, work: Comparing, outcomes: Sequence[Outcome]) -> Merged:
        """Of a study that was just done."""
        asked = work.comparison
        pages = tuple(work.store.page(one.id, len(outcomes)) for one in outcomes)
        return cls(asked.name, asked.about, tuple(outcomes), asked.published, (asked.raw,), pages)

    @cached_property
    def groups(self) -> list[Group]:
        return groups(self.outcomes)

    @property
    def levels(self) -> list[Level]:
        return [level for level in LEVELS if any(level in group.outcomes[0].sides for group in self.groups)]

    def at(self, level: Level) -> list[Group]:
        """The groups that have that level."""
        return [group for group in self.groups if level in group.outcomes[0].sides]


def merged(stores: Sequence[Stored]) -> Merged:
    """What is finished in stores, as one; where there are several, each study's name is one more thing varied."""
    outcomes: list[Outcome] = []
    for store in stores:
        for one in store.outcomes:
            extra = {"study": store.name} if len(stores) > 1 else {}
            outcomes.append(replace(one, varied={**extra, **one.varied}))
    names = [store.name for store in stores]
    about = str(stores[0].raw.get("about", "")) if len(stores) == 1 else f"{len(stores)} studies: {', '.join(names)}."
    published = next((store.published for store in stores if store.published is not None), None)
    pages = tuple(page for store in stores for page in store.pages)
    raws = tuple(store.raw for store in stores)
    return Merged(" and ".join(dict.fromkeys(names)), about, tuple(outcomes), published, raws, pages)


def write_comparison(whole: Merged, folder: Path) -> Path:
    """Write report.html, results.csv, tables/LEVEL.tex and .md, and figures/*.png. Returns the page's path."""
    write_atomically(folder / "results.csv", rows_frame(whole.outcomes).to_csv(index=False).encode())
    made_with = versions()
    first = level_table(whole.at(whole.levels[0]), whole.levels[0])
    return write_page(
        folder / "report.html",
        "comparison.html.j2",
        name=whole.name,
        about=whole.about,
        verdict=comparison_verdict(whole.outcomes, whole.groups),
        sections=[_section(whole, level, folder) for level in whole.levels],
        failed=[(one.label, one.seed, one.reason) for one in whole.outcomes if one.reason],
        warnings=_warnings(whole),
        certificates=[
            (one.label or "–", str(one.seed), c.level, c.verdict) for one in whole.outcomes for c in one.certificates
        ],
        budget=_budget(whole),
        glossary=first.headings,
        one_group=len(whole.groups) == 1,
        exhibits=_exhibits(whole),
        links=_links(whole, folder),
        configs=[yaml.safe_dump(dict(raw), sort_keys=False, allow_unicode=True) for raw in whole.raws],
        made_with=[(what, value) for what, value in made_with.items() if value],
    )


def _section(whole: Merged, level: Level, folder: Path) -> dict[str, Any]:
    """One level's tables and figures, as the page wants them."""
    some = whole.at(level)
    main = level_table(some, level)
    _write_tables(whole, main, folder / "tables", level)
    tables = [main]
    if whole.published is not None:
        tables += [published_table(whole.published, group, level) for group in some]
    pictures = [
        picture(figure, *OVER_SEEDS[name], folder / "figures" / f"{name}-{level}.png")
        for name, figure in draw_level(some, level).items()
    ]
    counts = Counter(len(group.outcomes) for group in some)
    seeds = " or ".join(str(n) for n in sorted(counts))
    return {
        "title": f"{NOUNS[level].capitalize()}s",
        "said": f"Means over {seeds} seed{'' if seeds == '1' else 's'}, ± half of Student's 95 % interval.",
        "tables": [_shown(t) for t in tables if t.rows],
        "remarks": _remarks(some, level),
        "pictures": pictures,
    }


def _shown(table: Table) -> dict[str, Any]:
    """A table as the page wants it; columns that say nothing are left out."""
    kept = filled(table.rows)
    names = ("variation", "method", "solver")
    headings = [table.headings[i] for i in kept]
    return {
        "title": table.title,
        "headings": [heading for heading, _ in headings],
        "meanings": [meaning for _, meaning in headings],
        "rows": [[row[i] for i in kept] for row in table.rows],
        "text": [i for i, (heading, _) in enumerate(headings) if heading in names],
        "best": [],
    }


def _write_tables(whole: Merged, table: Table, folder: Path, level: Level) -> None:
    shown = _shown(table)
    write_tables(folder, level, shown["headings"], shown["rows"], (), f"{whole.name}: influence of {NOUNS[level]}s.")


def _remarks(some: Sequence[Group], level: Level) -> list[tuple[str, str]]:
    """Why runs failed; runs with one reason stand together."""
    reasons: dict[str, list[str]] = {}
    for group in some:
        for one in group.outcomes:
            for line in one.lines:
                if line.row.level == level and line.row.reason:
                    reasons.setdefault(line.row.reason, []).append(f"{line.row.name} {one.label} seed {one.seed}")
    return [(", ".join(names), reason) for reason, names in reasons.items()]


def _warnings(whole: Merged) -> list[tuple[str, str]]:
    """Warnings, and of how many variations each is one."""
    found = Counter(warning for one in whole.outcomes for warning in one.warnings)
    return [(text, f"{count} of {len(whole.outcomes)} variations") for text, count in found.items()]


def _budget(whole: Merged) -> dict[str, Any] | None:
    """The errors of Δλ by source, means over seeds."""
    rows = []
    for group in whole.groups:
        budgets = [b for one in group.outcomes for b in one.budgets if b.status == "ok"]
        for key in dict.fromkeys((b.level, b.method, b.solver) for b in budgets):
            same = [b for b in budgets if (b.level, b.method, b.solver) == key]
            parts = [mean(getattr(b, source) for b in same).text(".1f", 100, " %") for source in (*SOURCES, "total")]
            rows.append([group.label or "–", *key, *parts])
    headings = ["variation", "level", "method", "solver", *(s.replace("_", " ") for s in SOURCES), "whole error"]
    kept = filled(rows)
    return {"headings": [headings[i] for i in kept], "rows": [[row[i] for i in kept] for row in rows]} if rows else None


def _links(whole: Merged, folder: Path) -> list[tuple[str, str]]:
    """The pages of the variations, from this one."""
    return [
        (f"{one.label} seed {one.seed}".strip(), os.path.relpath(page / "report.html", folder))
        for one, page in zip(whole.outcomes, whole.pages, strict=True)
        if (page / "report.html").exists()
    ]


def _exhibits(whole: Merged) -> list[dict[str, Any]]:
    """The most harmful and most helpful items of each group's first variation, as its own report shows them."""
    shown = []
    firsts = {group.outcomes[0].id for group in whole.groups}
    for one, page in zip(whole.outcomes, whole.pages, strict=True):
        for level in one.sides if one.id in firsts else ():
            for name in ("harmful", "helpful"):
                file = page / "figures" / f"{name}-{level}.png"
                if file.exists():
                    title, caption = FIGURE_TEXT[name]
                    where = f"{title} {NOUNS[level]}s, {one.label} seed {one.seed}".replace(",  ", ", ")
                    data = base64.b64encode(file.read_bytes()).decode()
                    shown.append({"title": where, "caption": caption, "data": data, "broad": True, "reasons": []})
    return shown

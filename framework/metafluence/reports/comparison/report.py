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

from metafluence.reports import FIGURE_TEXT, OVER_SEEDS, alike, picture, write_page, write_tables
from metafluence.reports.comparison.errors import budget_refusals, budget_table, cell_refusals, draw_solvers
from metafluence.reports.comparison.figures import draw_level
from metafluence.reports.comparison.seeds import Group, groups, rows_frame
from metafluence.reports.comparison.tables import WORDS, Table, level_table, only_filled, paper_table, published_table
from metafluence.reports.comparison.verdict_sentences import failures, findings
from metafluence.reports.study import NOUNS
from metafluence.runtime import versions, write_atomically
from metafluence.studies import NOT_ASKED, Comparing, Outcome, Published, Stored
from metafluence.tasks import LEVELS, Level

STUDY = "study"
"""The name under which the study is one more thing that is varied."""
NO_MATTER = (NOT_ASKED - {"name"}) | {"seed", "seeds"}
"""The parts in which stores of one study may differ, done in several places with other seeds in each."""


@dataclass(frozen=True)
class Reported:
    """A store that is reported. label: its study's, where there are several; missing: ids of unfinished variations."""

    label: str
    raw: dict[str, object]
    versions: dict[str, str | None]
    published: tuple[Published, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Merged:
    """The outcomes of one study, or of several that are reported as one. pages: the folders of their own reports."""

    name: str
    about: str
    outcomes: tuple[Outcome, ...]
    sources: tuple[Reported, ...]
    pages: tuple[Path, ...]

    @classmethod
    def of(cls, work: Comparing, outcomes: Sequence[Outcome]) -> Merged:
        """Of a study that was just done."""
        asked = work.comparison
        pages = tuple(work.store.page(one.id, len(outcomes)) for one in outcomes)
        source = Reported("", asked.raw, versions(), asked.published)
        return cls(asked.name, asked.about, tuple(outcomes), (source,), pages)

    @cached_property
    def groups(self) -> list[Group]:
        return groups(self.outcomes)

    @property
    def levels(self) -> list[Level]:
        return [level for level in LEVELS if any(level in group.outcomes[0].sides for group in self.groups)]

    def at(self, level: Level) -> list[Group]:
        """The groups that have that level."""
        return [group for group in self.groups if level in group.outcomes[0].sides]

    @property
    def findings(self) -> list[tuple[str, list[str]]]:
        """By group, what it found in sentences."""
        return [(group.label, findings(group)) for group in self.groups]

    @property
    def lost(self) -> tuple[str, str]:
        """How many variations and how many runs failed, in a sentence each; empty where none did."""
        return failures(self.outcomes)

    @property
    def failed(self) -> list[tuple[str, list[str]]]:
        """Why variations failed, and which; reasons that differ in numbers alone stand together."""
        return alike((one.reason, one.called) for one in self.outcomes if one.reason)

    @property
    def failed_runs(self) -> list[tuple[str, list[str]]]:
        """The same of runs."""
        rows = [(one, line.row) for one in self.outcomes for line in one.lines if line.row.reason]
        done = sum(not one.reason for one in self.outcomes)
        found = alike((row.reason, (one, row.name)) for one, row in rows)
        return [(reason, _gathered(some, done)) for reason, some in found]

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """Warnings, those that differ in numbers alone as one, and of how many variations each is."""
        found = alike((text, one.id) for one in self.outcomes for text in one.warnings)
        count = len(self.outcomes)
        return [(text, f"{len(set(ids))} of {count} variations" if count > 1 else "") for text, ids in found]


def merged(stores: Sequence[Stored]) -> Merged:
    """What is finished in stores, as one.

    Where there are several studies, the study is one more thing varied. Stores of one study, done with other seeds in
    each, are that study with all seeds; what is in several of them is taken from the first.
    """
    labels = _labels(stores)
    several = len(set(labels)) > 1
    found: dict[tuple[str, str], tuple[Outcome, Path]] = {}
    for store, label in zip(stores, labels, strict=True):
        for one, page in zip(store.outcomes, store.pages, strict=True):
            extra = {STUDY: label} if several else {}
            found.setdefault((label, one.id), (replace(one, varied={**extra, **one.varied}), page))
    done = {key[1] for key in found}
    sources = tuple(
        Reported(
            label if several else "",
            store.raw,
            store.versions,
            store.published,
            tuple(id for id in store.missing if several or id not in done),
        )
        for store, label in zip(stores, labels, strict=True)
    )
    names = list(dict.fromkeys(labels if several else [store.name for store in stores]))
    about = f"{len(names)} studies: {', '.join(names)}." if several else str(stores[0].raw.get("about", ""))
    outcomes, pages = zip(*found.values(), strict=True)
    return Merged(" and ".join(names), about, outcomes, sources, pages)


def _labels(stores: Sequence[Stored]) -> list[str]:
    """What each store's study is called: its name, and where different ones have the same, their folders besides."""
    asked = [{k: v for k, v in store.raw.items() if k not in NO_MATTER} for store in stores]
    first = [asked.index(one) for one in asked]
    names: dict[int, str] = {}
    for i in dict.fromkeys(first):
        others = [j for j in set(first) if j != i and stores[j].name == stores[i].name]
        alone = all(stores[j].folder.name != stores[i].folder.name for j in others)
        folder = stores[i].folder.name if alone else str(stores[i].folder)
        names[i] = f"{stores[i].name} ({folder})" if others else stores[i].name
    return [names[i] for i in first]


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
        budget=_shown(budget) if budget is not None else None,
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
    main = only_filled(level_table(some, level))
    caption = f"{whole.name}: influence of {NOUNS[level]}s."
    brief = paper_table(some, level)
    write_tables(folder / "tables", level, [heading for heading, _ in brief.headings], brief.rows, brief.best, caption)
    tables = [main]
    for group in some:
        beside = [stated for stated in _published(whole, group) if stated.level == level]
        tables += [only_filled(published_table(stated, group, level)) for stated in beside]
    seeds = sorted(Counter(len(group.outcomes) for group in some))
    several = seeds[-1] > 1
    pictures = []
    for name, figure in draw_level(some, level).items():
        title, caption, over = OVER_SEEDS[name]
        file = folder / "figures" / f"{name}-{level}.png"
        pictures.append(picture(figure, title, f"{caption} {over}" if several else caption, file))
    over = (
        f"Means over {' or '.join(map(str, seeds))} seeds, ± half of Student's 95 % interval; the" if several else "The"
    )
    best = " of each variation" if len(some) > 1 else ""
    return {
        "title": f"{NOUNS[level].capitalize()}s",
        "level": level,
        "said": f"{over} best estimate{best} in each column is in bold. A click on a heading sorts.",
        "tables": [_shown(t) for t in tables if t.rows],
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
            title, caption, over = OVER_SEEDS[name]
            several = len(group.outcomes) > 1
            file = folder / "figures" / f"{name}{f'-{number}' if len(whole.groups) > 1 else ''}.png"
            drawn = picture(figure, ": ".join(p for p in (title, group.label) if p), caption, file)
            if several:
                drawn["caption"] += f" {over}"
            shown.append({**drawn, "reasons": cell_refusals(group) if name == "inner-and-outer-solvers" else []})
    return shown


def _shown(table: Table) -> dict[str, Any]:
    """A table as the page wants it."""
    headings = [heading for heading, _ in table.headings]
    return {
        "title": table.title,
        "headings": headings,
        "meanings": [meaning for _, meaning in table.headings],
        "rows": table.rows,
        "text": [i for i, heading in enumerate(headings) if heading in WORDS],
        "best": table.best,
    }


def _gathered(some: Sequence[tuple[Outcome, str]], done: int) -> list[str]:
    """Runs in words: by name, with the variations in which it is so."""
    found: dict[str, list[str]] = {}
    for one, name in some:
        found.setdefault(name, []).append(one.called)
    where = {name: list(dict.fromkeys(who)) for name, who in found.items()}
    return [f"{name}, {'everywhere' if len(who) == done > 1 else '; '.join(who)}" for name, who in where.items()]


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
            found.append({"noun": f"{NOUNS[level].capitalize()}s", "where": where, "said": verdict, "ok": trusted})
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
                    title, caption = FIGURE_TEXT[name]
                    where = f"{title} {NOUNS[level]}s, {one.called}"
                    data = base64.b64encode(file.read_bytes()).decode()
                    shown.append({"title": where, "caption": caption, "data": data, "broad": True, "reasons": []})
    return shown

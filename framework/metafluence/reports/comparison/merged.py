"""The outcomes that one page reports: of one study, or of several stores merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from metafluence.reports import Group, Table, groups
from metafluence.reports.comparison.contradictions import contradictions
from metafluence.reports.comparison.ranking import marginals, ranking_table, rankings
from metafluence.reports.comparison.verdict_sentences import failures, group_findings
from metafluence.sentences import alike
from metafluence.studies import NOT_ASKED, Comparing, Outcome, Published, Stored
from metafluence.tasks import ITEM_NAMES, LEVELS, Level

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
    contradictions: tuple[str, ...] = ()
    """Where stores that are one study do not agree, in sentences."""

    @classmethod
    def of(cls, work: Comparing, outcomes: Sequence[Outcome]) -> Merged:
        """Of a study that was just done."""
        asked = work.comparison
        pages = tuple(work.store.page(one.id, len(outcomes)) for one in outcomes)
        source = Reported("", asked.raw, work.versions, asked.published)
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
        """What was found over all variations, and by group, in sentences."""
        return [(label, sentences) for label, sentences in group_findings(self.groups) if sentences]

    def rankings(self, level: Level) -> dict[str, Table]:
        """Methods, and solvers and methods apart, ranked over all variations, by name; none of one variation."""
        some, noun = self.at(level), ITEM_NAMES[level].capitalize()
        if len(some) < 2:
            return {}
        made = {
            "ranking": ranking_table(rankings(some, level), f"{noun}: ranked over all variations"),
            "solvers-and-methods": ranking_table(marginals(some, level), f"{noun}: solvers and methods apart"),
        }
        return {name: table for name, table in made.items() if table is not None}

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
        told = [(text, f"{len(set(ids))} of {count} variations" if count > 1 else "") for text, ids in found]
        return [*((text, "") for text in self.contradictions), *told]


def merged(stores: Sequence[Stored]) -> Merged:
    """What is finished in stores, as one.

    Where there are several studies, the study is one more thing varied. Stores of one study, done with other seeds in
    each, are that study with all seeds; what is in several of them is taken from the first; where they contradict
    each other, sentences say so.
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
    return Merged(" and ".join(names), about, outcomes, sources, pages, contradictions(stores, labels))


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


def _gathered(some: Sequence[tuple[Outcome, str]], done: int) -> list[str]:
    """Runs in words: by name, with the variations in which it is so."""
    found: dict[str, list[str]] = {}
    for one, name in some:
        found.setdefault(name, []).append(one.called)
    where = {name: list(dict.fromkeys(who)) for name, who in found.items()}
    return [f"{name}, {'everywhere' if len(who) == done > 1 else '; '.join(who)}" for name, who in where.items()]

"""The tables of a report: methods by columns for each group of outcomes, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metafluence.reports.columns import Column, Place, columns, known_columns, metric_columns
from metafluence.reports.groups import Group, Mean, Method, compared, lines, mean, methods, named, number_text, words_of
from metafluence.reports.text_table import NOTHING, filled
from metafluence.reports.winners import rank
from metafluence.studies import METRIC, Outcome, Published, PublishedRow
from metafluence.tasks import Level


@dataclass(frozen=True)
class Table:
    """A title, headings with their meanings, and rows of text as long as the headings.

    best: where the best value of each column stands, as (row, column), among the estimators of each group.
    words: numbers of the columns that hold words. about: what stands above it.
    """

    title: str
    headings: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    words: tuple[int, ...] = (0,)
    about: str = ""

    @property
    def titles(self) -> list[str]:
        """The headings without their meanings."""
        return [heading for heading, _ in self.headings]

    def only_filled(self) -> Table:
        """The same without the columns that are empty in every row."""
        kept = filled(self.rows)
        return Table(
            self.title,
            tuple(self.headings[i] for i in kept),
            tuple(tuple(row[i] for i in kept) for row in self.rows),
            frozenset((r, kept.index(c)) for r, c in self.best if c in kept),
            tuple(kept.index(c) for c in self.words if c in kept),
            self.about,
        )


BOLD = "the best estimate of each column, and those that a paired test, where there is one, cannot tell apart from it."
"""What the bold cells of a table are."""
VARIATION = ("variation", "what is varied, but for the seed")
METHOD = (("method", "the estimator"), ("solver", "how it inverts the Hessian"))


def level_table(groups: Sequence[Group], level: Level, place: Place = "page") -> Table:
    """All methods of all groups at one level; first in each group what the methods are compared with.

    Each column's means are over the same seeds in all rows of a group; a method without them has none.
    """
    shown, several = columns(groups, place), len(groups) > 1
    start = (*([VARIATION] if several else []), *METHOD)
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for group in groups:
        label = [group.label] if several else []
        rows += [(*label, *line) for line in _references(group, level, shown)]
        places = {}
        for method in methods(group, level):
            places[method] = len(rows)
            cells = [_cell(group, level, method, column) for column in shown]
            rows.append((*label, _name(group, level, method), method[1], *cells))
        for i, column in enumerate(shown):
            if column.better:
                best |= {(places[method], i + len(start)) for method in _best(group, level, column)}
    headings = (*start, *((c.heading, c.meaning) for c in shown))
    words = tuple(range(len(start))) + tuple(len(start) + i for i, c in enumerate(shown) if c.form == "s")
    return Table(f"{level} level{against(groups, level)}", headings, tuple(rows), frozenset(best), words)


def against(groups: Sequence[Group], level: Level) -> str:
    """Which truth the table is against; empty if nothing was compared with any."""
    sides = [one.sides[level] for group in groups for one in group.outcomes]
    return f", against {words_of(groups).name}" if any(side.left_out for side in sides) else ""


def narrow_table(groups: Sequence[Group], level: Level, place: Place) -> Table:
    """The columns of `level_table` that fit into a terminal or onto a paper's page, as far as they are filled."""
    return level_table(groups, level, place).only_filled()


def metric_tables(group: Group, level: Level) -> list[Table]:
    """The numbers of the study's `metrics`, a table for each metric: narrow enough for a terminal. None where the study
    chooses the columns of its tables, which have them then.
    """
    by_metric: dict[str, list[tuple[str, Column]]] = {}
    chosen = any(one.columns for one in group.outcomes)
    for field, column in ({} if chosen else metric_columns([group])).items():
        metric, _, name = field.removeprefix(METRIC).rpartition(".")
        if field.startswith(METRIC):
            by_metric.setdefault(metric, []).append((name, column))
    tables = []
    for metric, named_columns in by_metric.items():
        rows = tuple(
            (_name(group, level, m), m[1], *(_cell(group, level, m, column) for _, column in named_columns))
            for m in methods(group, level)
        )
        headings = (*METHOD, *((name, column.meaning) for name, column in named_columns))
        tables.append(Table(f"{metric}, {level} level", headings, rows, words=(0, 1)).only_filled())
    return tables


def published_table(published: Published, group: Group, level: Level) -> Table:
    """Published accuracies and times beside ours, for the methods that both have."""
    headings = (
        ("method", f"the estimator; retrain is {group.words.short} without exactly the corrupted items"),
        ("published acc.", f"test accuracy after removal, {published.source}"),
        ("acc. edited", "ours, at λ* + predicted Δλ"),
        (f"acc. {group.words.again}", f"ours, after {group.words.short} without the same items"),
        ("published time", "seconds, divided by those of the published retraining"),
        ("time", "ours: seconds to score all items and to edit λ*, divided by those of one fit from scratch"),
    )
    base = published.rows.get("retrain", PublishedRow()).seconds
    ours = [known_columns()[name] for name in ("accuracy_edited", "accuracy_retrained", "runtime_ratio")]
    rows = []
    for name, stated in published.rows.items():
        ratio = stated.seconds / base if base and stated.seconds is not None else None
        theirs = [_plain(stated.accuracy, ".4f"), _plain(ratio, ".3g")]
        if name == "retrain":
            same, _ = compared(group, level, "accuracy_retrained")
            clean = mean(one.sides[level].clean.accuracy for one in same.outcomes).text(".4f", (0, 1))
            rows.append((name, theirs[0], NOTHING, clean, theirs[1], "1"))
            continue
        known = [method for method in methods(group, level) if method[0] == name]
        for method in known:
            edited, retrained, time = (_cell(group, level, method, column) for column in ours)
            label = name if len(known) == 1 else named(method)
            rows.append((label, theirs[0], edited, retrained, theirs[1], time))
    title = ", ".join(part for part in (f"Beside {published.source}", group.label) if part)
    return Table(title, headings, tuple(rows))


def _references(group: Group, level: Level, shown: Sequence[Column]) -> list[list[str]]:
    """What the methods are compared with, as far as it is known: retraining from other seeds, test quality without
    removing anything, and without exactly the corrupted items.
    """
    what = "loss" if group.outcomes[0].real else "accuracy"
    retrained = f"{what}_retrained"

    def same(field: str) -> tuple[Outcome, ...]:
        return compared(group, level, field)[0].outcomes

    ceilings = {name: [one.sides[level].ceiling for one in same(name)] for name in ("spearman", "lds")}
    rows: list[tuple[str, dict[str, Mean]]] = []
    seeds = max(one.sides[level].ceiling.seeds for one in group.outcomes)
    if seeds:
        agreed = {name: mean(getattr(c, name) for c in some) for name, some in ceilings.items()}
        rows.append((f"retrain, {seeds} other seed{'s' if seeds > 1 else ''}", agreed))
    rows += [
        ("all items", {retrained: mean(getattr(one.full, what) for one in same(retrained))}),
        (
            "without the corrupted",
            {
                retrained: mean(getattr(one.sides[level].clean, what) for one in same(retrained)),
                "runtime_ratio": mean([1.0]),
            },
        ),
    ]
    known = [(name, cells) for name, cells in rows if next(iter(cells.values())).n]
    texts = [[name, "", *(cells.get(c.field, Mean()).text(c.form, c.bounds) for c in shown)] for name, cells in known]
    return [row for row in texts if any(cell != NOTHING for cell in row[2:])]


def _name(group: Group, level: Level, method: Method) -> str:
    failed = sum(line.row.status != "ok" for _, line in lines(group, level, method))
    if not failed:
        return method[0]
    return f"{method[0]} ({failed} failed)" if len(group.outcomes) > 1 else f"{method[0]} (failed)"


def _cell(group: Group, level: Level, method: Method, column: Column) -> str:
    if column.form == "s":
        return next((str(getattr(line.row, column.field)) for _, line in lines(group, level, method)), "") or NOTHING
    return mean(compared(group, level, column.field)[1].get(method, ())).text(column.form, column.bounds)


def _best(group: Group, level: Level, column: Column) -> tuple[Method, ...]:
    """The best estimators by a column, as `BOLD` says; none of one alone, and none at chance."""
    ranking = rank(group, level, column)
    if ranking.chance or len(ranking.order) < 2:
        return ()
    if ranking.best:
        return ranking.best
    texts = {method: number_text(ranking.means[method].value, column.form) for method in ranking.order}
    return tuple(method for method, text in texts.items() if text == texts[ranking.order[0]])


def _plain(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)

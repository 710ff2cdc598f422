"""The tables of several variations: means over seeds with their 95 % intervals, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metafluence.reports import NOTHING, Better, best_cells, filled
from metafluence.reports.comparison.seeds import Group, Method, lines, mean, methods, named, runtime_ratios, values
from metafluence.reports.study import COLUMN, Column
from metafluence.studies import Published, PublishedRow
from metafluence.tasks import Level


@dataclass(frozen=True)
class Table:
    """A title, headings with their meanings, and rows of text as long as the headings.

    best: where the best mean of each column stands, as (row, column), among the estimators of each group.
    """

    title: str
    headings: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()


CHANGE, LDS, AUROC, FOUND = (COLUMN[field] for field in ("change_error", "lds", "auroc", "found"))
SPEARMAN = Column(
    "spearman", "Spearman", ".3f", "of scores and exactly retrained changes of the validation loss", better="high"
)
CLASSES = (
    Column(
        "accuracy_edited",
        "acc. edited",
        ".4f",
        "test accuracy at λ* + predicted Δλ of removing the lowest scored",
        better="high",
    ),
    Column(
        "accuracy_retrained", "acc. retrained", ".4f", "test accuracy, retrained without the same items", better="high"
    ),
)
REALS = (
    Column(
        "loss_edited",
        "loss edited",
        ".4f",
        "test loss at λ* + predicted Δλ of removing the lowest scored",
        better="low",
    ),
    Column("loss_retrained", "loss retrained", ".4f", "test loss, retrained without the same items", better="low"),
)
GAP = Column("", "edit − retrained", "+.4f", "mean difference of edited and retrained, seed by seed")
SECONDS = Column("seconds", "seconds", ".3g", "to score all items", better="low")
RATIO = Column(
    "",
    "of a fit",
    ".3g",
    "seconds to score all items and to edit λ*, to those of one fit from scratch in the same run",
    better="low",
)
VARIATION = ("variation", "what is varied, but for the seed")
METHOD = (("method", "the estimator"), ("solver", "how it inverts the Hessian"))
WORDS = ("variation", "method", "solver", "level")
"""Headings of columns that hold words."""


def level_table(groups: Sequence[Group], level: Level) -> Table:
    """All methods of all groups at one level, each group's after two lines of what they are to be measured by."""
    # What a study is mostly asked for stands first, for where a page is too narrow for all of it.
    return _table(groups, level, [CHANGE, *_brief(groups), GAP, RATIO, LDS, FOUND, SECONDS])


def brief_table(groups: Sequence[Group], level: Level) -> Table:
    """The columns of `level_table` that fit into a terminal, as far as they say something."""
    return only_filled(_table(groups, level, [*_brief(groups), RATIO]))


def paper_table(groups: Sequence[Group], level: Level) -> Table:
    """The columns of `level_table` that fit on a paper's page, as far as they say something."""
    return only_filled(_table(groups, level, [*_brief(groups), GAP, RATIO]))


def only_filled(table: Table) -> Table:
    """A table without the columns that say nothing."""
    kept = filled(table.rows)
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    best = frozenset((r, kept.index(c)) for r, c in table.best if c in kept)
    return Table(table.title, tuple(table.headings[i] for i in kept), rows, best)


def _brief(groups: Sequence[Group]) -> list[Column]:
    return [SPEARMAN, AUROC, *_quality(groups)]


def _quality(groups: Sequence[Group]) -> list[Column]:
    """Accuracies where there are classes, losses where there are real targets, both where there are both."""
    real = {group.outcomes[0].real for group in groups}
    return [*(CLASSES if False in real else ()), *(REALS if True in real else ())]


def _table(groups: Sequence[Group], level: Level, columns: Sequence[Column]) -> Table:
    several = len(groups) > 1
    headings = [*([VARIATION] if several else []), *METHOD, *((c.heading, c.meaning) for c in columns)]
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for group in groups:
        start = [group.label] if several else []
        rows += [(*start, *line) for line in _measures(group, level, columns)]
        among = []
        for method in methods(group, level):
            if not method[0].startswith("retrain"):
                among.append(len(rows))
            cells = [_cell(group, level, method, column) for column in columns]
            rows.append((*start, _name(group, level, method), method[1], *cells))
        better: list[Better] = [*[""] * (len(headings) - len(columns)), *(column.better for column in columns)]  # pyright: ignore[reportAssignmentType]
        best |= best_cells(rows, better, among)
    return Table(f"{level} level", tuple(headings), tuple(rows), frozenset(best))


def gaps(group: Group, level: Level, method: Method) -> list[float]:
    """Test accuracy (loss, for real targets) at the edited λ less that after retraining, one a seed."""
    what = "loss" if group.outcomes[0].real else "accuracy"
    edited, retrained = (values(group, level, method, f"{what}_{how}") for how in ("edited", "retrained"))
    return [e - r for e, r in zip(edited, retrained, strict=True)]


def published_table(published: Published, group: Group, level: Level) -> Table:
    """Published accuracies and times beside ours, for the methods that both have."""
    headings = (
        ("method", "the estimator; retrain is retraining without exactly the corrupted items"),
        ("published acc.", f"test accuracy after removal, {published.source}"),
        ("acc. edited", "ours, at λ* + predicted Δλ"),
        ("acc. retrained", "ours, retrained without the same items"),
        ("published time", "seconds, to those of the published retraining"),
        ("time", "ours: seconds to score all items and to edit λ*, to those of one fit from scratch in the same run"),
    )
    base = published.rows.get("retrain", PublishedRow()).seconds
    rows = []
    for name, stated in published.rows.items():
        ratio = stated.seconds / base if base and stated.seconds is not None else None
        theirs = [_plain(stated.accuracy, ".4f"), _plain(ratio, ".3g")]
        if name == "retrain":
            clean = mean(one.sides[level].clean.accuracy for one in group.outcomes).text(".4f")
            rows.append((name, theirs[0], NOTHING, clean, theirs[1], "1"))
            continue
        known = [method for method in methods(group, level) if method[0] == name]
        for method in known:
            ours = [_cell(group, level, method, column) for column in (*CLASSES, RATIO)]
            rows.append((name if len(known) == 1 else named(method), theirs[0], *ours[:2], theirs[1], ours[2]))
    title = ", ".join(part for part in (f"Beside {published.source}", group.label) if part)
    return Table(title, headings, tuple(rows))


def _measures(group: Group, level: Level, columns: Sequence[Column]) -> list[list[str]]:
    """What test quality is without removing anything, and without exactly the corrupted, as far as it is known."""
    what = "loss" if group.outcomes[0].real else "accuracy"
    rows = []
    for name, ratio, found in (
        ("all items", NOTHING, mean(getattr(one.full, what) for one in group.outcomes)),
        ("without the corrupted", "1", mean(getattr(one.sides[level].clean, what) for one in group.outcomes)),
    ):
        if found.n:
            cells = {f"{what}_retrained": found.text(".4f")}
            shown = [ratio if column is RATIO else cells.get(column.field, NOTHING) for column in columns]
            rows.append([name, "", *shown])
    return rows


def _name(group: Group, level: Level, method: Method) -> str:
    failed = sum(line.row.status != "ok" for _, line in lines(group, level, method))
    return f"{method[0]} ({failed} failed)" if failed else method[0]


def _cell(group: Group, level: Level, method: Method, column: Column) -> str:
    if column is GAP:
        found = mean(gaps(group, level, method))
    elif column is RATIO:
        found = mean(runtime_ratios(group, level, method))
    else:
        found = mean(values(group, level, method, column.field))
    return found.text(".1f", 100, " %") if column.form == "%" else found.text(column.form)


def _plain(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)

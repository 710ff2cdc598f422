"""A study in one screen: which method can be trusted, what to remove, how sure that is; all methods in one table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metafluence.evaluation import Run
from metafluence.reports import (
    NOTHING,
    Column,
    Group,
    Method,
    Table,
    known_columns,
    mean,
    methods,
    named,
    rank,
    retrains,
    study_group,
    values,
)
from metafluence.reports.figures import ends, judge
from metafluence.reports.study.item_titles import item_titles
from metafluence.studies import StudyResult
from metafluence.tasks import ITEM_NAMES, Level

NAMED = 2
"""How many items are named as the most harmful ones."""
ERRORS = 2.0
"""Standard errors of the test accuracy that a gain must exceed to be one."""
SHOWN = ("spearman", "change_error")
"""The columns of the table, each for every level."""


def answers(result: StudyResult) -> dict[str, list[str]]:
    """The three questions that a study is run for; for each a sentence for every level where something is known."""
    group, levels = study_group(result), list(result.evaluations)
    found = {
        "Which method can be trusted?": [_trusted(result, group, level) for level in levels],
        "What should be removed?": [_removed(result, group, level) for level in levels],
        "How sure is that?": [_sure(result, group, level) for level in levels],
    }
    return {question: list(filter(None, said)) for question, said in found.items() if any(said)}


def overview_table(result: StudyResult) -> Table:
    """Agreement with the truth of every estimator at every level: Spearman, and the error of the predicted Δλ.

    The one of highest mean Spearman stands first.
    """
    group, levels = study_group(result), list(result.evaluations)
    columns = [known_columns()[name] for name in SHOWN]
    every = dict.fromkeys(m for level in levels for m in methods(group, level) if not retrains(group, level, m))
    order = sorted(every, key=lambda method: -_ranking(group, levels, method))
    rows = [
        (named(method), *(_cell(group, level, method, column) for column in columns for level in levels))
        for method in order
    ]
    headings = [(f"{column.heading}, {level}", column.meaning) for column in columns for level in levels]
    title = f"Agreement with {group.words.name}"
    return Table(title, (("method", "the estimator"), *headings), tuple(rows)).only_filled()


def _ranking(group: Group, levels: Sequence[Level], method: Method) -> float:
    """The mean Spearman of a method over the levels that it has one at; below all others where it has none."""
    found = mean(value for level in levels for value in values(group, level, method, "spearman"))
    return found.value if found.n else -2.0


def _cell(group: Group, level: Level, method: Method, column: Column) -> str:
    known = [value for value in values(group, level, method, column.field) if math.isfinite(value)]
    if not known:
        return NOTHING
    return f"{100 * known[0]:.0f} %" if column.form == "%" else format(known[0], column.form)


def _trusted(result: StudyResult, group: Group, level: Level) -> str:
    """The certificate's grade, and the methods that agree best with the truth."""
    parts = []
    for certificate in (one for one in result.certificates if one.level == level):
        said = {"order": "in the order of items, not in sizes", "neither": "not: retrain what matters"}
        parts.append(f"{certificate.method} {said.get(certificate.grade, 'in sizes and in order')}")
    for field, what in (("change_error", "nearest Δλ"), ("spearman", "best order")):
        best = rank(group, level, known_columns()[field])
        if best.order and not best.chance:
            tied = f", tied with {len(best.best) - 1}" if len(best.best) > 1 else ""
            parts.append(f"{what} by {named(best.order[0])}{tied}")
    return f"{ITEM_NAMES[level]}: {'; '.join(parts)}." if parts else ""


def _removed(result: StudyResult, group: Group, level: Level) -> str:
    """The most harmful items by the method that ranks best, and what retraining without the lowest ones gave."""
    run = judge(result, level)
    if run is None:
        return ""
    bench, titles = result.evaluations[level], item_titles(result.split.train, level)
    harmful = ends(run.scores, run.row.units, NAMED)["harmful"]
    worst = f"{' and '.join(titles[i] for i in harmful)} harm most" if harmful else "none harms"
    return f"{ITEM_NAMES[level]}: {worst}, by {run.row.name}.{_gain(result, run, bench.remove[0], group.words.again)}"


def _gain(result: StudyResult, run: Run, count: int, again: str) -> str:
    """Test quality after retraining without the lowest items, and whether that is more than the test's own error."""
    real = result.split.test.real
    what, after = ("loss", run.row.loss_retrained) if real else ("accuracy", run.row.accuracy_retrained)
    before = result.full.loss if real else result.full.accuracy
    if math.isnan(after):
        return ""
    said = f" Without the lowest {count}, {again}, test {what} {before:.3f} becomes {after:.3f}"
    if real:
        return f"{said}."
    instances = int(result.split.test.held("query").sum())
    error = ERRORS * math.sqrt((before * (1 - before) + after * (1 - after)) / instances)
    gain = "a gain" if after > before else "a loss"
    return f"{said}, {gain if abs(after - before) > error else f'within the error of the test (±{error:.3f})'}."


def _sure(result: StudyResult, group: Group, level: Level) -> str:
    """How well the method that ranks best agrees with the truth, and the truth with itself."""
    run, side = judge(result, level), group.outcomes[0].sides[level]
    if run is None or math.isnan(run.row.spearman):
        return ""
    row, count = run.row, f"{len(side.left_out)} {group.words.again} items"
    said = f"Spearman {row.spearman:.3f}{f' ({row.spearman_interval})' if row.spearman_interval else ''}"
    if not math.isnan(row.change_error):
        said = f"Δλ off by {100 * row.change_error:.1f} %, {said}"
    again = f"; other seeds agree to {side.ceiling.spearman:.3f}" if side.ceiling.seeds else ""
    return f"{ITEM_NAMES[level]}: {said} on {count}{again}."

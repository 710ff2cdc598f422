"""What a group of outcomes found, in sentences: a winner only where a paired test tells it from the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metafluence.evaluation import FEWEST, TruthWords
from metafluence.reports.columns import Column, known_columns
from metafluence.reports.groups import Group, Mean, Method, compared, lines, mean, named, number_text, values
from metafluence.reports.truth_findings import truth_findings
from metafluence.reports.winners import Ranking, rank
from metafluence.tasks import ITEM_NAMES, Level

NAMED = 4
"""So many tied methods are named; of the others, how many there are."""


@dataclass(frozen=True)
class Question:
    """What estimators are compared in: the column's field, what the best one does, what all do, and the value's name.

    chance: what is said of estimators of which none is better than chance. size: signs do not matter.
    """

    field: str
    does: str
    doing: str
    what: str
    chance: str = "No estimator does better than chance in {doing}"
    size: bool = False

    @property
    def column(self) -> Column:
        return known_columns()[self.field]


def questions(noun: str, quality: str, words: TruthWords) -> list[Question]:
    """What is asked at a level. quality: "accuracy", or "loss" for real targets. words: what the truth is called."""
    return [
        Question(
            "change_error", f"predicts best what the model would be after {words.short} without single {noun}",
            f"predicting the model after {words.short} without single {noun}", "median error of Δλ",
            chance="No estimator is better than predicting no change in {doing}",
        ),
        Question(
            "spearman", f"ranks {noun} most like {words.name}",
            f"ranking {noun} like {words.name}", "Spearman",
        ),
        Question("auroc", f"finds the corrupted {noun} best", f"finding the corrupted {noun}", "AUROC"),
        Question(
            "gap", f"comes nearest by its edit to {words.short} without the same {noun}",
            f"editing the model to what {words.short} without the same {noun} gives", f"difference in test {quality}",
            size=True,
        ),
        Question(
            f"{quality}_retrained", f"finds the {noun} whose removal helps most",
            f"finding the {noun} whose removal helps most", f"test {quality} after {words.short}",
            chance=f"Removing the {noun} that an estimator scores lowest does not improve the model",
        ),
    ]  # fmt: skip


def findings(group: Group) -> list[str]:
    """What the outcomes of a group found."""
    return [sentence for level in group.outcomes[0].sides for sentence in level_findings(group, level)]


def level_findings(group: Group, level: Level) -> list[str]:
    """What was found at one level: for each question the winner, or who cannot be told apart."""
    noun, quality = ITEM_NAMES[level], "loss" if group.outcomes[0].real else "accuracy"
    same, _ = compared(group, level, f"{quality}_retrained")
    full = mean(getattr(one.full, quality) for one in same.outcomes)
    sentences = truth_findings(group, level)
    for question in questions(noun, quality, group.words):
        removes = question.field.endswith("_retrained")
        ranking = rank(group, level, question.column, full.value if removes and full.n else None, question.size)
        if not ranking.order:
            continue
        sentence = describe(ranking, question, len(group.outcomes))
        if removes:
            sentence = f"{_measures(same, level, noun, quality, full)} {sentence}"
        sentences.append(f"{sentence}{_cost(group, level, ranking, question)}")
    return sentences


def describe(ranking: Ranking, question: Question, seeds: int) -> str:
    """A ranking in a sentence.

    Args:
        ranking: The estimators by the question's column.
        question: What they are compared in.
        seeds: How many seeds there are; where a method lost some, the others stand for all.
    """
    column, first = question.column, ranking.order[0]

    def value(method: Method) -> str:
        return ranking.means[method].text(column.form.lstrip("+"), column.bounds)

    over = _over(ranking.means[first].n, seeds)
    if ranking.chance:
        start = question.chance.format(doing=question.doing)
        return f"{start} (the best, {named(first)}: {question.what} {value(first)}{over})."
    if len(ranking.order) == 1:
        return f"{_capital(question.doing)}, {named(first)} has {question.what} {value(first)}{over}."
    if not ranking.best:
        last = ranking.order[-1]
        span = f"from {value(first)} ({named(first)}) to {value(last)} ({named(last)})"
        return f"{_capital(question.doing)}: {question.what} {span}{over}; {_few(seeds)} no winner."
    if len(ranking.best) > 1:
        others = "" if ranking.behind is None else f" {named(first)} is ahead of {_lead(ranking, column)}."
        tied = f"{listed([named(method) for method in ranking.best])} cannot be told apart in {question.doing}"
        return f"{tied} ({question.what} {_span(ranking, value)}{over}).{others}"
    if ranking.behind is None:
        start = f"{_capital(question.doing)}: {question.what} {value(first)}{over} ({named(first)})"
        return f"{start}, from which those at or below chance cannot be told apart."
    return f"{named(first)} {question.does} ({question.what} {value(first)}{over}), ahead of {_lead(ranking, column)}."


def inspected_until_all(group: Group, level: Level, method: Method) -> Mean:
    """The share of items inspected, lowest score first, when the last corrupted one is found; over seeds."""
    shares = []
    for _, line in lines(group, level, method):
        found = line.found.numpy()
        if len(found):
            shares.append(float(np.argmax(found >= 1 - 1e-9)) / (len(found) - 1))
    return mean(shares)


def _span(ranking: Ranking, value: Callable[[Method], str]) -> str:
    """The values of the tied methods: one where all are the same, else the first and the last."""
    texts = [value(method) for method in (ranking.best[0], ranking.best[-1])]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def _lead(ranking: Ranking, column: Column) -> str:
    """The first one that is told apart, by how much, and the interval of that."""
    assert ranking.behind is not None
    sign = 1.0 if ranking.lead.value >= 0 else -1.0
    ends = sorted((sign * ranking.lead.low, sign * ranking.lead.high))
    form = column.form.lstrip("+")
    low, high = (number_text(end, form, unit=False) for end in ends)
    return f"{named(ranking.behind)} by {number_text(abs(ranking.lead.value), form)} ({low} to {high})"


def _measures(group: Group, level: Level, noun: str, quality: str, full: Mean) -> str:
    """What test quality is without removing anything, and without exactly the corrupted items."""
    clean = mean(getattr(one.sides[level].clean, quality) for one in group.outcomes)
    bounds = (0.0, 1.0) if quality == "accuracy" else (0.0, math.inf)
    exactly = f", {group.words.again} without exactly the corrupted {clean.text('.3f', bounds)}" if clean.n else ""
    return f"With all {noun} the test {quality} is {full.text('.3f', bounds)}{exactly}."


def _cost(group: Group, level: Level, ranking: Ranking, question: Question) -> str:
    """What is said besides of the one that is named alone: what it costs, or what its scores mean for inspection."""
    if len(ranking.best) != 1:
        return ""
    method = ranking.best[0]
    if question.field == "spearman":
        return f" It scores all in {mean(values(group, level, method, 'seconds')).value:.2g} s."
    if question.field == "auroc":
        inspected = inspected_until_all(group, level, method).text("%", (0, 1))
        return f" All of them stand in the {inspected} that it scores lowest."
    if question.field == "gap":
        ratio = mean(values(group, level, method, "runtime_ratio")).value
        return f" It takes {ratio:.2g} of one fit's time."
    return ""


def _over(used: int, seeds: int) -> str:
    if seeds == 1:
        return ""
    return f" over {seeds} seeds" if used == seeds else f" over the {used} of {seeds} seeds that all have"


def _few(seeds: int) -> str:
    counted = "one seed names" if seeds == 1 else f"{seeds} seeds name"
    return counted if seeds < FEWEST else "nothing that is paired names"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence; of many the first, and how many more."""
    shown = list(names) if len(names) <= NAMED + 1 else [*names[:NAMED], f"{len(names) - NAMED} more"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

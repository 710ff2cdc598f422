"""Outcomes in groups that differ in their seed alone, and means over those seeds. A single study is a group of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metafluence.evaluation import Row, TruthWords, mean_interval, run_name, truth_words
from metafluence.reports.text_table import NOTHING
from metafluence.studies import METRIC, Line, Outcome, StudyResult, Variation, outcome
from metafluence.tasks import Level

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Method = tuple[str, str]
"""A method's label and its solver's."""
NAN = float("nan")


@dataclass(frozen=True)
class Mean:
    """The mean of finite values, one a seed.

    Attributes:
        value: The mean; NaN of no values.
        half: Half the width of Student's 95 % interval about it; NaN of fewer than three values.
        values: What it is the mean of.
    """

    value: float = NAN
    half: float = NAN
    values: tuple[float, ...] = ()

    @property
    def n(self) -> int:
        return len(self.values)

    def text(self, form: str, bounds: tuple[float, float] = (-math.inf, math.inf)) -> str:
        """In words: a mean with its interval, two values as they are, a dash where there is nothing.

        Args:
            form: Format of a number; "%" for a percentage.
            bounds: Values that are possible; an interval that would leave them is written by its ends.
        """
        if not self.n:
            return NOTHING
        if self.n == 2:
            return ", ".join(number_text(value, form) for value in self.values)
        if math.isnan(self.half):
            return number_text(self.value, form)
        low, high = self.value - self.half, self.value + self.half
        if low < bounds[0] or high > bounds[1]:
            ends = " to ".join(
                number_text(min(max(end, bounds[0]), bounds[1]), form, unit=False) for end in (low, high)
            )
            return f"{number_text(self.value, form)} ({ends})"
        return f"{number_text(self.value, form, unit=False)} ± {number_text(self.half, form.lstrip('+'))}"


def number_text(value: float, form: str, unit: bool = True) -> str:
    """A number in a format; "%" is a percentage with one digit, with its sign unless the unit is left out."""
    if form == "%":
        return f"{100 * value:.1f}{' %' if unit else ''}"
    return format(value, form)


def mean(values: Iterable[float]) -> Mean:
    """Of the values that are finite."""
    known = tuple(float(v) for v in values if np.isfinite(v))
    found = mean_interval(known)
    return Mean(found.value, found.high - found.value, known)


def mean_curve(curves: Sequence[Array]) -> tuple[Array, Array]:
    """Of curves [k], each point's mean and half interval [k]; NaN where one of the curves is not finite."""
    means = [mean(column) if np.isfinite(column).all() else Mean() for column in np.stack(curves).T]
    return np.array([m.value for m in means]), np.array([m.half for m in means])


@dataclass(frozen=True)
class Group:
    """The outcomes that differ in their seed alone."""

    varied: dict[str, str]
    outcomes: tuple[Outcome, ...]

    @property
    def label(self) -> str:
        return self.outcomes[0].label

    @property
    def words(self) -> TruthWords:
        """What the truth of its outcomes is called."""
        return words_of([self])


def words_of(groups: Iterable[Group]) -> TruthWords:
    """What the truth of all groups is called."""
    return truth_words(one.truth for group in groups for one in group.outcomes)


def groups(outcomes: Iterable[Outcome]) -> list[Group]:
    """By what is varied, in the order in which it first stands; failed ones are left out."""
    found: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for one in outcomes:
        if not one.reason:
            found.setdefault(tuple(one.varied.items()), []).append(one)
    return [Group(dict(key), tuple(members)) for key, members in found.items()]


def study_group(result: StudyResult) -> Group:
    """A single study as a group of one outcome."""
    return Group({}, (outcome(Variation({}, result.config), result),))


def retrains(group: Group, level: Level, method: Method) -> bool:
    """Whether a method retrains exactly, so that it is what estimators are compared with."""
    return any(line.row.retrains for _, line in lines(group, level, method))


def methods(group: Group, level: Level) -> list[Method]:
    """The methods at a level with their solvers, in the order of the study."""
    rows = [line.row for one in group.outcomes for line in one.lines if line.row.level == level]
    return list(dict.fromkeys((row.method, row.solver) for row in rows))


def lines(group: Group, level: Level, method: Method) -> list[tuple[Outcome, Line]]:
    """A method's runs at a level, one a seed, with the outcomes that they are of."""
    return [
        (one, line)
        for one in group.outcomes
        for line in one.lines
        if line.row.level == level and (line.row.method, line.row.solver) == method
    ]


def common_seeds(known: Iterable[Flags]) -> list[int]:
    """The seeds on which methods are compared, of which seeds each has: those that all of them have.

    A method that has none of the others' seeds is left out rather than the others.
    """
    seeds: Flags | None = None
    for own in sorted(known, key=lambda own: -int(own.sum())):
        both = own if seeds is None else seeds & own
        seeds = both if both.any() else seeds
    return [] if seeds is None else np.flatnonzero(seeds).tolist()


def values(group: Group, level: Level, method: Method, field: str) -> list[float]:
    """A field of a method's rows, or one of `DERIVED`: one value for each seed; NaN where its run failed."""
    value = DERIVED.get(field, lambda one, row: _value(row, field))
    known = {one.id: value(one, line.row) for one, line in lines(group, level, method) if line.row.status == "ok"}
    return [known.get(one.id, NAN) for one in group.outcomes]


def _value(row: Row, field: str) -> float:
    """A field of the row, or one of its metrics."""
    return row.metrics.get(field.removeprefix(METRIC), NAN) if field.startswith(METRIC) else float(getattr(row, field))


def compared(group: Group, level: Level, field: str) -> tuple[Group, dict[Method, list[float]]]:
    """The group with only the seeds on which its methods are compared in a field, and the methods' values with these.

    Methods without all of these seeds are left out; the group is whole where no method has a value.
    """
    found = {method: np.array(values(group, level, method, field)) for method in methods(group, level)}
    seeds = common_seeds(np.isfinite(own) for own in found.values())
    if not seeds:
        return group, {}
    common = {method: own[seeds].tolist() for method, own in found.items() if np.isfinite(own[seeds]).all()}
    return with_seeds(group, seeds), common


def with_seeds(group: Group, places: Iterable[int]) -> Group:
    """The group with only the outcomes at these places."""
    return replace(group, outcomes=tuple(group.outcomes[i] for i in places))


def runtime_ratio(one: Outcome, row: Row) -> float:
    """Seconds to score all items and to edit λ*, divided by the seconds of a fit from scratch."""
    edit = 0.0 if math.isnan(row.edit_seconds) else row.edit_seconds
    return (row.seconds + edit) / one.fit_seconds


def gap(one: Outcome, row: Row) -> float:
    """Test accuracy (loss for real targets) at the edited λ, less that after retraining without the same items."""
    if one.real:
        return row.loss_edited - row.loss_retrained
    return row.accuracy_edited - row.accuracy_retrained


DERIVED = {"gap": gap, "runtime_ratio": runtime_ratio}
"""Values that follow from several fields of a row and its outcome."""


def named(method: Method) -> str:
    """A method as it is called in words."""
    return run_name(*method)

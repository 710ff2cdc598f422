"""The columns of a report's table: which field each shows, how it is written, what it means, and where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Literal

from metafluence.evaluation import SHOWN, Better, Number, standing_numbers
from metafluence.reports.data_dictionary import meaning
from metafluence.reports.groups import Group, words_of
from metafluence.studies import METRIC, Outcome

Place = Literal["page", "paper", "terminal"]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        field: A field of `Row`, a name in `groups.DERIVED`, or `metric.NAME`.
        heading: What stands above it; {again} and the like stand for what the truth is called.
        form: Format of a number, "%" for a percentage, "s" for text.
        meaning: The heading explained.
        better: Which values are better; empty where neither.
        chance: The value of an estimator that knows nothing; one that is not better than it is never the best.
        bounds: The smallest and the largest possible value.
        one_seed: Shown only where every variation has a single seed.
        narrow: Where it stands besides the page: tables for papers and the terminal are narrower.
    """

    field: str
    heading: str
    form: str
    meaning: str
    better: Better = ""
    chance: float | None = None
    bounds: tuple[float, float] = (-inf, inf)
    one_seed: bool = False
    narrow: tuple[Place, ...] = ()

    @classmethod
    def of(cls, field: str, number: Number, one_seed: bool = False, narrow: tuple[Place, ...] = ()) -> Column:
        """The column of a metric's number."""
        facts = (number.form, number.meaning, number.better, number.chance, number.bounds)
        return cls(field, number.label or field.removeprefix(METRIC), *facts, one_seed, narrow)


POSITIVE = (0.0, inf)
BOTH: tuple[Place, ...] = ("paper", "terminal")


@lru_cache(maxsize=1)
def standard_columns() -> tuple[Column, ...]:
    """The columns where a study does not choose. What metrics measure is described by the metrics.

    What a study is mostly read for stands first, for where a page is too narrow for all of it.
    """
    numbers = standing_numbers()

    def of(name: str, one_seed: bool = False, narrow: tuple[Place, ...] = ()) -> Column:
        return Column.of(name, numbers[name], one_seed, narrow)

    return (
        Column(
            "damping", "damping", ".3g", "Added to the curvature: the method's own, or chosen.", one_seed=True,
            narrow=BOTH,
        ),
        of("change_error", narrow=BOTH),
        of("spearman", narrow=BOTH),
        Column(
            "spearman_interval", "95 %", "s", "Bootstrap interval of Spearman over the left-out items.", one_seed=True
        ),
        of("auroc", narrow=BOTH),
        of("accuracy_edited", narrow=BOTH),
        of("accuracy_retrained", narrow=BOTH),
        of("loss_edited", narrow=BOTH),
        of("loss_retrained", narrow=BOTH),
        Column(
            "gap", "edit − {again}", "+.4f",
            "Difference of test quality, edited and {again}, seed by seed.", narrow=("paper",),
        ),
        Column(
            "runtime_ratio", "share of one fit's time", ".3g",
            "Seconds to score all items and to edit λ*, divided by those of one fit from scratch in the same run.",
            better="low", narrow=BOTH, bounds=POSITIVE,
        ),
        of("lds", narrow=("terminal",)),
        Column("lds_interval", "95 %", "s", "Bootstrap interval of LDS over the subsets.", one_seed=True),
        of("found"),
        of("slope", one_seed=True),
        of("change_cosine", one_seed=True),
        of("average_precision", one_seed=True),
        Column("seconds", "seconds", ".3g", "To score all items.", better="low", bounds=POSITIVE),
        Column("products", "products", ".0f", "Hessian products for the scores.", one_seed=True, bounds=POSITIVE),
        Column(
            "residual", "residual", ".0e", "Largest relative residual of the method's solves.",
            one_seed=True, bounds=POSITIVE,
        ),
    )  # fmt: skip


@lru_cache(maxsize=1)
def known_columns() -> dict[str, Column]:
    """Every column that a table can show of any run, by field."""
    found = {name: Column.of(name, number) for name, number in standing_numbers().items()}
    found |= {column.field: column for column in standard_columns()}
    rest = [name for name in SHOWN if name not in found]
    return found | {name: Column(name, name.replace("_", " "), ".3g", meaning("results", name)) for name in rest}


def columns(groups: Sequence[Group], place: Place = "page") -> list[Column]:
    """The columns for these groups: those that their study names, in its order, the same in every place.

    Where it names none: those of all runs that this place has room for, accuracies where there are classes and losses
    where there are real targets, and then the numbers of the study's `metrics`; in the terminal these have tables of
    their own (`metric_tables`).
    """
    own = metric_columns(groups)
    known = {**known_columns(), **own}
    asked = list(dict.fromkeys(name for group in groups for one in group.outcomes for name in one.columns))
    one_seed = all(len(group.outcomes) == 1 for group in groups)
    if asked:  # bootstrap intervals are of one seed
        shown = [known[name] for name in asked if name in known and (one_seed or known[name].form != "s")]
    else:
        shown = [column for column in standard_columns() if _stands(column, groups, place, one_seed)]
        standing = [column.field for column in shown]
        more = [column for name, column in own.items() if name not in standing]
        shown += [one for one in more if place != "terminal" or not one.field.startswith(METRIC)]
    said = words_of(groups).said
    return [replace(column, heading=said(column.heading), meaning=said(column.meaning)) for column in shown]


def comparable(outcomes: Iterable[Outcome]) -> dict[str, Column]:
    """By column of results.csv, what rows can be compared by: where it is known which values are better."""
    own = {name: Column.of(name, number) for one in outcomes for name, number in one.numbers.items()}
    return {name: column for name, column in {**known_columns(), **own}.items() if column.better}


def _stands(column: Column, groups: Sequence[Group], place: Place, one_seed: bool) -> bool:
    """Whether a column that no study has asked for stands in this place."""
    real = {group.outcomes[0].real for group in groups}
    quality = column.field.partition("_")[0]
    if (quality == "accuracy" and False not in real) or (quality == "loss" and True not in real):
        return False
    if column.one_seed and not one_seed:
        return False
    if place == "terminal" and not one_seed and column.field in ("change_error", "lds"):
        return False  # with their intervals all columns together are wider than a terminal
    if column.field == "damping" and not _damped(groups):
        return False
    return place == "page" or place in column.narrow


def metric_columns(groups: Sequence[Group]) -> dict[str, Column]:
    """The columns of the metrics that studies ask for, by field, in the order in which they first stand."""
    outcomes = [one for group in groups for one in group.outcomes]
    numbers = {name: number for one in outcomes for name, number in one.numbers.items()}
    rows = [line.row for one in outcomes for line in one.lines]
    for name in dict.fromkeys(f"{METRIC}{name}" for row in rows for name in row.metrics):
        asked = name.removeprefix(METRIC).partition(" ")[0].rpartition(".")[0]
        about = f"A number that the study asks for: `metafluence show metric {asked}`."
        numbers.setdefault(name, Number(name, meaning=about, label=name.removeprefix(METRIC)))
    return {name: Column.of(name, number) for name, number in numbers.items() if number.shown}


def _damped(groups: Sequence[Group]) -> bool:
    """Whether any run has a damping other than zero."""
    return any(line.row.damping > 0 for group in groups for one in group.outcomes for line in one.lines)
